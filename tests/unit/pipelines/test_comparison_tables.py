# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Tables of a comparison."""

import csv
import io
from statistics import fmean

import pytest
from helpers.comparisons import rows_of

from anomalib_genclip.evaluation.result import METRIC_NAMES
from anomalib_genclip.pipelines.comparison_tables import ComparisonTables


def row(model: str, category: str, **others) -> dict:
    """Make a row of a job that is done."""
    done = {"images": 8, "images_per_second": 4.0, "peak_memory_mib": 100, "device": "CPU", "notes": []}
    return {"model": model, "protocol": "zero_shot", "category": category, **done, "image_AUROC": 0.5, **others}


def failed(model: str, category: str) -> dict:
    return {"model": model, "protocol": "zero_shot", "category": category, "error": "no memory"}


@pytest.mark.parametrize(
    ("rows", "warning"),
    [
        ([row("a", "bottle"), row("b", "bottle")], None),
        ([row("a", "bottle"), row("a", "wood"), row("b", "bottle"), failed("b", "wood")], "over different categories"),
        ([row("a", "bottle"), row("b", "bottle", images=7)], "not tested on the same number of images"),
    ],
)
def test_means_that_do_not_compare_are_said_to(tmp_path, rows, warning):
    text = ComparisonTables(tmp_path, rows).models.as_markdown()
    for sentence in ("over different categories", "not tested on the same number of images"):
        assert (sentence in text) == (sentence == warning)


def test_a_row_says_what_failed_and_what_was_noted(tmp_path):
    rows = [row("a", "bottle", notes=["no mask"]), row("a", "tile", notes=["no mask"]), failed("a", "wood")]
    tables = ComparisonTables(tmp_path, rows)
    (summary,) = tables.models.rows
    assert summary["note"] == "no mask; failed: no memory"
    assert (summary["categories"], summary["images"], summary["image_AUROC"]) == ("2 of 3", 16, 0.5)
    assert [own["note"] for own in tables.categories.rows] == ["no mask", "no mask", "failed: no memory"]


def test_models_row_is_the_mean_over_categories(compared):
    for summary in compared.tables.models.rows[:-1]:
        rows = rows_of(compared.tables, summary["model"])
        for name in METRIC_NAMES:
            assert summary[name] == pytest.approx(fmean(row[name] for row in rows), abs=1e-12)
        assert summary["images"] == 16
        seconds = sum(row["images"] / row["images_per_second"] for row in rows)
        assert summary["images_per_second"] == pytest.approx(16 / seconds)
        assert summary["peak_memory_mib"] == max(row["peak_memory_mib"] for row in rows)


def test_columns_are_the_union_of_all_rows(compared):
    table = compared.tables.categories
    assert {"fit_seconds", "note"} <= set(table.columns)  # only PatchCore was trained here, only "absent" failed
    rows = {(row["model"], row["category"]): row for row in csv.DictReader(io.StringIO(table.as_csv()))}
    assert float(rows["PatchCore", "wood"]["fit_seconds"]) > 0
    assert not rows["whitest", "wood"]["fit_seconds"]
    assert not rows["absent", "wood"]["image_AUROC"]


def test_columns_start_with_what_names_the_row(compared):
    assert compared.tables.categories.columns[:3] == ["model", "protocol", "category"]
