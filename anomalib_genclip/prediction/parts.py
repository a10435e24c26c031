# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Rows of an unfinished run, stored in files of about 256 images, from which it resumes."""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from .images import Item
from .outputs import REGIONS
from .predict import in_batches
from .records import COLUMNS, REGION_COLUMNS, Row, printable
from .settings import RunSettings
from .storage import ResultFolder
from .tables import WRITERS

_SECONDS = 5  # longest time between two writes of a part


@dataclass
class Counts:
    """Numbers of images and regions so far.

    Args:
        images (int): Images with a row.
        anomalous (int): Images labelled anomalous.
        errors (int): Images with an error.
        regions (int): Connected anomalous regions.
    """

    images: int = 0
    anomalous: int = 0
    errors: int = 0
    regions: int = 0

    def add(self, rows: Iterable[Row]) -> None:
        """Count rows."""
        for row in rows:
            self.images += 1
            self.anomalous += row["label"] == "anomalous"
            self.errors += row["error"] is not None
            self.regions += row["regions"] or 0


@dataclass
class _Part:
    """An incomplete part: its number of images, and the rows of the first ones."""

    length: int
    rows: list[Row]
    written: int = 0
    since: float = field(default_factory=time.monotonic)


class Parts:
    """The rows of a run or of one of its shards.

    A part is a file of JSON lines, one per image. It covers a fixed range of the images and holds the rows of the first
    ones, or of all when it is complete. A batch never crosses the end of a part, and a resumed part starts at the
    beginning of a batch, so that the model sees the same batches however often a run was interrupted.

    Args:
        folder (ResultFolder): The results folder.
        settings (RunSettings): The settings.
    """

    def __init__(self, folder: ResultFolder, settings: RunSettings) -> None:
        self.folder = folder
        self.settings = settings
        self.counts = Counts()
        self.listed = 0
        self._digest = hashlib.sha256()
        self._open: dict[int, _Part] = {}

    def pending(self, items: Iterable[Item]) -> Iterator[list[Item]]:
        """Yield the batches that are not scored yet, and count the rows on disk.

        Args:
            items (Iterable[Item]): All images, of all shards.

        Yields:
            list[Item]: A batch.

        Raises:
            ValueError: If a part on disk has rows of other images; names the part.
        """
        items = iter(items)
        size, (number, count) = self.settings.part_size, self.settings.shard_and_count
        while part := list(islice(items, size)):
            place = self.listed // size
            self.listed += len(part)
            for item in part:
                self._digest.update(os.fsencode(item.path) + b"\0")
            if place % count != number - 1:
                continue
            rows = self._load(place, part)
            if len(rows) < len(part):
                rows = rows[: len(rows) // self.settings.batch_size * self.settings.batch_size]
                self._open[place] = _Part(len(part), rows, len(rows))
            self.counts.add(rows)
            yield from in_batches(part[len(rows) :], self.settings.batch_size)

    def add(self, items: Sequence[Item], rows: list[Row]) -> None:
        """Add the rows of a batch or of its first images, and write the part if it is complete or a few seconds old.

        Args:
            items (Sequence[Item]): The images.
            rows (list[Row]): Their rows.

        Raises:
            OSError: If they cannot be written.
        """
        if not items:
            return
        place = items[0].number // self.settings.part_size
        part = self._open[place]
        part.rows += rows
        self.counts.add(rows)
        if len(part.rows) == part.length or time.monotonic() - part.since > _SECONDS:
            self._write(place, part)
        if len(part.rows) == part.length:
            del self._open[place]

    def flush(self) -> None:
        """Write all rows that are not yet on disk."""
        for place, part in self._open.items():
            if len(part.rows) > part.written:
                self._write(place, part)

    def finish(self) -> Counts | None:
        """Record that this shard is complete, and write the tables if all shards are.

        Returns:
            Counts | None: Counts over all images, ``None`` if other shards are not complete.

        Raises:
            ValueError: If the shards have found different images.
        """
        number, count = self.settings.shard_and_count
        own = {"listed": self.listed, "digest": self._digest.hexdigest(), "counts": vars(self.counts)}
        self.folder.write(_shard_name(number, count), json.dumps(own).encode())
        found = [self.folder.read(_shard_name(other, count)) for other in range(1, count + 1)]
        shards = [json.loads(content) for content in found if content is not None]
        if len(shards) < count:
            return None
        if len({shard["digest"] for shard in shards}) > 1:
            msg = (
                f"The shards have found different images in {self.settings.data}: "
                f"{', '.join(str(shard['listed']) for shard in shards)}. Start again in another folder."
            )
            raise ValueError(msg)
        kind = self.settings.table
        with self.folder.open(f"scores.{kind}") as file:
            WRITERS[kind](file, COLUMNS, ([[row[name] for name in COLUMNS] for row in rows] for rows in self._rows()))
        if self.settings.regions:
            with self.folder.open(f"regions.{kind}") as file:
                WRITERS[kind](file, REGION_COLUMNS, (_region_rows(rows) for rows in self._rows()))
        return Counts(**{name: sum(shard["counts"][name] for shard in shards) for name in vars(self.counts)})

    def _rows(self) -> Iterator[list[Row]]:
        """Yield the rows of all parts."""
        for place in range(-(-self.listed // self.settings.part_size)):
            yield _parsed(self.folder.read(_part_name(place)) or b"")

    def _load(self, place: int, items: list[Item]) -> list[Row]:
        """Return the rows of a part that are on disk.

        Raises:
            ValueError: If they belong to other images; names the part.
        """
        content = self.folder.read(_part_name(place))
        rows = [] if content is None else _parsed(content)
        if [row["path"] for row in rows] != [printable(item.path) for item in items[: len(rows)]]:
            msg = (
                f"{self.folder.path}/{_part_name(place)} has rows of other images than {self.settings.data} holds now: "
                "images were added, removed or renamed. Restore them to resume, or start again with --overwrite or in "
                "another folder."
            )
            raise ValueError(msg)
        return rows

    def _write(self, place: int, part: _Part) -> None:
        content = "".join(json.dumps(row) + "\n" for row in part.rows)
        self.folder.write(_part_name(place), content.encode())
        part.written, part.since = len(part.rows), time.monotonic()


def _region_rows(rows: list[Row]) -> list[list[Any]]:
    return [[row["path"], *region] for row in rows for region in row[REGIONS]]


def _parsed(content: bytes) -> list[Row]:
    return [json.loads(line) for line in content.splitlines()]


def _part_name(place: int) -> str:
    return f"parts/{place:08}.jsonl"


def _shard_name(number: int, count: int) -> str:
    return f"parts/shard-{number}-of-{count}.json"
