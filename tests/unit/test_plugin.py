# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""anomalib knows this package's names after an install and nothing else, whatever is imported first.

What a process has imported cannot be undone, so each case is a small program for a fresh interpreter. Importing
anomalib takes seconds there: the programs run two at a time, and each checks all that its interpreter can tell.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from anomalib_genclip.plugin import CLASSES, repeat_error

Done = subprocess.CompletedProcess

# The statement that a program starts with -> what must hold right after it, before anything else is imported.
FIRST_IMPORTS = {
    "import torch": "",
    "import anomalib.data": "anomalib.data.CrossDataset",
    "import anomalib.models": "anomalib.models.GenCLIP",
    "import anomalib.engine": "import anomalib.models; anomalib.models.GenCLIP",
    "import anomalib.cli": "import anomalib.models; anomalib.models.GenCLIP",
    "from anomalib_genclip import GenCLIP": "import anomalib.models; assert anomalib.models.GenCLIP is GenCLIP",
    "from anomalib_genclip import CrossDataset": "from anomalib import data; assert data.CrossDataset is CrossDataset",
    "import anomalib_genclip.data": "import anomalib.data; anomalib.data.CrossDataset",
    "import anomalib_genclip.demo.synthetic": "import anomalib.data; anomalib.data.SyntheticDefects",
}

ALL_NAMES = """
import sys
import anomalib.data
import anomalib.models
import anomalib_genclip
from anomalib.models import list_models
from anomalib.models.components import AnomalibModule

model = anomalib_genclip.GenCLIP
assert anomalib.models.GenCLIP is anomalib.models.image.GenCLIP is model
assert "GenCLIP" in list_models("pascal")
assert [cls for cls in AnomalibModule.__subclasses__() if cls.__name__ == "GenCLIP"] == [model]
assert anomalib.data.CrossDataset is anomalib_genclip.CrossDataset
assert anomalib.data.SyntheticDefects is anomalib_genclip.SyntheticDefects
assert not [finder for finder in sys.meta_path if type(finder).__module__ == "anomalib_genclip.plugin"]
"""


COMMAND_LINE = """
import contextlib, io
from anomalib.cli import AnomalibCLI

def output_of(*args):
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.suppress(SystemExit):
        AnomalibCLI(["train", *args])
    return output.getvalue()

assert "--model.backbone" in output_of("--model.help", "GenCLIP")
assert "--data.source_categories" in output_of("--data.help", "CrossDataset")
for prefix in "", "anomalib_genclip.":
    model = "--model", prefix + "GenCLIP", "--model.backbone", "ViT-B-32"
    data = "--data", prefix + "CrossDataset", "--data.source", "MVTecAD", "--data.target", "Visa"
    config = output_of(*model, *data, "--print_config")
    assert "class_path: anomalib_genclip.GenCLIP" in config, config
    assert "class_path: anomalib_genclip.CrossDataset" in config, config
"""

SPAWNED = """
from multiprocessing import get_context

with get_context("spawn").Pool(1) as pool:
    assert pool.apply(eval, ("__import__('anomalib.models').models.GenCLIP.__name__",)) == "GenCLIP"
    assert pool.apply(eval, ("__import__('anomalib.data').data.CrossDataset.__name__",)) == "CrossDataset"
"""

WITHOUT_TORCH = """
import sys
assert not [name for name in sys.modules if name.startswith("anomalib")]
"""

# What torch does with its entry points at the end of its import.
WITH_TORCH_ALONE = """
import sys
from importlib.metadata import entry_points
import torch
before = set(sys.modules)
for entry_point in entry_points(group="torch.backends", name="anomalib_genclip"):
    entry_point.load()()
assert set(sys.modules) - before == {"anomalib_genclip", "anomalib_genclip.plugin"}
"""

FULL_PATHS_ALONE = """
import sys
import anomalib.models
assert "anomalib_genclip" not in sys.modules
from anomalib_genclip import CrossDataset, GenCLIP
assert anomalib.models.GenCLIP is GenCLIP
assert anomalib.data.CrossDataset is CrossDataset
"""

