# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Tables of results, in the terminal and as files, and the report of a test run."""

import io
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from anomalib_genclip.utils.files import atomic_write

from .intervals import DRAWS, HIGH, INTERVAL_METRICS, LOW, with_intervals
from .scores import ERROR_RATES, IMAGE_METRICS, METRIC_NAMES

logger = logging.getLogger(__name__)

Row = dict[str, Any]
NOTE = "note"
STD = "_std"  # suffix of columns with standard deviations, which are shown with the mean, except in .csv and .json
INTERVAL_REMARK = f"Intervals, in the files: 95 %, from a stratified bootstrap over images ({DRAWS} draws)."


@dataclass
class ResultTable:
    """Rows of results: values by column, metrics in [0, 1]; columns may be missing. Remarks are printed below."""

    title: str
    rows: list[Row]
    remarks: list[str] = field(default_factory=list)

    @property
    def columns(self) -> list[str]:
        """All columns of the rows, in the order of their first appearance, with the notes last."""
        return sorted(dict.fromkeys(name for row in self.rows for name in row), key=NOTE.__eq__)

    def print(self, columns: Sequence[str], console: Console | None = None) -> None:
        """Print some columns with metrics in percent, followed by notes and remarks."""
        table = Table(box=SIMPLE_HEAD, title=self.title, title_justify="left", padding=0, show_edge=False)
        for index, name in enumerate(columns):
            justify: Any = "right" if index else "left"
            table.add_column(name.replace("_", "\n"), justify=justify, no_wrap=index > 0, overflow="fold")
        for row in self.rows:
            table.add_row(*(escape(_shown(name, row)) for name in columns))
        console = console or Console()
        console.print(table)
        for remark in [*(f"{row[columns[0]]}: {row[NOTE]}" for row in self.rows if row.get(NOTE)), *self.remarks]:
            console.print(remark, markup=False, highlight=False, soft_wrap=True)

    def as_csv(self) -> str:
        """Format as CSV, with metrics in [0, 1]; undefined values are empty."""
        # As objects: whole numbers stay whole where another row has none.
        return pd.DataFrame(self.rows, columns=self.columns, dtype=object).to_csv(index=False, lineterminator="\n")

    def as_markdown(self) -> str:
        """Format as a Markdown table, with metrics in percent and intervals beside them, aligned to the right."""
        columns = [name for name in self.columns if not name.endswith((STD, LOW, HIGH))]
        body = [[_with_interval(name, row).replace("|", "\\|") for name in columns] for row in self.rows]
        lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *body]
        table = "\n".join(f"| {' | '.join(' '.join(cell.split()) for cell in line)} |" for line in lines)
        remarks = "".join(f"- {remark}\n" for remark in self.remarks)
        return f"{self.title}\n\n{table}\n" + (f"\n{remarks}" if remarks else "")

    def write(self, folder: str | Path, stem: str) -> list[Path]:
        """Write ``<stem>.csv``, ``<stem>.json`` (metrics in [0, 1]) and ``<stem>.md``, each atomically."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        plain = json.dumps(asdict(self), indent=2, ensure_ascii=False, allow_nan=False)
        contents = {"csv": self.as_csv(), "json": plain, "md": self.as_markdown()}
        return [atomic_write(Path(folder, f"{stem}.{ending}"), text.encode()) for ending, text in contents.items()]


def _shown(name: str, row: Row) -> str:
    """Format a row's value, with its standard deviation if there is one: metrics in percent, others with 3 digits."""
    value, std = row.get(name), row.get(f"{name}{STD}")
    if std is not None:
        return f"{_shown(name, {name: value})} ± {_shown(name, {name: std})}"
    if not isinstance(value, float):
        return "-" if value is None else str(value)
    if name in METRIC_NAMES + ERROR_RATES:
        return f"{100 * value:.1f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _with_interval(name: str, row: Row) -> str:
    """Format a row's value, followed by its interval if there is one."""
    ends = [_shown(name, {name: row[name + end]}) for end in (LOW, HIGH) if row.get(name + end) is not None]
    return _shown(name, row) + (f" [{', '.join(ends)}]" if ends else "")


