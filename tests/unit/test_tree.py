# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The package's tree: imports run one way, and nothing grows beyond what reads in one sitting."""

import ast
from collections.abc import Iterable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import anomalib_genclip

PACKAGE = Path(anomalib_genclip.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
TESTS = Path(__file__).parents[1]
# What a folder or module may import of the package; of two that fit, the longer one counts. The method's stages know
# neither each other nor what uses them: only torch_model.py knows all of them.
MAY_IMPORT = {
    "clip": {"clip", "demo.tiny_clip", "utils"},
    "components": {"clip.frozen_clip", "components", "utils"},
    "data": {"data", "utils"},
    "demo": {"demo", "utils"},
    "evaluation": {"data", "evaluation", "utils"},
    "persistence": {"components", "persistence", "processing", "utils"},
    "processing": {"processing", "utils"},
    "utils": {"utils"},
}
STAGES = ("clip", "components")
NOT_IN_STAGES = ("lightning", "anomalib")
# Modules without a test file of their name, and where they are tested: data, and parts that only work together.
TESTED_IN = {
    "app.examples": "unit/app/test_scoring.py",
    "app.page": "unit/app/test_server.py",
    "components.anomaly_map": "unit/test_torch_model.py",
    "components.prompt_learner": "unit/test_torch_model.py",
    "data.normal_images": "unit/callbacks/test_reference_images.py",
    "demo.synthetic": "unit/demo/test_synthetic.py",
    "feature_cache.dataset": "unit/feature_cache/test_writer.py",
    "persistence.export": "integration/test_export.py",
    "persistence.export_metadata": "integration/test_export.py",
    "persistence.exported_model": "integration/test_export.py",
    "prediction.chunks": "unit/prediction/test_run.py",
    "prediction.manifest": "unit/prediction/test_run.py",
    "prediction.schedulers.local": "unit/prediction/test_run.py",
    "prediction.storage": "unit/prediction/test_run.py",
    "settings": "unit/test_model_settings.py",
    "utils.tensors": "robustness/test_hostile_files.py",
}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {module_name(path) for path in FILES}


def own_name(path: Path) -> str:
    return module_name(path).partition(".")[2]


def closest(name: str, parts: Iterable[str]) -> str | None:
    return max((part for part in parts if f"{name}.".startswith(f"{part}.")), key=len, default=None)


def nodes_that_run(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            yield from child.orelse
            continue
        yield child
        yield from nodes_that_run(child)


def imports_of(path: Path) -> set[str]:
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


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_imports_run_one_way(part):
    paths = [path for path in FILES if closest(own_name(path), MAY_IMPORT) == part]
    assert paths
    for path in paths:
        for name in imports_of(path):
            top, _, own = name.partition(".")
            assert top != "anomalib_genclip" or closest(own, MAY_IMPORT[part]), f"{path}: {name}"


@pytest.mark.parametrize("stage", STAGES)
def test_stages_know_neither_lightning_nor_anomalib(stage):
    for path in (PACKAGE / stage).glob("*.py"):
        assert not {name.split(".")[0] for name in imports_of(path)} & {*NOT_IN_STAGES}, path


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
            # The model has the hooks of Lightning and anomalib besides its own methods.
            most = 23 if node.name == "GenCLIP" else 16
            assert sum(isinstance(part, ast.FunctionDef) for part in node.body) <= most, node.name


def test_every_module_has_a_test_file_of_its_name():
    modules = {path: own_name(path) for path in FILES if path.name != "__init__.py"}
    missing, used = [], set()
    for path, name in modules.items():
        test = TESTS / "unit" / path.relative_to(PACKAGE).with_name(f"test_{path.name}")
        part = closest(name, TESTED_IN)
        if test.is_file():
            assert part is None, f"{name} has a test file: take it out of TESTED_IN"
        elif part is None or not (TESTS / TESTED_IN[part]).is_file():
            missing.append(str(test.relative_to(TESTS)))
        used.add(part)
    assert not missing
    assert not TESTED_IN.keys() - used  # all of them are there