BROKEN = f"""
import sys, warnings
for module, _ in {list(CLASSES.values())}:
    sys.modules[module] = None  # importing it raises
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import anomalib.data, anomalib.models
told = sorted(str(warning.message) for warning in caught if "anomalib-genclip" in str(warning.message))
assert len(told) == {len(CLASSES)}, told
for name, message in zip({sorted(CLASSES)}, told):
    assert name in message and "ModuleNotFoundError" in message, told
    assert not hasattr(anomalib.models, name) and not hasattr(anomalib.data, name)
assert type(anomalib.models.get_model("padim", pre_trained=False)).__name__ == "Padim"
"""

MISTYPED = """
import sys
from anomalib.cli.cli import main

sys.argv[1:] = ["test", "--model", "GenCLIP", "--model.weights", "typo.safetensors", "--data", "SyntheticDefects"]
main()
"""

NO_ENTRY_POINTS = {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
OUR_WARNINGS_ARE_ERRORS = ("-W", "error::RuntimeWarning")

# Case -> program, options of the interpreter, environment.
CASES: dict[str, tuple[str, Sequence[str], dict[str, str]]] = {
    **{
        f"known after: {first}": (f"{first}\n{then}\n{ALL_NAMES}", OUR_WARNINGS_ARE_ERRORS, {})
        for first, then in FIRST_IMPORTS.items()
    },
    "command line": (COMMAND_LINE, (), {}),
    "mistyped": (MISTYPED, (), {}),
    "known in a spawned process": (SPAWNED, (), {}),
    "a start without torch pays nothing": (WITHOUT_TORCH, (), {}),
    "torch alone pays for two small modules": (WITH_TORCH_ALONE, (), NO_ENTRY_POINTS),
    "full paths work without the entry point": (FULL_PATHS_ALONE, OUR_WARNINGS_ARE_ERRORS, NO_ENTRY_POINTS),
    "a broken plugin warns and leaves anomalib working": (BROKEN, (), {}),
}


def _run(program: str, options: Sequence[str], environment: dict[str, str]) -> "Done[str]":
    return subprocess.run(
        [sys.executable, *options, "-c", program],
        env={**os.environ, **environment},
        cwd=Path(sys.executable).parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


UNION = """Does not validate against any of the Union subtypes
Errors:
  - Expected a <class 'NoneType'>
  - There are no weights.
    Alternatives:
      - tiny
Given value type: <class 'jsonargparse._namespace.Namespace'>
Given value: Namespace(class_path='anomalib_genclip.{}', init_args=Namespace(backbone=None))"""


@pytest.mark.parametrize(
    ("text", "last"),
    [
        (UNION.format("GenCLIP"), "\nerror: There are no weights.\nAlternatives:\n  - tiny\n"),
        (UNION.format("Other"), ""),
        ("The loss is nan: GenCLIP has diverged.", ""),
    ],
)
def test_what_matters_of_an_error_of_the_command_line_comes_last(monkeypatch, capsys, text, last):
    monkeypatch.setattr(sys, "last_value", ValueError(text), raising=False)
    repeat_error()
    assert capsys.readouterr().err == last


@pytest.fixture(scope="module")
def started(request) -> Iterator[dict[str, "Future[Done[str]]"]]:
    own = [item.callspec.params for item in request.session.items if item.path == request.path]
    selected = [params["case"] for params in own if "case" in params]
    with ThreadPoolExecutor(max_workers=2) as pool:
        yield {case: pool.submit(_run, *CASES[case]) for case in selected}
        pool.shutdown(cancel_futures=True)


SLOW = {f"known after: {first}" for first in (*FIRST_IMPORTS,)[3:] if not first.endswith("import GenCLIP")}


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow) if case in SLOW else case for case in CASES]
)
def test_registration(case, started):
    done = started[case].result()
    assert (done.returncode == 0) == (case != "mistyped"), done.stderr[-4000:]
    if case == "mistyped":
        assert done.stderr.splitlines()[-1].startswith("error: There are no weights typo.safetensors. Give a file, ")
