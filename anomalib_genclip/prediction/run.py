# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""A prediction that writes to a folder and resumes after an interruption."""

from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib import import_module
from itertools import chain
from pathlib import Path
from threading import Thread

from lightning.pytorch.utilities import rank_zero_info
from tqdm import tqdm

from anomalib_genclip.evaluation.good_parts import run_notes
from anomalib_genclip.persistence.weights_files import resolve_weights

from .chunks import Chunks
from .manifest import MANIFEST, claim, describe
from .schedulers import Scheduler
from .settings import RunSettings
from .storage import ResultFolder


@dataclass(frozen=True)
class Outcome:
    """Result of a run: ``counts`` of "images", "anomalous" ones, those with "errors", and "regions", so far.

    The path of the ``table`` of scores is ``None`` if other shards are not complete; ``was_complete``: it was there
    before. ``skipped`` counts suffixes of files that are no images; ``notes`` are lines on files and the alarm level.
    """

    counts: Counter[str]
    table: str | None
    was_complete: bool = False
    skipped: Counter[str] = field(default_factory=Counter)
    notes: tuple[str, ...] = ()


def run(settings: RunSettings) -> Outcome:
    """Score images and write the results.

    Raises:
        FileNotFoundError: If there are no such weights or images.
        ValueError: If settings do not fit each other, the weights, or earlier results in the folder.
        OSError: If an image cannot be used and ``on_error`` is "stop", or a file cannot be written. The chunks that are
            done are on disk, and the run resumes there when it is started again.
    """
    weights = resolve_weights(settings.weights)  # once: hf:// may be another file a moment later
    with closing(_scheduler(settings)) as scheduler:
        resolved = replace(settings, precision=scheduler.precision)
        resolved = replace(resolved, accelerator="cpu" if scheduler.device == "cpu" else "gpu")
        folder, manifest = ResultFolder(settings.out), describe(resolved, weights, scheduler.device)
        claim(folder, manifest, overwrite=settings.overwrite)
        table = f"{folder.path}/scores.{settings.table}"
        chunks = Chunks(folder, resolved, manifest)
        if folder.exists(f"scores.{settings.table}"):
            return Outcome(chunks.count(), table, was_complete=True)
        pending = chunks.pending()
        if (first := next(pending, None)) is not None:
            score = scheduler.load(resolved, weights)
            if settings.false_discovery_rate and not (scheduler.calibration or {}).get("scores"):
                msg = f"false_discovery_rate needs weights that were calibrated, and {settings.weights} were not."
                raise ValueError(msg)
            if (settings.precision, resolved.precision) == ("auto", "bf16"):
                rank_zero_info("bf16 is fast here; --precision float32 gives the scores of `anomalib predict`.")
            folder.write(MANIFEST, manifest)
            with _progress(chunks) as bar:
                for chunk in score(chain([first], pending)):
                    bar.update(len(chunk.images))
        is_complete = chunks.finish()
        notes = tuple(chunks.faults())
        if first is not None:  # else no model was loaded
            notes += run_notes(chunks.scores, settings.image_threshold, scheduler.calibration)
        return Outcome(chunks.counts, table if is_complete else None, skipped=chunks.skipped, notes=notes)


def _scheduler(settings: RunSettings) -> Scheduler:
    try:
        module = import_module(f"{__package__}.schedulers.{settings.engine}")
    except ImportError as error:
        msg = f"engine={settings.engine} needs a package that is not installed: pip install {error.name}."
        raise ValueError(msg) from error
    return module.Scheduler(settings)


@contextmanager
def _progress(chunks: Chunks) -> Iterator[tqdm]:
    """Show progress if the output is a terminal. Images are counted meanwhile; a list from a pipe is read once."""
    with tqdm(unit=" images", initial=chunks.done, disable=None) as bar:

        def count() -> None:
            with suppress(OSError, ValueError):  # the run reports these itself
                bar.total = sum(1 for _ in chunks.find()) // chunks.settings.shard_and_count[1]

        data = chunks.settings.data
        if not (bar.disable or data == "-" or Path(data).is_fifo()):
            Thread(target=count, daemon=True).start()
        yield bar
