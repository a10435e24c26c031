# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Run a representative part of the tests against other versions of what the package builds on: ``make test-matrix``.

Each environment is made, used for its rows and removed again, so that no more than one is on the disk. Needs a
package index, about 8 GB of disk and half an hour on two cores. Versions of Python that are not on the PATH are left
out and named. The table at the end is that of docs/versions.md.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
MAIN_PYTHON = "3.11"
# The floor is anomalib 2.7's own: what its extras for torch ask for.
OLDEST_TORCH = ("torch==2.10.0", "torchvision==0.25.0")
NEWEST_TORCH = ("torch", "torchvision")
OPEN_CLIPS = ("open_clip_torch==2.24.0", "open_clip_torch==2.26.1", "open_clip_torch")
TESTS = (
    "tests/unit/clip",
    "tests/unit/components",
    "tests/unit/test_torch_model.py",
    "tests/unit/test_lightning_model.py::test_cross_dataset_trains_and_tests_per_category",
    "tests/unit/persistence/test_prompts_file.py::test_prompts_file_restores_model_and_settings",
    "tests/unit/test_plugin.py::test_registration[command line]",
)
DISTRIBUTIONS = ("torch", "open_clip_torch", "anomalib")


@dataclass(frozen=True)
class Environment:
    """What one virtual environment is made of."""

    python: str  # version, such as "3.11", or the path of one
    torch: tuple[str, ...]  # requirements on torch and torchvision
    open_clips: tuple[str, ...]  # requirements on open_clip, installed and tested one after the other


def environments(pythons: Sequence[str]) -> list[Environment]:
    """List every pair of torch and open_clip on one Python, and the newest pair on the other Pythons."""
    full = [Environment(MAIN_PYTHON, torch, OPEN_CLIPS) for torch in (NEWEST_TORCH, OLDEST_TORCH)]
    others = [Environment(python, NEWEST_TORCH, OPEN_CLIPS[-1:]) for python in pythons if python != MAIN_PYTHON]
    return [*full, *others] if MAIN_PYTHON in pythons else others


def find_python(version: str) -> str | None:
    """Find an interpreter that starts: a version manager's shim may stand for one that is not there."""
    path = shutil.which(version if "/" in version else f"python{version}")
    if path is None or subprocess.run([path, "--version"], capture_output=True, check=False).returncode != 0:
        return None
    return path


def versions_in(python: Path) -> list[str]:
    """Ask an environment for the versions it really has."""
    program = (
        "import platform, sys; from importlib.metadata import version as v; "
        "print(platform.python_version(), *map(v, sys.argv[1:]))"
    )
    done = subprocess.run([python, "-c", program, *DISTRIBUTIONS], capture_output=True, text=True, check=True)
    return done.stdout.split()


def run_row(python: Path, log: Path) -> str:
    """Run the tests and return pytest's last line."""
    with log.open("w") as file:
        command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS]
        subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, check=False)
    return log.read_text().splitlines()[-1]


def run_environment(environment: Environment, python: str, folder: Path) -> list[list[str]]:
    """Make an environment, test each open_clip in it, and remove it."""
    venv = folder / "venv"
    own = venv / "bin" / "python"
    pip = [own, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    try:
        subprocess.run([python, "-m", "venv", venv], check=True)
        subprocess.run([*pip, *environment.torch, "--editable", ROOT, "pytest"], check=True)
        rows = []
        for open_clip in environment.open_clips:
            subprocess.run([*pip, "--upgrade", open_clip, *environment.torch], check=True)
            log = folder / f"{Path(environment.python).name}_{'_'.join((*environment.torch, open_clip))}.log"
            rows.append([*versions_in(own), run_row(own, log)])
            print(*rows[-1], sep=" | ", flush=True)
        return rows
    finally:
        shutil.rmtree(venv, ignore_errors=True)


def main() -> int:
    """Run the rows, print the table and return 1 if a row failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where environments and logs go; by default a temporary folder")
    parser.add_argument(
        "--python", nargs="*", default=PYTHONS, help="these versions of Python, or paths of interpreters"
    )
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="matrix-"))
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for environment in environments(arguments.python):
        python = find_python(environment.python)
        if python is None:
            print(f"Python {environment.python} is not on the PATH: left out.")
            continue
        rows += run_environment(environment, python, folder)
    print("\n| Python | torch | open_clip_torch | anomalib | tests |\n|---|---|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    return int(not rows or any("failed" in row[-1] or "error" in row[-1] or "passed" not in row[-1] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
