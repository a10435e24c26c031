# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Tables of any length, written part by part."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, BinaryIO

_PARQUET_TYPES = {str: "string", int: "int64", float: "float64"}


def write_csv(file: BinaryIO, columns: Mapping[str, type], parts: Iterable[Sequence[Sequence[Any]]]) -> None:
    """Write comma-separated values in UTF-8; ``None`` becomes an empty field.

    Args:
        file (BinaryIO): The file.
        columns (Mapping[str, type]): Names and types.
        parts (Iterable[Sequence[Sequence[Any]]]): Lists of rows.
    """
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for rows in parts:
        writer.writerows(rows)
    text.detach()  # the caller closes the file


def write_parquet(file: BinaryIO, columns: Mapping[str, type], parts: Iterable[Sequence[Sequence[Any]]]) -> None:
    """Write Parquet, a row group per part; arguments as in :func:`write_csv`.

    Raises:
        ValueError: If pyarrow is not installed.
    """
    pa, parquet = import_pyarrow()
    schema = pa.schema([(name, _PARQUET_TYPES[kind]) for name, kind in columns.items()])
    with parquet.ParquetWriter(file, schema) as writer:
        for rows in parts:
            records = [dict(zip(columns, row, strict=True)) for row in rows]
            writer.write_table(pa.Table.from_pylist(records, schema=schema))


def import_pyarrow() -> tuple[Any, Any]:
    """Import pyarrow and pyarrow.parquet.

    Raises:
        ValueError: If pyarrow is not installed; says how to install it.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        msg = "Parquet needs pyarrow: pip install pyarrow."
        raise ValueError(msg) from error
    return pa, parquet


WRITERS = {"csv": write_csv, "parquet": write_parquet}
