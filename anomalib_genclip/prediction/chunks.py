# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Chunks: what a run consists of, and which of them are done."""

import hashlib
import json
import os
from array import array
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import false_discovery_control

from anomalib_genclip.utils import messages

from .output import COLUMNS, REGION_COLUMNS, WRITERS, Row, in_lists
from .settings import RunSettings
from .sources import Source, find_images
from .storage import ResultFolder

FOLDER = "chunks"
REGIONS = "region_rows"  # key of an image's regions in its row
FAULTS = "faults"  # key of what is not used of its file as it may be meant


class Chunk(NamedTuple):
    """Images that are scored together, in whole batches, and the file of their rows in the results folder, JSON lines.

    The file's name has the position of the chunk among those of all shards, and a hash of the run and of the paths.
    """

    images: list[Source]
    file: str


class Chunks:
    """The chunks of a run.

    A chunk is done if its file is there. Nobody changes or removes a file, so that any number of processes can work on
    a run, and each can tell what is left. ``run_id`` is what distinguishes this run from others.
    """

    def __init__(self, folder: ResultFolder, settings: RunSettings, run_id: bytes) -> None:
        self.folder, self.settings, self.run_id = folder, settings, run_id
        self.find = partial(find_images, settings.data, (settings.out, settings.ignore_mask))  # of all shards
        self.done = 0  # images of this shard that were done before
        self.skipped: Counter[str] = Counter()  # suffixes of files that are no images
        self.counts: Counter[str] = Counter()  # of all chunks that are done, once they are read
        self.scores = array("d")
        self._faults: dict[str, list[Any]] = {}  # the first image and their number
        self._files: list[str] = []  # one per chunk, of all shards

    def pending(self) -> Iterator[Chunk]:
        """Find images, and yield the chunks of this shard to do; a ``ValueError`` if one that is done has others."""
        number, count = self.settings.shard_and_count
        present = {name.partition("-")[0]: f"{FOLDER}/{name}" for name in self.folder.names(FOLDER)}
        for position, found in enumerate(in_lists(self.find(self.skipped), self.settings.chunk_size)):
            digest = hashlib.sha256(b"\0".join([self.run_id, *(os.fsencode(image.path) for image in found)]))
            place = f"{position:08}"
            file = f"{FOLDER}/{place}-{digest.hexdigest()[:16]}.jsonl"
            self._files.append(file)
            self._refuse({present.get(place, file)} - {file})
            if position % count == number - 1:
                if place in present:
                    self.done += len(found)
                else:
                    yield Chunk(found, file)

    def finish(self) -> bool:
        """Count, write the tables if all chunks are done, and return whether they are.

        Processes that do so at once write the same bytes. A ``ValueError`` names a chunk of other images.
        """
        present = {f"{FOLDER}/{name}" for name in self.folder.names(FOLDER)}
        self._refuse(present - {*self._files})
        if len(present) < len(self._files):
            self.count()
            return False
        kind = self.settings.table
        if self.settings.regions:
            with self.folder.open(f"regions.{kind}") as file:
                rows = rows_of(self.folder, self._files)
                WRITERS[kind](file, REGION_COLUMNS, (region for row in rows for region in row[REGIONS]))
        with self.folder.open(f"scores.{kind}") as file:  # the last one: where it is, the run is complete
            WRITERS[kind](file, COLUMNS, self._counted(self._files))
        return True

    def count(self) -> Counter[str]:
        """Count the rows of all chunks that are done."""
        deque(self._counted([f"{FOLDER}/{name}" for name in self.folder.names(FOLDER)]), maxlen=0)
        return self.counts

    def _counted(self, files: list[str]) -> Iterator[Row]:
        """Count "images", "anomalous" ones, those with "errors", and "regions", and keep scores, while rows pass."""
        highest = self._highest_discovery(files) if self.settings.false_discovery_rate else None
        for row in rows_of(self.folder, files):
            if highest is not None and row["score"] is not None:
                row["label"] = "anomalous" if row["p_value"] <= highest else "normal"
            anomalous, errors = int(row["label"] == "anomalous"), int(row["error"] is not None)
            self.counts.update(images=1, anomalous=anomalous, errors=errors, regions=row["regions"] or 0)
            if row["score"] is not None:
                self.scores.append(row["score"])
            for fault in row.get(FAULTS, ()):
                self._faults.setdefault(fault, [row["path"], 0])[1] += 1
            yield row

    def faults(self) -> list[str]:
        """Return a line for each fault of the files of the rows that were counted."""
        return [
            f"{messages.counted(number, 'image')} with {fault}: {first}{' and others' * (number > 1)}."
            for fault, (first, number) in self._faults.items()
        ]

    def _highest_discovery(self, files: list[str]) -> float:
        """Return the highest p-value that the false discovery rate lets be anomalous."""
        values = np.fromiter((row["p_value"] for row in rows_of(self.folder, files) if row["score"] is not None), float)
        return float(values[false_discovery_control(values) <= self.settings.false_discovery_rate].max(initial=0.0))

    def _refuse(self, others: set[str]) -> None:
        if others:
            what = f"{self.folder.path}/{min(others)} has rows of other images than {self.settings.data} holds now"
            msg = f"{what}. Restore what was added, removed or renamed, or give --overwrite or another folder."
            raise ValueError(msg)


def rows_of(folder: ResultFolder, files: Iterable[str]) -> Iterator[Row]:
    """Yield the rows of chunks."""
    for file in files:
        yield from map(json.loads, (folder.read(file) or b"").splitlines())
