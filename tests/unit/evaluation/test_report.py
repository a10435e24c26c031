# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The report of a test: terminal, files and chart."""

import csv
import io
import json
import os
import re
import sys

import matplotlib as mpl
import pytest
from PIL import Image
from rich.console import Console

from anomalib_genclip.evaluation import METRIC_NAMES, EvaluationResult, chart, write_report
from anomalib_genclip.evaluation.chart import draw_chart
from anomalib_genclip.evaluation.report import print_report, table_of
from anomalib_genclip.evaluation.result import ERROR_RATES


@pytest.fixture
def partial() -> EvaluationResult:
    """A result with an undefined figure, and names that mean something to the formats."""
    full = dict.fromkeys(METRIC_NAMES, 0.875)
    some = dict.fromkeys(METRIC_NAMES[:3], 0.5)
    return EvaluationResult({"a|b, [red]$x": full, "plain": some}, notes=["plain: no mask"])


def test_json(partial):
    plain = json.loads(json.dumps(partial.as_dict(), allow_nan=False))
    assert plain["mean"]["image_AP"] == 0.6875
    assert plain["mean"]["pixel_AP"] == 0.875
    assert plain["categories"]["plain"] == dict.fromkeys(METRIC_NAMES[:3], 0.5)
    assert plain["mode"] == "exact"
    assert plain["notes"] == ["plain: no mask"]


def test_csv(partial):
    rows = list(csv.DictReader(io.StringIO(table_of(partial).as_csv())))
    assert [row["category"] for row in rows] == ["a|b, [red]$x", "plain", "mean"]
    assert float(rows[0]["pixel_AUPRO"]) == 0.875
    assert not rows[1]["pixel_AUPRO"]


def test_markdown(partial):
    lines = table_of(partial).as_markdown().splitlines()
    assert "| a\\|b, [red]$x | 87.5 | 87.5 | 87.5 | 87.5 | 87.5 | 87.5 | 87.5 |" in lines
    assert "| plain | 50.0 | 50.0 | 50.0 | - | - | - | - |" in lines
    assert "| mean | 68.8 | 68.8 | 68.8 | 87.5 | 87.5 | 87.5 | 87.5 |" in lines
    assert "- plain: no mask" in lines


def test_error_rates_are_a_table_of_their_own_and_columns_of_the_files(partial):
    partial.rates = {"plain": dict(zip(ERROR_RATES, (0.125, 0.5, 0.75, 0.625), strict=True))}
    console = Console(file=io.StringIO(), width=80)
    print_report(partial, console=console)
    table = console.file.getvalue().partition("Test metrics")[0]
    assert re.search(r"plain +12\.5 +50\.0 +75\.0 +62\.5", table)
    assert re.search(r"mean +12\.5 +50\.0 +75\.0 +62\.5", table)
    assert "interpolated on the ROC curve" in console.file.getvalue()
    rows = list(csv.DictReader(io.StringIO(table_of(partial).as_csv())))
    assert [row["miss_rate_at_5"] for row in rows] == ["", "0.625", "0.625"]


def test_table_fits_a_narrow_terminal(partial):
    partial.mode = "streaming"
    console = Console(file=io.StringIO(), width=80)
    print_report(partial, console=console)
    text = console.file.getvalue()
    assert "a|b, [red]$x" in text
    assert "68.8" in text
    assert "streaming" in text
    assert "plain: no mask" in text


def test_old_report_is_replaced_whole(partial, tmp_path):
    (tmp_path / "metrics.csv").write_text("old" * 10_000)
    assert len(write_report(partial, tmp_path)) == 4
    assert (tmp_path / "metrics.csv").read_text() == table_of(partial).as_csv()
    assert len(list(tmp_path.iterdir())) == 4


def test_failing_write_leaves_the_old_file(partial, tmp_path, monkeypatch, caplog):
    """A full disk: the warning names the folder, the old file stays, no part of a new one does."""
    (tmp_path / "metrics.csv").write_text("old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert write_report(partial, tmp_path) == []
    assert str(tmp_path) in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]
    assert (tmp_path / "metrics.csv").read_text() == "old"


def test_chart_is_a_picture_and_leaves_matplotlib_alone(partial):
    before = mpl.get_backend(auto_select=False)
    picture = Image.open(io.BytesIO(draw_chart(partial)))
    assert picture.format == "PNG"
    assert picture.width > 1000
    assert mpl.get_backend(auto_select=False) == before
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_chart_of_nothing_and_of_many(monkeypatch):
    """No category at all, and more than a picture can be tall."""
    assert draw_chart(EvaluationResult({}))
    monkeypatch.setattr(chart, "MAX_PIXELS", 300)
    many = draw_chart(EvaluationResult({f"category {index}": {"image_AP": 0.5} for index in range(20)}))
    assert Image.open(io.BytesIO(many)).height <= 300
