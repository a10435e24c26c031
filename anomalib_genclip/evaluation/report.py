# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""A test run's result as a table in the terminal and as files."""

import csv
import io
import json
import logging
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from anomalib_genclip.utils.files import atomic_write
from anomalib_genclip.utils.text import markdown_table

from .chart import draw_chart
from .result import METRIC_NAMES, EvaluationResult

logger = logging.getLogger(__name__)

UNDEFINED = "-"


def percent(value: float | None) -> str:
    """Format a value in percent with one decimal; an undefined one is a dash."""
    return UNDEFINED if value is None else f"{100 * value:.1f}"


def remarks(result: EvaluationResult) -> list[str]:
    """Return how the metrics were computed, and the notes on them."""
    how = {
        "exact": "Pixel metrics: exact, anomalib's own.",
        "streaming": "Pixel metrics: streaming (histograms of the scores, within 1e-3 of exact), because the test set "
        "has more pixels than pixel_budget. Image metrics: exact.",
    }
    return [how[result.mode], *result.notes]


def print_report(result: EvaluationResult, files: Sequence[Path] = (), console: Console | None = None) -> None:
    """Print the result as a table in percent, with a row per category.

    Args:
        result (EvaluationResult): The result.
        files (Sequence[Path]): Files of the report, which are named below the table. Defaults to none.
        console (Console | None): Console to print to. Defaults to ``None``: the terminal.
    """
    table = Table(box=SIMPLE_HEAD, title="Test metrics in percent", title_justify="left", show_footer=True)
    table.add_column("category", footer="mean", overflow="fold")
    for name in METRIC_NAMES:
        table.add_column(name.replace("_", "\n"), percent(result.mean.get(name)), justify="right", no_wrap=True)
    for category, row in result.categories.items():
        table.add_row(escape(category), *(percent(row.get(name)) for name in METRIC_NAMES))
    console = console or Console()
    console.print(table)
    for remark in remarks(result):
        console.print(remark, markup=False, highlight=False, soft_wrap=True)
    if files:
        names = ", ".join(path.name for path in files)
        console.print(f"Report: {names} in {files[0].parent}", markup=False, highlight=False, soft_wrap=True)


def as_csv(result: EvaluationResult) -> str:
    """Format the result as CSV, in [0, 1]; undefined values are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["category", *METRIC_NAMES])
    writer.writerows([category, *(row.get(name, "") for name in METRIC_NAMES)] for category, row in result.rows)
    return text.getvalue()


def as_markdown(result: EvaluationResult) -> str:
    """Format the result as a Markdown table in percent, followed by remarks."""
    body = [[category, *(percent(row.get(name)) for name in METRIC_NAMES)] for category, row in result.rows]
    body[-1] = [f"**{cell}**" for cell in body[-1]]
    return (
        markdown_table(["category", *METRIC_NAMES], body)
        + "\n\n"
        + "\n".join(f"- {remark}" for remark in remarks(result))
        + "\n"
    )


def write_report(result: EvaluationResult, folder: str | Path) -> list[Path]:
    """Write ``metrics.csv``, ``metrics.json``, ``metrics.md`` and ``metrics.png``, each atomically.

    A folder that cannot be written to is a warning and not an error, so that the result is not lost.

    Args:
        result (EvaluationResult): The result.
        folder (str | Path): Folder for the files; created if it does not exist.

    Returns:
        list[Path]: The files written.
    """
    files = {
        "metrics.csv": as_csv(result).encode(),
        "metrics.json": json.dumps(result.as_dict(), indent=2, ensure_ascii=False, allow_nan=False).encode(),
        "metrics.md": as_markdown(result).encode(),
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
