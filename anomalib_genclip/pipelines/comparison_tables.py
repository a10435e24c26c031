# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Results of a comparison: tables per model and per category, and a plot."""

from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from anomalib_genclip.evaluation.result import METRIC_NAMES
from anomalib_genclip.evaluation.tables import NOTE, STD, ResultTable, Row
from anomalib_genclip.utils.files import atomic_write

from .plot import draw_accuracy_against_speed

REMARKS = (
    "Metrics in percent, per category and as the mean over categories.",
    "Every model keeps its own pre- and post-processor, as in anomalib's benchmark.",
    "anomalib's post-processor clamps normalized scores to [0, 1], which causes ties; GenCLIP's does not normalize.",
    "images_per_second: pre-processing and model, without reading files and computing metrics.",
    "peak_memory_mib: during the test (one_class models: and training); of the GPU, else of the process.",
)


class ComparisonTables:
    """Tables of a comparison.

    Args:
        folder (Path): Folder for the files.
        rows (list[dict[str, Any]]): One per model and category: ``model``, ``protocol``, ``category``, and results or
            ``error``.
    """

    def __init__(self, folder: Path, rows: list[dict[str, Any]]) -> None:
        self.folder = folder
        self.rows = rows

    @property
    def models(self) -> ResultTable:
        """One row per model, with means over its categories."""
        names = dict.fromkeys(row["model"] for row in self.rows)
        rows = [_summary([row for row in self.rows if row["model"] == name]) for name in names]
        return ResultTable("Comparison: means over categories", rows, [*REMARKS, *self._warnings()])

    @property
    def categories(self) -> ResultTable:
        """One row per model and category."""
        return ResultTable("Comparison: by category", [_with_note(row) for row in self.rows], list(REMARKS))

    def _warnings(self) -> list[str]:
        """Return warnings about means of models that are not comparable."""
        done = [row for row in self.rows if "error" not in row]
        covered = {model: {row["category"] for row in done if row["model"] == model} for model in _names(done)}
        warnings = []
        if len({frozenset(categories) for categories in covered.values()}) > 1:
            warnings.append("The models' means are over different categories, because some jobs failed.")
        images = {(row["category"], row["images"]) for row in done}
        if len(images) > len({category for category, _ in images}):
            warnings.append("The models were not tested on the same number of images.")
        return warnings

    def save(self) -> None:
        """Print the table of models, and write both tables and the plot."""
        models = self.models
        models.print()
        models.write(self.folder, "comparison")
        self.categories.write(self.folder, "comparison_by_category")
        atomic_write(self.folder / "comparison.png", draw_accuracy_against_speed(models.rows))
        print(f"Tables and plot: {self.folder}/comparison.*, comparison_by_category.*")


def _names(rows: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(row["model"] for row in rows))


def _summary(rows: list[dict[str, Any]]) -> Row:
    """Summarize one model's rows: mean of metrics, sum of times, peak of memory.

    With several seeds, standard deviations are those of the seeds' means over categories.
    """
    done = [row for row in rows if "error" not in row]
    failed = {row["category"] for row in rows if "error" in row}
    categories = {row["category"] for row in rows}
    summary: Row = {
        "model": rows[0]["model"],
        "protocol": rows[0]["protocol"],
        "categories": f"{len(categories - failed)} of {len(categories)}",
    }
    for name in METRIC_NAMES:
        means = _means_by_seed(done, name)
        summary[name] = fmean(means) if means else None
        if len(means) > 1:
            summary[f"{name}{STD}"] = stdev(means)
    timed = [row for row in done if row.get("images_per_second")]
    seconds = sum(row["images"] / row["images_per_second"] for row in timed)
    memory = [row["peak_memory_mib"] for row in done if row.get("peak_memory_mib") is not None]
    summary |= {
        "images": sum(row["images"] for row in done),
        "images_per_second": sum(row["images"] for row in timed) / seconds if seconds else None,
        "peak_memory_mib": max(memory, default=None),
        "device": ", ".join(dict.fromkeys(row["device"] for row in done)) or None,
    }
    return summary | {NOTE: "; ".join(dict.fromkeys(note for row in rows for note in _notes(row)))}


def _means_by_seed(rows: list[dict[str, Any]], name: str) -> list[float]:
    """Average a metric over the categories, separately for each seed."""
    values: dict[Any, list[float]] = {}
    for row in rows:
        if name in row:
            values.setdefault(row.get("seed"), []).append(row[name])
    return [fmean(group) for group in values.values()]


def _with_note(row: dict[str, Any]) -> Row:
    """Replace a job's error and notes by the row's note."""
    results = {name: value for name, value in row.items() if name not in {"error", "notes"}}
    return {**results, NOTE: "; ".join(_notes(row))}


def _notes(row: dict[str, Any]) -> list[str]:
    return [f"failed: {row['error']}"] if "error" in row else row["notes"]
