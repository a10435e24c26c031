# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Tables and plot of a comparison."""

import io
from statistics import fmean

import numpy as np
import pytest
from helpers.comparisons import rows_of
from matplotlib.figure import Figure
from PIL import Image

from anomalib_genclip.evaluation import METRIC_NAMES
from anomalib_genclip.pipelines.comparison import ComparisonTables, draw_accuracy_against_speed


def row(model: str, category: str, seed: int = 0, **others) -> dict:
    done = {"images": 8, "images_per_second": 4.0, "peak_memory_mib": 100.0, "device": "cpu", "notes": []}
    labels = {"model": model, "protocol": "zero_shot", "category": category, "seed": seed}
    return {**labels, **done, "image_AUROC": 0.5, **others}


def failed(model: str, category: str) -> dict:
    return {"model": model, "protocol": "zero_shot", "category": category, "seed": 0, "error": "no memory"}


@pytest.mark.parametrize(
    ("rows", "warning"),
    [
        ([row("a", "bottle"), row("b", "bottle")], None),
        ([row("a", "bottle"), row("a", "wood"), row("b", "bottle"), failed("b", "wood")], "over different categories"),
        ([row("a", "bottle"), row("b", "bottle", images=7)], "not tested on the same number of images"),
        ([failed("a", "bottle")], None),
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
    assert summary["pixel_AUROC"] is None
    assert [own["note"] for own in tables.categories.rows] == ["no mask", "no mask", "failed: no memory"]


def test_several_seeds_are_shown_as_mean_and_spread_of_their_means(tmp_path):
    values = {("bottle", 0): 0.5, ("wood", 0): 0.7, ("bottle", 1): 0.8, ("wood", 1): 1.0}
    rows = [row("a", category, seed, image_AUROC=value) for (category, seed), value in values.items()]
    table = ComparisonTables(tmp_path, rows).models
    assert table.rows[0]["image_AUROC"] == pytest.approx(0.75)
    assert table.rows[0]["image_AUROC_std"] == pytest.approx(0.3 / 2**0.5)
    assert table.rows[0]["categories"] == "2 of 2"
    assert "75.0 ± 21.2" in table.as_markdown()


def test_difference_of_two_models_is_judged_by_the_same_draws(tmp_path):
    """Their own intervals overlap; the draws of the difference do not reach 0. Only shared categories count."""
    draws = np.linspace(0.5, 0.9, 101)

    def of(model: str, category: str, add: float, seed: int = 0, images: int = 8) -> dict:
        own = {"image_AUROC": 0.7 + add, "draws": {"image_AUROC": (draws + add).tolist()}}
        return row(model, category, seed, images=images, **own)

    rows = [of("a", "bottle", 0.02, 0), of("a", "bottle", 0.04, 1), of("b", "bottle", 0.0), of("b", "wood", 0.3)]
    tables = ComparisonTables(tmp_path, [*rows, of("c", "bottle", 0.0), of("d", "bottle", 0.1, images=7)])
    summary = tables.models.rows[0]
    assert (summary["image_AUROC_low"], summary["image_AUROC_high"]) == pytest.approx((0.54, 0.92))
    assert "73.0 ± 1.4 [54.0, 92.0]" in tables.models.as_markdown()
    assert tables.categories.rows[2]["image_AUROC_low"] == pytest.approx(0.51)
    pairs = {(own["model"], own["other"]): own for own in tables.differences.rows}
    assert len(pairs) == 6
    first = pairs["a", "b"]
    assert [first[f"image_AUROC{end}"] for end in ("", "_low", "_high")] == pytest.approx([0.03] * 3)
    assert (first["differ"], pairs["b", "c"]["differ"]) == ("image_AUROC", None)
    assert "image_AUROC" not in pairs["a", "d"]  # not the same images
    del rows[0]["draws"]  # a result of an earlier version
    assert "image_AUROC_low" not in tables.models.rows[0]


def test_models_row_is_the_mean_over_categories(compared):
    for summary in compared.tables.models.rows[:-1]:
        rows = rows_of(compared.tables, summary["model"])
        for name in METRIC_NAMES:
            assert summary[name] == pytest.approx(fmean(row[name] for row in rows), abs=1e-12)
        assert summary["images"] == 16
        seconds = sum(row["images"] / row["images_per_second"] for row in rows)
        assert summary["images_per_second"] == pytest.approx(16 / seconds)
        assert summary["peak_memory_mib"] == max(row["peak_memory_mib"] for row in rows)


def test_plot_leaves_out_and_names_models_without_figures(monkeypatch):
    titles, names = [], []
    title, legend = Figure.suptitle, Figure.legend
    monkeypatch.setattr(Figure, "suptitle", lambda self, text, **kw: titles.append(text) or title(self, text, **kw))
    monkeypatch.setattr(
        Figure, "legend", lambda self, lines, labels, **kw: names.extend(labels) or legend(self, lines, labels, **kw)
    )
    done = {"model": "a_b $x$", "images_per_second": 3.0, "image_AUROC": 0.5, "pixel_AUROC": None, "pixel_AUPRO": None}
    rows = [done, {**dict.fromkeys(done), "model": "c"}]
    assert Image.open(io.BytesIO(draw_accuracy_against_speed(rows))).format == "PNG"
    assert titles == ["Accuracy against speed (without a result: c)"]
    assert names == ["a_b $x$"]
