# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""A prediction that writes to a folder and resumes after an interruption."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import torch
from lightning.pytorch.utilities import rank_zero_info

from .backends import Backend, choose_device, load_backend, model_precision
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
    """Result of a run.

    Args:
        counts (Counts): Numbers of images and regions; those of this shard alone if other shards are not complete.
        table (str | None): Path of the table of scores, ``None`` if other shards are not complete.
        was_complete (bool): Whether the run had been complete before.
    """

    counts: Counts
    table: str | None
    was_complete: bool = False


def run(settings: RunSettings, load: Callable[[RunSettings], Backend] | None = None) -> Outcome:
    """Score images and write the results.

    Args:
        settings (RunSettings): The settings.
        load (Callable[[RunSettings], Backend] | None): Loads the model; not used with Ray. Defaults to ``None``: loads
            the weights of the settings.

    Returns:
        Outcome: Counts and the path of the table.

    Raises:
        FileNotFoundError: If there are no such weights or images.
        ValueError: If settings do not fit each other, the weights, or earlier results in the folder.
        OSError: If an image cannot be used and ``on_error`` is "stop", or a file cannot be written. All earlier rows
            are on disk, and the run resumes there when it is started again.
    """
    if settings.table == "parquet":
        import_pyarrow()
    if settings.engine == "local":
        return _run(settings, choose_device(settings.accelerator), partial(_scorer, load or load_backend))
    with ray_engine(settings) as ray:
        return _run(settings, ray.device, lambda resolved, _: partial(ray.score, resolved))


def _run(settings: RunSettings, device: torch.device, load: Callable[[RunSettings, ResultFolder], Scorer]) -> Outcome:
    """Score the images that have no rows yet, and write the tables.

    Args:
        settings (RunSettings): The settings.
        device (torch.device): Device of the model.
        load (Callable[[RunSettings, ResultFolder], Scorer]): Loads the model.

    Returns:
        Outcome: Counts and the path of the table.
    """
    # Resolved once, so that all of Ray's machines compute in the same precision.
    asked, settings = settings.precision, replace(settings, precision=model_precision(settings, device))
    folder = ResultFolder(settings.out)
    table = f"{folder.path}/scores.{settings.table}"
    description = describe(settings, device)
    if (counts := claim(folder, description, overwrite=settings.overwrite)) is not None:
        folder.remove("parts")  # remain if the earlier process was killed at the very end
        return Outcome(Counts(**counts), table, was_complete=True)
    images = find_images(settings.data, leave_out=settings.out)
    items = as_items(chain([next(images)], images), settings)  # raises here if there are none
    parts = Parts(folder, settings)
    score = load(settings, folder)
    if (asked, settings.precision) == ("auto", "bf16"):
        rank_zero_info(
            "Precision: bf16, which is fast here. --precision float32 gives the scores of `anomalib predict`."
        )
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
    """Start Ray, and stop it at the end.

    Raises:
        ValueError: If Ray is not installed; says how to install it.
    """
    try:
        from .ray_engine import RayEngine
    except ImportError as error:
        msg = f"engine=ray needs Ray ({error}): pip install 'ray[data]' pyarrow."
        raise ValueError(msg) from error
    engine = RayEngine(settings)
    try:
        yield engine
    finally:
        engine.close()


def _scorer(load: Callable[[RunSettings], Backend], settings: RunSettings, folder: ResultFolder) -> Scorer:
    """Load the model, and return a function that scores batches."""
    backend = load(settings)

    def score(batches: Iterable[list[Item]]) -> Scored:
        for items, records in score_batches(batches, backend, settings):
            yield items, as_rows(records, settings, folder)

    return score


def _collect(scored: Scored, parts: Parts, settings: RunSettings, show: Callable[[int], None]) -> None:
    """Write rows to disk, up to the last one or to the first image that stops the run."""
    try:
        for items, rows in scored:
            errors = [place for place, row in enumerate(rows) if row["error"]] if settings.on_error == "stop" else []
            usable = errors[0] if errors else len(rows)
            parts.add(items[:usable], rows[:usable])
            show(parts.counts.images)
            if errors:
                msg = (
                    f"{rows[usable]['error']}. {parts.counts.images} images are done. Repair the file, or use "
                    "--on_error record, and run the command again to resume."
                )
                raise OSError(msg)  # noqa: TRY301  # rows are flushed as for any other error
    except BaseException:
        with suppress(OSError):  # a full disk may be the error
            parts.flush()
        raise
