# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Tables of results, in the terminal and as files."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from anomalib_genclip.evaluation.result import ERROR_RATES, METRIC_NAMES
from anomalib_genclip.utils.files import atomic_write

Row = dict[str, Any]
UNDEFINED = "-"
NOTE = "note"
STD = "_std"  # suffix of columns with standard deviations, which are shown with the mean, except in .csv and .json
# Terminals may have only 80 columns.
FILES_ONLY = {NOTE, "protocol", "images", "device", "seed", *ERROR_RATES}
HEADERS = {"images_per_second": "images\nper s", "peak_memory_mib": "peak\nMiB", "categories": "cate-\ngories"}


@dataclass
class ResultTable:
    """Rows of results.

    Args:
        title (str): Title of the table.
        rows (list[Row]): Values by column; columns may be missing.
        remarks (list[str]): Remarks that are printed below the table.
    """

    title: str
    rows: list[Row]
    remarks: list[str] = field(default_factory=list)

    @property
    def columns(self) -> list[str]:
        """All columns of the rows, in the order of their first appearance, with the notes last."""
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        return sorted(names, key=lambda name: name == NOTE)

    def print(self, console: Console | None = None) -> None:
        """Print the table with metrics in percent, followed by notes and remarks; files have more columns."""
        table = Table(box=SIMPLE_HEAD, title=self.title, title_justify="left", padding=0, show_edge=False)
        columns = [name for name in self.columns if name not in FILES_ONLY and not name.endswith(STD)]
        for index, name in enumerate(columns):
            header = HEADERS.get(name, name.replace("_", "\n"))
            table.add_column(header, justify="right" if index else "left", no_wrap=index > 0, overflow="fold")
        for row in self.rows:
            table.add_row(*(escape(_with_std(name, row)) for name in columns))
        console = console or Console()
        console.print(table)
        notes = [f"{row[self.columns[0]]}: {row[NOTE]}" for row in self.rows if row.get(NOTE)]
        for remark in [*notes, *self.remarks]:
            console.print(remark, markup=False, highlight=False, soft_wrap=True)

    def as_csv(self) -> str:
        """Format as CSV, with metrics in [0, 1]; undefined values are empty."""
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: "" if value is None else value for name, value in row.items()} for row in self.rows)
        return text.getvalue()

    def as_json(self) -> str:
        """Format as JSON, with metrics in [0, 1]."""
        content = {"title": self.title, "rows": self.rows, "remarks": self.remarks}
        return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)

    def as_markdown(self) -> str:
        """Format as a Markdown table, with metrics in percent."""
        columns = [name for name in self.columns if not name.endswith(STD)]
        table = _markdown_table(columns, ([_with_std(name, row) for name in columns] for row in self.rows))
        remarks = "".join(f"- {remark}\n" for remark in self.remarks)
        return f"{self.title}\n\n{table}\n" + (f"\n{remarks}" if remarks else "")

    def write(self, folder: str | Path, stem: str) -> list[Path]:
        """Write ``<stem>.csv``, ``<stem>.json`` and ``<stem>.md``, each atomically."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        contents = {"csv": self.as_csv(), "json": self.as_json(), "md": self.as_markdown()}
        for ending, text in contents.items():
            atomic_write(folder / f"{stem}.{ending}", text.encode())
        return [folder / f"{stem}.{ending}" for ending in contents]


def _with_std(name: str, row: Row) -> str:
    """Format a row's value, with its standard deviation if there is one."""
    std = row.get(f"{name}{STD}")
    return shown(name, row.get(name)) + ("" if std is None else f" ± {shown(name, std)}")


def shown(name: str, value: Any) -> str:  # noqa: ANN401
    """Format a value: metrics in percent, other numbers with three digits."""
    if value is None:
        return UNDEFINED
    if isinstance(value, float) and name in METRIC_NAMES + ERROR_RATES:
        return f"{100 * value:.1f}"
    if isinstance(value, float):
        return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
    return str(value)


def _markdown_table(header: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """Format a Markdown table; all columns except the first are right-aligned, and cells may be any text."""
    cells = ([" ".join(text.replace("|", "\\|").split()) for text in row] for row in body)
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
