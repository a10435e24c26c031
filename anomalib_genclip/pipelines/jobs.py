# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Jobs whose results are stored, so that an interrupted comparison resumes."""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from anomalib_genclip import __version__
from anomalib_genclip.clip.backbone import TINY
from anomalib_genclip.demo.tiny_clip import TINY_CLIP_FILE
from anomalib_genclip.evaluation.tables import Row
from anomalib_genclip.persistence.weights_files import BUNDLED_PROMPTS
from anomalib_genclip.utils.files import atomic_write, is_file

from .task import Settings, run_here, run_isolated

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """A unit of work, such as testing a model on a category.

    Args:
        settings (Settings): Everything that the result depends on, with an ``action`` of :data:`.task.ACTIONS`.
        labels (Row): Columns that identify the job in tables.
        failure (str): Why the job cannot run; empty if it can. Defaults to ``""``.
    """

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
        files = {path: _file_hash(Path(path)) for path in names if is_file(path)}
        if {TINY, *BUNDLED_PROMPTS} & set(names):
            files |= {path.name: _file_hash(path) for path in sorted(TINY_CLIP_FILE.parent.glob("*.safetensors"))}
        return _hash([self.settings, files, __version__, version("anomalib")])

    def run(self, folder: Path, isolate: bool) -> Row:
        """Return the stored result, or run the job and store its result; failures are not stored.

        Args:
            folder (Path): Folder of the results of all jobs.
            isolate (bool): Run in a process of its own.

        Returns:
            Row: Labels and results, or labels and ``error``.
        """
        if self.failure:
            return {**self.labels, "error": self.failure}
        path = folder / "jobs" / f"{self.key}.json"
        # A stored training result is useless without its checkpoint.
        checkpoint = folder / "checkpoints" / f"{self.key}.ckpt" if self.settings["action"] == "train" else None
        written: Row = {} if checkpoint is None else {"checkpoint": str(checkpoint)}
        result = read_result(path) if checkpoint is None or checkpoint.is_file() else None
        if result is None:
            execute = run_isolated if isolate else run_here
            result = execute({**self.settings, **written}, path.with_suffix(".log"))
            if "error" not in result:
                write_result(path, result)
        return {**self.labels, **result, **written, **self.labels}


def run_jobs(title: str, jobs: Sequence[Job], folder: Path, isolate: bool) -> list[Row]:
    """Run jobs one after the other with a progress bar; a job that fails is a row with the reason."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    # Jobs redirect stdout and stderr; the bar must keep the original stream and not redirect them itself.
    console = Console(file=Console().file)
    rows = []
    with Progress(*columns, console=console, redirect_stdout=False, redirect_stderr=False, disable=not jobs) as bars:
        bar = bars.add_task(title, total=len(jobs))
        for job in jobs:
            bars.update(bar, description=" · ".join([title, *map(str, job.labels.values())]))
            rows.append(job.run(folder, isolate))
            bars.advance(bar)
        bars.update(bar, description=title)
    return rows


def read_result(path: Path) -> Row | None:
    """Read a stored result, ``None`` if it is missing or has been changed."""
    if not path.is_file():
        return None
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):  # not JSON, or not text
        stored = None
    if not isinstance(stored, dict) or stored.get("digest") != _hash(stored.get("result")):
        logger.warning("%s is not the result of a job, or has been changed: the job is run again.", path)
        return None
    return stored["result"]


def write_result(path: Path, result: Row) -> None:
    """Store a result atomically."""
    result = json.loads(json.dumps(result))  # as it will be read: keys become strings
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, json.dumps({"result": result, "digest": _hash(result)}, indent=2).encode())


def _strings(value: Any) -> list[str]:  # noqa: ANN401
    """List all strings in nested plain data."""
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else []
    return [text for part in parts for text in _strings(part)]


def _hash(value: Any) -> str:  # noqa: ANN401
    """Hash plain data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _file_hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
