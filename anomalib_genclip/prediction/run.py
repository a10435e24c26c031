# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""A prediction whose results go to a folder, and that goes on where it was interrupted."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain

from .backends import load_backend
from .drawings import write_files
from .images import Item
from .manifest import COMPLETE, RUNNING, claim, describe, write_manifest
from .parts import REGIONS, Counts, Parts, Row
from .predict import as_items, score_batches
from .progress import showing_progress
from .records import Record
from .settings import RunSettings
from .sources import find_images
from .storage import ResultFolder
from .tables import import_pyarrow

Scored = Iterator[tuple[list[Item], list[Row]]]


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


def run(settings: RunSettings) -> Outcome:
    """Score images and write the results.

    Args:
        settings (RunSettings): The settings.

    Returns:
        Outcome: What was found.

    Raises:
        FileNotFoundError: If there are no such weights or images.
        ValueError: If settings do not fit each other, the weights, or the folder's earlier results.
        OSError: If an image cannot be used and ``on_error`` is "stop", or a file cannot be written. What was done
            before is on disk, and the run goes on from there when it is started again.
    """
    folder = ResultFolder(settings.out)
    table = f"{folder.path}/scores.{settings.table}"
    if settings.table == "parquet":
        import_pyarrow()
    description = describe(settings)
    if (counts := claim(folder, description, overwrite=settings.overwrite)) is not None:
        return Outcome(Counts(**counts), table, was_complete=True)
    images = find_images(settings.data, leave_out=settings.out)
    items = as_items(chain([next(images)], images), settings)  # without images nothing is written
    parts = Parts(folder, settings)
    score = _scorer(settings, folder)
    write_manifest(folder, {"status": RUNNING, **description})
    with showing_progress(settings) as show:
        _collect(score(parts.pending(items)), parts, settings, show)
    total = parts.finish()
    if total is None:
        return Outcome(parts.counts, None)
    write_manifest(folder, {"status": COMPLETE, **description, "counts": vars(total)})
    folder.remove("parts")
    return Outcome(total, table)


def as_rows(records: Iterable[Record], settings: RunSettings, folder: ResultFolder) -> list[Row]:
    """Write the files of images, and make the rows of a part of them."""
    rows = []
    for record in records:
        write_files(record, settings, folder)
        rows.append(record.as_row() | ({REGIONS: record.region_rows()} if settings.regions else {}))
    return rows


def _scorer(settings: RunSettings, folder: ResultFolder) -> Callable[[Iterable[list[Item]]], Scored]:
    """Load the model, and return what scores batches with it."""
    if settings.engine == "ray":
        from .ray_engine import RayEngine

        return RayEngine(settings, folder).score
    backend = load_backend(settings)

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
