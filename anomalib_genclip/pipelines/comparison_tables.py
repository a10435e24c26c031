# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Results of a comparison: tables per model and per category, and a plot of accuracy against speed."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from anomalib_genclip.evaluation.report import NOTE, STD, ResultTable, Row, png
from anomalib_genclip.evaluation.scores import METRIC_NAMES
from anomalib_genclip.utils.files import atomic_write

REMARKS = (
    "Metrics in percent, per category and as the mean over categories.",
    "Every model keeps its own pre- and post-processor, as in anomalib's benchmark.",
    "anomalib's post-processor clamps normalized scores to [0, 1], which causes ties; GenCLIP's does not normalize.",
    "images_per_second: pre-processing and model, without reading files and computing metrics.",
    "peak_memory_mib: during the test (one_class models: and training); of the GPU, else of the process.",
)
NUMBERS = (*METRIC_NAMES, "images", "images_per_second", "peak_memory_mib")


class ComparisonTables:
    """Tables of a comparison.

    Args:
        folder (Path): Folder for the files.
        rows (list[Row]): One per job: ``model``, ``protocol``, ``category``, ``seed``, and results or ``error``.
    """

    def __init__(self, folder: Path, rows: list[Row]) -> None:
        self.folder = folder
        self.rows = rows

    @property
    def models(self) -> ResultTable:
        """One row per model, with means over its categories, and over its seeds with standard deviations."""
        plain = [{**dict.fromkeys(NUMBERS), **with_note(row), "failed": "error" in row} for row in self.rows]
        frame = pd.DataFrame(plain).astype(dict.fromkeys(NUMBERS, float))
        rows = [_summary(own) for _, own in frame.groupby("model", sort=False)]
        done, remarks = frame[~frame.failed], list(REMARKS)
        if len(set(done.groupby("model").category.agg(frozenset))) > 1:
            remarks.append("The models' means are over different categories, because some jobs failed.")
        if len(done[["category", "images"]].drop_duplicates()) > done.category.nunique():
            remarks.append("The models were not tested on the same number of images.")
        return ResultTable("Comparison: means over categories", rows, remarks)

    @property
    def categories(self) -> ResultTable:
        """One row per model, seed and category."""
        return ResultTable("Comparison: by category", [with_note(row) for row in self.rows], list(REMARKS))

    def save(self) -> None:
        """Print the table of models, and write both tables and the plot."""
        models = self.models
        models.print(["model", "categories", *METRIC_NAMES, "images_per_second", "peak_memory_mib"])
        models.write(self.folder, "comparison")
        self.categories.write(self.folder, "comparison_by_category")
        atomic_write(self.folder / "comparison.png", draw_accuracy_against_speed(models.rows))
        print(f"Tables and plot: {self.folder}/comparison.*, comparison_by_category.*")


def with_note(row: Row) -> Row:
    """Replace a job's error and notes by the row's note."""
    results = {name: value for name, value in row.items() if name not in {"error", "notes"}}
    return {**results, NOTE: f"failed: {row['error']}" if "error" in row else "; ".join(row["notes"])}


def _summary(rows: pd.DataFrame) -> Row:
    """Summarize one model's rows: mean of metrics, sum of times, peak of memory."""
    done, count = rows[~rows.failed], rows.category.nunique()
    summary = {
        **rows.iloc[0][["model", "protocol"]],
        "categories": f"{count - rows.category[rows.failed].nunique()} of {count}",
    }
    of_seeds = done.groupby("seed")[list(METRIC_NAMES)].mean().agg(["mean", "std"])
    for name, (mean, std) in of_seeds.items():
        summary[name] = mean
        if pd.notna(std):
            summary[f"{name}{STD}"] = std
    seconds = (done.images / done.images_per_second).sum()
    summary |= {
        "images": int(done.images.sum()),
        "images_per_second": done.images.sum() / seconds if seconds else None,
        "peak_memory_mib": done.peak_memory_mib.max(),
        "device": ", ".join(done.device.unique()) if len(done) else None,
        NOTE: "; ".join(filter(None, rows[NOTE].unique())),
    }
    return {name: None if pd.isna(value) else value for name, value in summary.items()}


def draw_accuracy_against_speed(rows: list[Row]) -> bytes:
    """Draw one panel per metric with one point per model, as PNG; models without results are listed in the title."""
    figure = Figure(figsize=(13, 4.6), layout="constrained")
    panels = ("image_AUROC", "pixel_AUROC", "pixel_AUPRO")
    drawn = {}
    for axes, metric in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for index, row in enumerate(rows):
            if row["images_per_second"] is not None and row[metric] is not None:
                style = {"marker": "osD^vP*X"[index % 8], "color": f"C{index % 10}", "linestyle": "", "markersize": 9}
                (drawn[row["model"]],) = axes.plot(row["images_per_second"], 100 * row[metric], **style)
        axes.set(xscale="log", xlabel="images per second", title=f"{metric.replace('_', ' ')} in percent")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.margins(0.15)
        axes.grid(visible=True, which="both", color="#e4e4e4", linewidth=0.6)
    absent = [row["model"] for row in rows if row["images_per_second"] is None]
    title = "Accuracy against speed" + (f" (without a result: {', '.join(absent)})" if absent else "")
    figure.suptitle(title, fontsize=11, parse_math=False)
    if drawn:
        figure.legend(drawn.values(), drawn.keys(), loc="outside lower center", ncols=min(4, len(drawn)))
    return png(figure, dpi=110)
