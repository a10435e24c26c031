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
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.progress import track

from anomalib_genclip import __version__
from anomalib_genclip.clip.backbone import TINY
from anomalib_genclip.data.normal_images import file_hash
from anomalib_genclip.demo.tiny_clip import TINY_CLIP_FILE
from anomalib_genclip.evaluation.report import Row
from anomalib_genclip.persistence.weights_files import BUNDLED_PROMPTS
from anomalib_genclip.utils.files import atomic_write, is_file
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
        """Return labels and result, stored in ``folder`` or run, or labels and ``error``, which is not stored."""
        if self.failure:
            return {**self.labels, "error": self.failure}
        path = folder / "jobs" / f"{self.key}.json"
        # A stored training result is useless without its checkpoint.
        checkpoint = folder / "checkpoints" / f"{self.key}.ckpt" if self.action == "train" else None
        written = {"checkpoint": str(checkpoint)} if checkpoint else {}
        result = read_result(path) if checkpoint is None or checkpoint.is_file() else None
        if result is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            execute = run_isolated if isolate else run_here
            result = execute(self.action, {**self.settings, **written}, path.with_suffix(".log"))
            if "error" not in result:
                atomic_write(path, json.dumps({"result": result, "digest": digest({}, result)}, indent=2).encode())
        return {**self.labels, **result, **written, **self.labels}


def run_jobs(title: str, jobs: Sequence[Job], folder: Path, isolate: bool) -> list[Row]:
    """Run jobs one after the other with a progress bar; a job that fails is a row with the reason."""
    console = Console(file=sys.stdout)  # jobs redirect stdout; the bar must keep the original stream
    return [job.run(folder, isolate) for job in track(jobs, title, console=console, disable=not jobs)]


def run_here(action: str, settings: Settings, log: Path) -> Settings:
    """Run a job in this process; output and traceback go to ``log``. The result may be ``{"error": reason}``."""
    with log.open("w", encoding="utf-8") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        try:
            return json.loads(json.dumps(ACTIONS[action](settings)))  # as it will be read
        except Exception as error:  # noqa: BLE001  # the other jobs still run
            traceback.print_exc()
            return {"error": reason(error)}


def run_isolated(action: str, settings: Settings, log: Path) -> Settings:
    """Do the same in a process of its own, whose memory is measured separately and which may crash."""
    with TemporaryDirectory() as folder, log.open("w", encoding="utf-8") as file:
        answer = Path(folder) / "result.json"
        command = [sys.executable, "-m", "anomalib_genclip.pipelines.jobs", action, json.dumps(settings), str(answer)]
        ended = subprocess.run([*command, str(log)], stdout=file, stderr=file, check=False)  # noqa: S603  # this module
        if answer.is_file():
            return json.loads(answer.read_text(encoding="utf-8"))
    hint = ", which is what happens when memory runs out" if ended.returncode == -9 else ""
    return {"error": f"the process ended with code {ended.returncode}{hint}; see {log}"}


def reason(error: BaseException) -> str:
    """Summarize an error in one line."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 300 else f"{text[:300]}..."


def read_result(path: Path) -> Settings | None:
    """Read a stored result, ``None`` if it is missing or has been changed."""
    if not path.is_file():
        return None
    with contextlib.suppress(
        ValueError, RecursionError, TypeError, KeyError
    ):  # not JSON, not text, or of something else
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["digest"] == digest({}, stored["result"]):
            return stored["result"]
    logger.warning("%s is not the result of a job, or has been changed: the job is run again.", path)
    return None


def _strings(value: Any) -> list[str]:  # noqa: ANN401
    """List all strings in nested plain data."""
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else []
    return [text for part in parts for text in _strings(part)]


if __name__ == "__main__":  # the process of run_isolated
    own_action, own_settings, own_answer, own_log = sys.argv[1:]
    own_result = run_here(own_action, json.loads(own_settings), Path(own_log))
    atomic_write(Path(own_answer), json.dumps(own_result).encode(), sync=False)
