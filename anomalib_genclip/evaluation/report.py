# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""A test run's result as a table in the terminal and as files."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from anomalib_genclip.utils.files import atomic_write

from .chart import draw_chart
from .result import ERROR_RATES, METRIC_NAMES, EvaluationResult
from .tables import ResultTable, shown

logger = logging.getLogger(__name__)


def table_of(result: EvaluationResult) -> ResultTable:
    """Convert a result to a table: one row per category, and one for the means."""
    how = {
        "exact": "Pixel metrics: exact, anomalib's own.",
        "streaming": "Pixel metrics: streaming (histograms of the scores, within 1e-3 of exact), because the test set "
        "has more pixels than pixel_budget. Image metrics: exact.",
    }
    rows = [{"category": category, **{name: row.get(name) for name in METRIC_NAMES}} for category, row in result.rows]
    remarks = [how[result.mode]]
    if result.rates:
        for row, rates in zip(rows, [*map(result.rates.get, result.categories), result.mean_rates], strict=True):
            row |= {name: (rates or {}).get(name) for name in ERROR_RATES}
        remarks.append(
            "False alarms: normal images above the image threshold; misses: anomalous images below it. Misses at 1 % "
            "and 5 % false alarms: interpolated on the ROC curve, at thresholds that are known from the test labels "
            "only."
        )
    return ResultTable("Test metrics in percent", rows, [*remarks, *result.notes])


def print_report(result: EvaluationResult, files: Sequence[Path] = (), console: Console | None = None) -> None:
    """Print the result as a table.

    Args:
        result (EvaluationResult): The result.
        files (Sequence[Path]): Files of the report, which are named below the table. Defaults to none.
        console (Console | None): Console to print to. Defaults to ``None``: the terminal.
    """
    console = console or Console()
    table = table_of(result)
    if result.rates:
        headers = ("false alarms", "misses", "misses at 1 %", "misses at 5 %")
        titles = dict(zip(headers, ERROR_RATES, strict=True))
        rates = [
            {"category": row["category"], **{header: shown(name, row[name]) for header, name in titles.items()}}
            for row in table.rows
        ]
        ResultTable("Error rates in percent", rates).print(console)
    table.print(console)
    if files:
        names = ", ".join(path.name for path in files)
        console.print(f"Report: {names} in {files[0].parent}", markup=False, highlight=False, soft_wrap=True)


def write_report(result: EvaluationResult, folder: str | Path) -> list[Path]:
    """Write ``metrics.csv``, ``metrics.json``, ``metrics.md`` and ``metrics.png``, each atomically.

    A folder that cannot be written to is a warning and not an error, so that the result is not lost.

    Args:
        result (EvaluationResult): The result.
        folder (str | Path): Folder for the files; created if it does not exist.

    Returns:
        list[Path]: The files written.
    """
    table = table_of(result)
    files = {
        "metrics.csv": table.as_csv().encode(),
        "metrics.json": json.dumps(result.as_dict(), indent=2, ensure_ascii=False, allow_nan=False).encode(),
        "metrics.md": table.as_markdown().encode(),
        "metrics.png": draw_chart(result),
    }
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        paths = [atomic_write(folder / name, content) for name, content in files.items()]
    except OSError as error:
        logger.warning("The report could not be written to %s: %s", folder, error)
        return []
    return paths
