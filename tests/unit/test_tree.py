# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The package's tree: imports run one way, and nothing grows beyond what reads in one sitting."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import anomalib_genclip

PACKAGE = Path(anomalib_genclip.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
# What the method's stages may import of the package. Only torch_model.py knows all of them.
STAGES = {
    "clip": {"clip", "demo.tiny_clip", "utils"},
    "components": {"clip.frozen_clip", "components", "utils"},
}
NOT_IN_STAGES = ("lightning", "anomalib")


def module_name(path: Path) -> str:
    """Return a file's dotted name, "anomalib_genclip.clip" for ``clip/__init__.py``."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {module_name(path) for path in FILES}


def nodes_that_run(node: ast.AST) -> Iterator[ast.AST]:
    """Yield all nodes but those that only type checkers read."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            yield from child.orelse
            continue
        yield child
        yield from nodes_that_run(child)


def imports_of(path: Path) -> set[str]:
    """List the modules that a file imports anywhere; of this package by their full names."""
    package = module_name(path).split(".")[: None if path.name == "__init__.py" else -1]
    found = set()
    for node in nodes_that_run(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*start, *filter(None, [node.module])])
            names = {f"{module}.{alias.name}" for alias in node.names}
            found |= {name if name in NAMES else module for name in names}
    return found


def test_imports_make_no_circle():
    graph = {module_name(path): imports_of(path) & NAMES for path in FILES}
    assert len(graph) == len(NAMES)
    assert graph["anomalib_genclip.torch_model"] >= {"anomalib_genclip.clip.frozen_clip"}  # they are seen
    TopologicalSorter(graph).prepare()  # raises CycleError


@pytest.mark.parametrize("stage", STAGES)
def test_stages_know_neither_lightning_nor_anomalib_nor_what_uses_them(stage):
    for path in (PACKAGE / stage).glob("*.py"):
        for name in imports_of(path):
            own = name.partition("anomalib_genclip.")[2]
            assert name.split(".")[0] not in NOT_IN_STAGES, path
            assert not own or any(f"{own}.".startswith(f"{known}.") for known in STAGES[stage]), f"{path}: {own}"


def test_the_torch_model_does_not_know_lightning():
    assert not {name for name in imports_of(PACKAGE / "torch_model.py") if name.startswith("lightning")}


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_nothing_is_too_long(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            # Without the signature: a model's arguments are its configuration.
            assert node.end_lineno - node.body[0].lineno < 60, node.name
        if isinstance(node, ast.ClassDef):
            assert sum(isinstance(part, ast.FunctionDef) for part in node.body) <= 16, node.name
