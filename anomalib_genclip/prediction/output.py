# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Columns and formats of the tables. Imports no heavy module."""

import csv
import io
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, BinaryIO, Literal, TypeVar, get_type_hints

from anomalib_genclip.records import Record, Region

Row = dict[str, Any]
Value = TypeVar("Value")
TableFormat = Literal["csv", "parquet"]  # the keys of WRITERS
COLUMNS: dict[str, type] = {
    "path": str,
    "class_name": str,
    "class_name_filter": str,
    "score": float,
    "label": str,
    "p_value": float,
    "alarm_level": str,
    "image_threshold": float,
    "pixel_threshold": float,
    "anomalous_share": float,
    "regions": int,
    "error": str,
}
REGION_COLUMNS: dict[str, type] = {"path": str, "region": int, **get_type_hints(Region)}
_DECIMALS = 6  # of scores: the seventh decimal of float32 depends on the batch size
_PARQUET_TYPES = {str: "string", int: "int64", float: "float64"}
_ROW_GROUP = 16_384  # rows of Parquet


def score_row(record: Record) -> Row:
    """Return a record's values of :data:`COLUMNS` as plain data; scores have six decimals."""
    row = {name: _rounded(getattr(record, name, None)) for name in COLUMNS}
    row |= {"path": printable(record.path), "error": printable(record.error) or None}
    share = None if record.mask is None else _rounded(float(record.mask.mean()))
    return row | {"anomalous_share": share, "regions": None if record.mask is None else len(record.regions)}


def region_rows(record: Record) -> list[Row]:
    """Return the values of :data:`REGION_COLUMNS` for each region of a record."""
    return [
        {"path": printable(record.path), "region": number}
        | {name: _rounded(value) for name, value in region._asdict().items()}
        for number, region in enumerate(record.regions, start=1)
    ]


def write_csv(file: BinaryIO, columns: Mapping[str, type], rows: Iterable[Row]) -> None:
    """Write comma-separated values in UTF-8; ``None`` becomes an empty field."""
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    text.detach()  # the caller closes the file


def write_parquet(file: BinaryIO, columns: Mapping[str, type], rows: Iterable[Row]) -> None:
    """Write Parquet; arguments as in :func:`write_csv`."""
    import pyarrow as pa
    from pyarrow import parquet

    schema = pa.schema([(name, _PARQUET_TYPES[kind]) for name, kind in columns.items()])
    with parquet.ParquetWriter(file, schema) as writer:
        for group in in_lists(rows, _ROW_GROUP):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))


WRITERS = {"csv": write_csv, "parquet": write_parquet}


def in_lists(values: Iterable[Value], size: int) -> Iterator[list[Value]]:
    """Split values into lists of a given size; the last one may be shorter."""
    values = iter(values)
    while found := list(islice(values, size)):
        yield found


def printable(text: str) -> str:
    """Return a path, or a text that has one, as valid UTF-8, with escapes for all other bytes."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def _rounded(value: Any) -> Any:  # noqa: ANN401  # of any column
    return round(value, _DECIMALS) if isinstance(value, float) else value
