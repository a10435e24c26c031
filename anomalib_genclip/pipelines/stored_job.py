# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""A job that is done once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anomalib.pipelines.components.base import Job

from .store import job_key, read_result, write_result
from .task import Settings, run_here, run_isolated


@dataclass
class JobResult:
    """What a job hands to its class's ``collect()``.

    Args:
        folder (Path): Folder of the pipeline's results.
        row (dict[str, Any]): Labels, and figures or the reason under ``error``.
    """

    folder: Path
    row: dict[str, Any]


class StoredJob(Job):
    """A job whose result is kept in ``<jobs_folder>/jobs``, so that it is not run again.

    Failures are not kept: what was missing may be there next time.

    Args:
        settings (Settings): All that the result depends on; see :func:`.store.job_key`.
        labels (dict[str, Any]): What names the job in tables.
        folder (Path): Folder of the pipeline's results.
        jobs_folder (Path): Folder of finished jobs, which pipelines may share.
        isolate (bool): Run in a process of its own.
        failure (str): Why the job cannot be run, if so. Defaults to ``""``.
    """

    def __init__(
        self,
        settings: Settings,
        labels: dict[str, Any],
        folder: Path,
        jobs_folder: Path,
        isolate: bool,
        failure: str = "",
    ) -> None:
        self.settings = settings
        self.labels = labels
        self.folder = folder
        self.jobs_folder = jobs_folder
        self.isolate = isolate
        self.failure = failure
        self.key = job_key(settings)

    def __str__(self) -> str:
        """Name the job for people."""
        return " · ".join([self.name, *map(str, self.labels.values())])

    def run(self, task_id: int | None = None) -> JobResult:
        """Return the kept result, or do the work and keep it."""
        del task_id
        path = self.jobs_folder / "jobs" / f"{self.key}.json"
        result = {"error": self.failure} if self.failure else self.kept(path)
        if result is None:
            execute = run_isolated if self.isolate else run_here
            result = execute(self.complete_settings(), path.with_suffix(".log"))
            if "error" not in result:
                write_result(path, result)
        return JobResult(self.folder, {**self.labels, **result, **self.labels})

    def kept(self, path: Path) -> dict[str, Any] | None:
        """Read the kept result, ``None`` if there is none that is still good."""
        return read_result(path)

    def complete_settings(self) -> Settings:
        """Add to the settings what does not belong to the job's identity."""
        return self.settings
