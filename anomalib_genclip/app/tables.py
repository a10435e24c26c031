# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Tables on the page, and the files that can be saved: those of ``genclip predict``."""

import io
from collections.abc import Sequence
from typing import Any

from anomalib_genclip.prediction.records import COLUMNS, REGION_COLUMNS, Record
from anomalib_genclip.prediction.tables import write_csv

IMAGE_HEADERS = ["image", "score", "label", "regions", "class name in the prompts"]
REGION_HEADERS = ["region", "score", "x", "y", "width", "height", "area"]


def image_rows(records: Sequence[Record]) -> list[list[Any]]:
    """Return a row of :data:`IMAGE_HEADERS` per image."""
    rows = [record.as_row() for record in records]
    return [[row["path"], _short(row["score"]), row["label"], row["regions"], row["class_name"]] for row in rows]


def region_rows(record: Record) -> list[list[Any]]:
    """Return a row of :data:`REGION_HEADERS` per region, in pixels of the image file."""
    rows = (dict(zip(list(REGION_COLUMNS)[1:], row, strict=True)) for row in record.region_rows())
    return [[_short(row[name]) if name == "score" else row[name] for name in REGION_HEADERS] for row in rows]


def scores_csv(records: Sequence[Record]) -> bytes:
    """Write ``scores.csv``."""
    return _csv(COLUMNS, [list(record.as_row().values()) for record in records])


def regions_csv(records: Sequence[Record]) -> bytes:
    """Write ``regions.csv``."""
    rows = [[record.as_row()["path"], *row] for record in records for row in record.region_rows()]
    return _csv(REGION_COLUMNS, rows)


def _csv(columns: dict[str, type], rows: list[list[Any]]) -> bytes:
    content = io.BytesIO()
    write_csv(content, columns, [rows])
    return content.getvalue()


def _short(value: float) -> float:
    return round(value, 3)
