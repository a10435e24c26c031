# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""A prediction whose results go to a folder, and that goes on where it was interrupted."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import torch

from .backends import Backend, choose_device, load_backend
from .images import Item
from .manifest import COMPLETE, RUNNING, claim, describe, write_manifest
from .outputs import as_rows
from .parts import Counts, Parts
from .predict import as_items, score_batches
from .progress import showing_progress
from .records import Row
from .settings import RunSettings
from .sources import find_images
from .storage import ResultFolder
from .tables import import_pyarrow

if TYPE_CHECKING:
    from .ray_engine import RayEngine

Scored = Iterator[tuple[list[Item], list[Row]]]
Scorer = Callable[[Iterable[list[Item]]], Scored]


@dataclass(frozen=True)
class Outcome:
    """How a run has ended.

    Args:
        counts (Counts): What was found; of a share that is not the last one to end, in its own images.
        table (str | None): The table of scores, ``None`` if other shares are not complete.
        was_complete (bool): Whether there was nothing left to do.
    """

    counts: Counts
    table: str | None
    was_complete: bool = False


def run(settings: RunSettings, load: Callable[[RunSettings], Backend] | None = None) -> Outcome:
    """Score images and write the results.

    Args:
        settings (RunSettings): The settings.
        load (Callable[[RunSettings], Backend] | None): Loads the model, unless Ray's workers do. Defaults to ``None``:
            from the settings' weights.

    Returns:
        Outcome: What was found.

    Raises:
        FileNotFoundError: If there are no such weights or images.
        ValueError: If settings do not fit each other, the weights, or the folder's earlier results.
        OSError: If an image cannot be used and ``on_error`` is "stop", or a file cannot be written. What was done
            before is on disk, and the run goes on from there when it is started again.
    """
    if settings.table == "parquet":
        import_pyarrow()
    if settings.engine == "local":
        return _run(settings, choose_device(settings.accelerator), partial(_scorer, load or load_backend))
    with ray_engine(settings) as ray:
        return _run(settings, ray.device, lambda *_: ray.score)


def _run(settings: RunSettings, device: torch.device, load: Callable[[RunSettings, ResultFolder], Scorer]) -> Outcome:
    """Do what is left to do.

    Args:
        settings (RunSettings): The settings.
        device (torch.device): What the model runs on.
        load (Callable[[RunSettings, ResultFolder], Scorer]): Loads the model.

    Returns:
        Outcome: What was found.
    """
    folder = ResultFolder(settings.out)
    table = f"{folder.path}/scores.{settings.table}"
    description = describe(settings, device)
    if (counts := claim(folder, description, overwrite=settings.overwrite)) is not None:
        folder.remove("parts")  # left by a process that was killed in its last moment
        return Outcome(Counts(**counts), table, was_complete=True)
    images = find_images(settings.data, leave_out=settings.out)
    items = as_items(chain([next(images)], images), settings)  # without images nothing is written
    parts = Parts(folder, settings)
    score = load(settings, folder)
    write_manifest(folder, {"status": RUNNING, **description})
    with showing_progress(settings) as show:
        _collect(score(parts.pending(items)), parts, settings, show)
    total = parts.finish()
    if total is None:
        return Outcome(parts.counts, None)
    write_manifest(folder, {"status": COMPLETE, **description, "counts": vars(total)})
    folder.remove("parts")
    return Outcome(total, table)


@contextmanager
def ray_engine(settings: RunSettings) -> Iterator["RayEngine"]:
    """Start Ray, and stop it in the end.

    Raises:
        ValueError: If Ray is not installed; says how to install it.
    """
    try:
        from .ray_engine import RayEngine
    except ImportError as error:
        msg = f'engine=ray needs Ray ({error}): pip install "anomalib-genclip[scale]".'
        raise ValueError(msg) from error
    engine = RayEngine(settings)
    try:
        yield engine
    finally:
        engine.close()


def _scorer(load: Callable[[RunSettings], Backend], settings: RunSettings, folder: ResultFolder) -> Scorer:
    """Load the model, and return what scores batches with it."""
    backend = load(settings)

    def score(batches: Iterable[list[Item]]) -> Scored:
        for items, records in score_batches(batches, backend, settings):
            yield items, as_rows(records, settings, folder)

    return score


def _collect(scored: Scored, parts: Parts, settings: RunSettings, show: Callable[[int], None]) -> None:
    """Put rows on disk until they end, or the first image that cannot be used."""
    try:
        for items, rows in scored:
            errors = [place for place, row in enumerate(rows) if row["error"]] if settings.on_error == "stop" else []
            usable = errors[0] if errors else len(rows)
            parts.add(items[:usable], rows[:usable])
            show(parts.counts.images)
            if errors:
                msg = (
                    f"{rows[usable]['error']}. {parts.counts.images} images are done. Mend the file, or give "
                    "--on_error record, and start again to go on."
                )
                raise OSError(msg)  # noqa: TRY301  # what is done is written as for any other error
    except BaseException:
        with suppress(OSError):  # the disk may be what has failed
            parts.flush()
        raise
