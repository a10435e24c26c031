# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Jobs whose results are stored, so that an interrupted comparison resumes, each in a process of its own.

anomalib's ``SerialRunner`` does not fit: it ends with an error if a job fails, and shows no number of jobs.
"""

import contextlib
import json
import logging
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from anomalib_genclip import __version__
from anomalib_genclip.clip.backbone import TINY
from anomalib_genclip.demo.tiny_clip import TINY_CLIP_FILE
from anomalib_genclip.evaluation.report import Row
from anomalib_genclip.persistence.weights_files import BUNDLED_PROMPTS
from anomalib_genclip.utils.files import atomic_write, file_hash, is_file
from anomalib_genclip.utils.tensors import digest

from .job_actions import Settings, test_model, test_variant, train_model

logger = logging.getLogger(__name__)

ACTIONS: dict[str, Callable[[Settings], Settings]] = {"train": train_model, "test": test_model, "ablate": test_variant}


@dataclass(frozen=True)
class Job:
    """A unit of work, such as testing a model on a category.

    Args:
        action (str): Name of its function in :data:`ACTIONS`.
        settings (Settings): Everything that the result depends on.
        labels (Row): Columns that identify the job in tables.
        failure (str): Why the job cannot run; empty if it can. Defaults to ``""``.
    """

    action: str
    settings: Settings
    labels: Row
    failure: str = ""

    @cached_property
    def key(self) -> str:
        """Hash of everything that the result depends on.

        That is the settings, the contents of the files that they name (a prompts file may be replaced) and of the
        bundled weights, and the versions of this package and of anomalib.
        """
        names = _strings(self.settings)
        files = {path: file_hash(path) for path in names if is_file(path)}
        if {TINY, *BUNDLED_PROMPTS} & set(names):
            files |= {path.name: file_hash(path) for path in sorted(TINY_CLIP_FILE.parent.glob("*.safetensors"))}
        return digest({}, [self.action, self.settings, files, __version__, version("anomalib")])[:16]

    def run(self, folder: Path, isolate: bool) -> Row:
        """Return labels and result, or labels and ``error``; only what has no stored result, or an error, is run."""
        if self.failure:
            return {**self.labels, "error": self.failure}
        path = folder / "jobs" / f"{self.key}.json"
        written, result = {}, read_result(path)
        if self.action == "train":
            checkpoint = folder / "checkpoints" / f"{self.key}.ckpt"
            written = {"checkpoint": str(checkpoint)}
            result = result if checkpoint.is_file() else {}  # useless without its checkpoint
        if not result or "error" in result:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            (run_isolated if isolate else run_here)(self.action, {**self.settings, **written}, path)
            result = read_result(path)
        return {**self.labels, **result, **written, **self.labels}


def run_jobs(title: str, jobs: Sequence[Job], folder: Path, isolate: bool) -> list[Row]:
    """Run jobs one after the other with a progress bar; a job that fails is a row with the reason."""
    console = Console(file=sys.stdout)  # jobs redirect stdout; the bar must keep the original stream
    return [job.run(folder, isolate) for job in track(jobs, title, console=console, disable=not jobs)]


def run_here(action: str, settings: Settings, path: Path) -> None:
    """Run a job and write its result or ``{"error": reason}``; output and traceback go to the log beside it."""
    log = path.with_suffix(".log")
    with log.open("a", encoding="utf-8") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        try:
            result = ACTIONS[action](settings)
        except Exception as error:  # noqa: BLE001  # the other jobs still run
            traceback.print_exc()
            result = {"error": reason(error)}
    atomic_write(path, json.dumps(result, indent=2).encode())


def run_isolated(action: str, settings: Settings, path: Path) -> None:
    """Do the same in a process of its own, whose memory is measured separately and which may crash."""
    command = [sys.executable, "-m", "anomalib_genclip.pipelines.jobs", action, json.dumps(settings), str(path)]
    with path.with_suffix(".log").open("a", encoding="utf-8") as log:
        ended = subprocess.run(command, stdout=log, stderr=log, check=False)  # noqa: S603  # this very module
    if not path.is_file():
        hint = ", which is what happens when memory runs out" if ended.returncode == -9 else ""
        result = {"error": f"the process ended with code {ended.returncode}{hint}; see {log.name}"}
        atomic_write(path, json.dumps(result).encode())


def reason(error: BaseException) -> str:
    """Summarize an error in one line."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 300 else f"{text[:300]}..."


def read_result(path: Path) -> Settings:
    """Read a stored result; an empty one if there is none."""
    if not path.is_file():
        return {}
    with contextlib.suppress(ValueError, TypeError, RecursionError):  # not JSON, or of something else
        return dict(json.loads(path.read_text(encoding="utf-8")))
    logger.warning("%s is not the result of a job: the job is run again.", path)
    return {}


def _strings(value: Any) -> list[str]:  # noqa: ANN401
    """List all strings in nested plain data."""
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else []
    return [text for part in parts for text in _strings(part)]


if __name__ == "__main__":  # the process of run_isolated
    run_here(sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3]))