@dataclass
class EvaluationResult:
    """Metrics and error rates of a test run, in [0, 1], by category; undefined ones are absent."""

    categories: dict[str, dict[str, float]]  # values by metric or error rate, by category
    streamed: list[str] = field(default_factory=list)  # categories whose pixel metrics are from histograms
    notes: list[str] = field(default_factory=list)  # on undefined metrics and excluded images
    draws: dict[str, dict[str, list[float]]] = field(default_factory=dict)  # resampled metrics, by category

    @property
    def mean_draws(self) -> dict[str, list[float]]:
        """Means of the resampled metrics; absent unless all categories with the metric have draws."""
        found = {}
        for name in INTERVAL_METRICS:
            own = [self.draws.get(category, {}).get(name) for category, row in self.categories.items() if name in row]
            if own and None not in own:
                found[name] = np.mean(np.array(own, float), axis=0).tolist()
        return found

    @property
    def mean(self) -> dict[str, float]:
        """Mean of each value over the categories for which it is defined; absent if there are none."""
        names = METRIC_NAMES + ERROR_RATES
        defined = {name: [row[name] for row in self.categories.values() if name in row] for name in names}
        return {name: fmean(values) for name, values in defined.items() if values}

    def logged(self) -> dict[str, float]:
        """Return the metrics' means and, if there are several categories, ``category/metric`` of each."""
        own = self.categories if len(self.categories) > 1 else {}
        rows = {"": self.mean} | {f"{category}/": row for category, row in own.items()}
        return {prefix + name: row[name] for prefix, row in rows.items() for name in METRIC_NAMES if name in row}

    def table(self) -> ResultTable:
        """Return a table with a row per category and one for the means."""
        mean, remark = self.mean, "Pixel metrics: exact, anomalib's own."
        if self.streamed:
            which = "" if len(self.streamed) == len(self.categories) else f" for {', '.join(self.streamed)}"
            remark = (
                f"Pixel metrics: streaming{which} (histograms of the scores, within 1e-3 of exact), because the test "
                "set has more pixels than pixel_budget, or maps of several sizes. Image metrics: exact."
            )
        remarks, rates = [remark], [name for name in ERROR_RATES if name in mean]
        if rates:
            remarks.append(
                "False alarms: normal images above the image threshold; misses: anomalous images below it. Misses at 1 "
                "% and 5 % false alarms: interpolated on the ROC curve, at thresholds known from the test labels only."
            )
        parts = [(category, row, self.draws.get(category, {})) for category, row in self.categories.items()]
        rows = [
            with_intervals({"category": category, **{name: row.get(name) for name in (*METRIC_NAMES, *rates)}}, draws)
            for category, row, draws in [*parts, ("mean", mean, self.mean_draws)]
        ]
        remarks += [INTERVAL_REMARK] * any(self.draws.values())
        return ResultTable("Test metrics in percent", rows, remarks + self.notes)

    def print(self, console: Console | None = None) -> None:
        """Print error rates and metrics."""
        table = self.table()
        if table.columns[-1] in ERROR_RATES:
            ResultTable("Error rates in percent", table.rows).print(["category", *ERROR_RATES], console)
        table.print(["category", *METRIC_NAMES], console)

    def write(self, folder: str | Path) -> list[Path]:
        """Write ``metrics.{csv,json,md,png}``; a folder that cannot be written to is a warning: no result is lost."""
        try:
            return [*self.table().write(folder, "metrics"), atomic_write(Path(folder, "metrics.png"), self.chart())]
        except OSError as error:
            logger.warning("The report could not be written to %s: %s", folder, error)
            return []

    def chart(self) -> bytes:
        """Draw a bar chart per metric, with a bar per category and one for the mean, as PNG."""
        rows = [*self.categories.items(), ("mean", self.mean)]
        height = 1.3 + 0.28 * len(rows)
        figure = Figure(figsize=(13, height), layout="constrained")
        for name, axes in zip(METRIC_NAMES, figure.subplots(1, len(METRIC_NAMES), sharey=True), strict=True):
            values = [row.get(name) for _, row in rows]
            colour, mean_colour = ("#8fb4d9", "#1f5a96") if name in IMAGE_METRICS else ("#f0b27a", "#b9560b")
            colours = [colour] * len(self.categories) + [mean_colour]
            bars = axes.barh(range(len(rows)), [100 * (value or 0) for value in values], color=colours)
            axes.bar_label(bars, ["n/a" if value is None else f"{100 * value:.1f}" for value in values], fontsize=8)
            axes.set_title(name.replace("_", " "), fontsize=9)
            axes.set(xlim=(0, 130), xticks=[0, 50, 100])  # room for the numbers
        labels = [name if len(name) <= 32 else f"{name[:31]}…" for name, _ in rows]
        figure.axes[0].set_yticks(range(len(rows)), labels, parse_math=False)
        figure.axes[0].invert_yaxis()
        figure.suptitle(f"Test metrics in percent (pixel metrics: {'streaming' if self.streamed else 'exact'})")
        return png(figure, dpi=min(130, 20_000 / height))  # at most 20,000 pixels high


def png(figure: Figure, dpi: float) -> bytes:
    """Render a figure as PNG; matplotlib's global state and backend are not changed."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(buffer, format="png", dpi=dpi)
    return buffer.getvalue()
