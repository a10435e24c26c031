# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The pages: links lead somewhere, none is long, and the tree of files is the one that is there."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
CODE = re.compile(r"```.*?```", re.DOTALL)


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", CODE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_to_files_and_headings(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", CODE.sub("", page.read_text(encoding="utf-8")))
    broken = []
    for link in links:
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            broken.append(link)
    assert not broken


def test_readme_reaches_every_page_and_all_are_short() -> None:
    texts = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
    assert not [name for name in texts if name != "README.md" and f"]({name}" not in texts["README.md"]]
    assert not [name for name, text in texts.items() if len(text.splitlines()) > 150]
    assert len(texts["README.md"].split()) <= 1300
    assert sum(len(text.split()) for text in texts.values()) <= 13_800


def test_tree_in_the_docs_is_the_tree_of_the_package() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    tree = next(block for block in CODE.findall(text) if "anomalib_genclip/\n" in block)
    named, folders = set(), []
    for indent, name in re.findall(r"^( *)(\S+\.py|\S+/)(?= |$)", tree, re.MULTILINE):
        folders[len(indent) // 2 :] = [name.rstrip("/")]
        named.add("/".join(folders))
    package = ROOT / "anomalib_genclip"
    files = {path.relative_to(ROOT).as_posix() for path in package.rglob("*.py") if path.name != "__init__.py"}
    files = {file for file in files if "/synthetic/" not in file}
    listed = {name for name in named if name.startswith("anomalib_genclip/") and name.endswith(".py")}
    assert files == listed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_name_files_that_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    files = re.findall(r"\b((?:examples|configs|tests)/[\w/]+\.(?:py|yaml))", text)
    names = re.findall(r"genclip config ([\w/]+)", text)
    assert not [file for file in files if not (ROOT / file).is_file()]
    assert not [name for name in names if not (ROOT / "configs" / f"{name}.yaml").is_file()]


def test_citation_names_paper_and_version() -> None:
    from anomalib_genclip import __version__

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    assert citation["preferred-citation"]["url"].endswith("2504.14919")
