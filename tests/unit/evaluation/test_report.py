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

from anomalib_genclip.evaluation import METRIC_NAMES, EvaluationResult
from anomalib_genclip.evaluation.report import ResultTable
from anomalib_genclip.evaluation.scores import ERROR_RATES


@pytest.fixture
def partial() -> EvaluationResult:
    full = dict.fromkeys(METRIC_NAMES, 0.875)
    some = dict.fromkeys(METRIC_NAMES[:3], 0.5)
    return EvaluationResult({"a|b, [red]$x": full, "plain": some}, notes=["plain: no mask"])


def printed(result: EvaluationResult) -> str:
    console = Console(file=io.StringIO(), width=80)
    result.print(console)
    return console.file.getvalue()


def test_files_and_tables_show_what_is_undefined(partial, tmp_path):
    partial.write(tmp_path)
    plain = json.loads((tmp_path / "metrics.json").read_text())
    assert plain["rows"][1] == {"category": "plain", **dict.fromkeys(METRIC_NAMES), **partial.categories["plain"]}
    assert (plain["rows"][2]["image_AP"], plain["rows"][2]["pixel_AP"]) == (0.6875, 0.875)
    assert plain["remarks"] == ["Pixel metrics: exact, anomalib's own.", "plain: no mask"]
    rows = list(csv.DictReader(io.StringIO(partial.table().as_csv())))
    assert [row["category"] for row in rows] == ["a|b, [red]$x", "plain", "mean"]
    assert [row["pixel_AUPRO"] for row in rows] == ["0.875", "", "0.875"]
    lines = partial.table().as_markdown().splitlines()
    assert "| a\\|b, [red]$x | 87.5 | 87.5 | 87.5 | 87.5 | 87.5 | 87.5 | 87.5 |" in lines
    assert "| plain | 50.0 | 50.0 | 50.0 | - | - | - | - |" in lines
    assert "| mean | 68.8 | 68.8 | 68.8 | 87.5 | 87.5 | 87.5 | 87.5 |" in lines
    assert "- plain: no mask" in lines


def test_intervals_stand_beside_their_metric_and_the_mean_has_one_if_all_have():
    values = {"image_AUROC": 0.875, "pixel_AUPRO": 0.5}
    draws = {"image_AUROC": [0.8, 0.9], "pixel_AUPRO": [0.4, 0.6]}
    result = EvaluationResult({"a": values, "b": values, "c": {}}, draws={"a": draws, "b": {"image_AUROC": [0.7, 1.0]}})
    rows = result.table().rows
    assert list(rows[0])[:5] == ["category", "image_AUROC", "image_AUROC_low", "image_AUROC_high", "image_AP"]
    assert (rows[0]["image_AUROC_low"], rows[2]["image_AUROC"]) == (pytest.approx(0.8025), None)
    assert rows[3]["image_AUROC_high"] == pytest.approx(0.95 - 0.025 * 0.2)  # of the means 0.75 and 0.95
    assert "pixel_AUPRO_low" not in rows[3]
    lines = result.table().as_markdown().splitlines()
    assert lines[2].startswith("| category | image_AUROC | image_AP |")
    assert lines[4].startswith("| a | 87.5 [80.2, 89.8] | - |")
    assert "[" not in printed(result).partition("Intervals")[0]


def test_rows_may_lack_columns_and_hold_any_text():
    table = ResultTable("Title", [{"a": "x|y", "b": 8}, {"a": "c", "note": "x\ny"}, {"a": "d", "b": 1234.5}])
    assert table.as_markdown().splitlines()[4:] == ["| x\\|y | 8 | - |", "| c | - | x y |", "| d | 1234 | - |"]
    assert table.as_csv() == 'a,b,note\nx|y,8,\nc,,"x\ny"\nd,1234.5,\n'  # 8 stays whole


def test_terminal_is_narrow_and_has_a_table_of_error_rates(partial):
    partial.streamed = ["plain"]
    partial.categories["plain"] |= dict(zip(ERROR_RATES, (0.125, 0.5, 0.75, 0.625), strict=True))
    rates, _, metrics = printed(partial).partition("Test metrics")
    for row in ("plain", "mean"):
        assert re.search(rf"{row} +12\.5 +50\.0 +75\.0 +62\.5", rates)
    for text in ("a|b, [red]$x", "68.8", "streaming for plain", "interpolated on the ROC curve", "plain: no mask"):
        assert text in metrics
    assert partial.table().as_csv().splitlines()[2].endswith("0.125,0.5,0.75,0.625")


def test_failing_write_leaves_the_old_file(partial, tmp_path, monkeypatch, caplog):
    (tmp_path / "metrics.csv").write_text("old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert partial.write(tmp_path) == []
    assert str(tmp_path) in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]
    assert (tmp_path / "metrics.csv").read_text() == "old"


def test_chart_is_a_picture_of_a_height_that_has_an_end_and_leaves_matplotlib_alone(partial):
    before = mpl.get_backend(auto_select=False)
    for result in (partial, EvaluationResult({}), EvaluationResult({str(i): {} for i in range(20)})):
        picture = Image.open(io.BytesIO(result.chart()))
        assert picture.format == "PNG"
        assert picture.width > 1000
        assert picture.height <= 20_000
    assert mpl.get_backend(auto_select=False) == before
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
