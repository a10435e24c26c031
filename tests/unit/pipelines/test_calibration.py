# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Thresholds from normal images: the quantile, its guarantee, and what is calibrated on what."""

import json
import re
import shutil

import pytest
import torch
from anomalib.data import PredictDataset
from helpers import data_trees
from helpers.runs import build, engine
from safetensors import safe_open

from anomalib_genclip import CrossDataset, GenCLIP, cli
from anomalib_genclip.data.normal_images import file_hash
from anomalib_genclip.evaluation.calibration import conformal_threshold


@pytest.fixture
def normal(tmp_path):
    """A folder of 19 normal images."""
    folder = tmp_path / "normal"
    for i in range(19):
        data_trees.write_normal(folder / f"{i:02}.png", seed=i)
    return folder


@pytest.mark.parametrize(("rate", "rank"), [(0.05, 19), (0.1, 18), (0.25, 15), (0.5, 10), (0.99, 1)])
def test_threshold_is_the_conformal_quantile(rate, rank):
    scores = torch.linspace(0, 1, 19)[torch.randperm(19)]
    assert conformal_threshold(scores, rate) == scores.sort().values[rank - 1]


@pytest.mark.parametrize(("count", "rate"), [(9, 0.1), (19, 0.05), (99, 0.01), (999, 0.001)])
def test_a_rate_that_the_images_cannot_support_names_how_many_are_needed(count, rate):
    assert conformal_threshold(torch.rand(count), rate) <= 1
    with pytest.raises(ValueError, match=rf"at least {count} normal images, and there are {count - 1}\b"):
        conformal_threshold(torch.rand(count - 1), rate)


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.3])
def test_expected_rate_of_false_alarms_is_the_chosen_one(rate):
    """With n = 39, exactly floor(40 a) / 40 in expectation; the mean of 4,000 draws is within 4 standard errors."""
    draws = torch.rand(4000, 40)
    alarms = [bool(draw[-1] > conformal_threshold(draw[:-1], rate)) for draw in draws]
    assert sum(alarms) / len(alarms) == pytest.approx(rate, abs=4 * (rate * (1 - rate) / len(alarms)) ** 0.5)


def test_ties_do_not_raise_the_rate():
    scores = torch.tensor([0.1] * 10 + [0.5] * 9)
    assert not (scores > conformal_threshold(scores, 0.1)).any()


def test_thresholds_are_quantiles_of_scores_and_of_the_maps_highest_values(normal, tmp_path):
    model = build(class_name="screw")
    thresholds = model.calibrate(normal, 0.1)
    results = engine(tmp_path).predict(model, dataset=PredictDataset(normal))
    scores = torch.cat([batch.pred_score for batch in results]).sort().values
    highest = torch.stack([batch.anomaly_map.max() for batch in results]).sort().values
    assert thresholds == pytest.approx({"image": float(scores[17]), "pixel": float(highest[17])}, abs=1e-6)
    assert sum(int(batch.pred_label) for batch in results) <= 2
    assert model.post_processor.keep_thresholds


def test_datamodule_gives_normal_training_images_that_are_no_references(tmp_path):
    data = data_trees.mvtec_ad(tmp_path / "data", normal=12)
    model = build(k_shot=3)
    model.calibrate(data, 0.1)
    (references,) = model.model.references.describe()
    assert references["category"] == "bottle"
    made_from = {"false_alarm_rate": 0.1, "normal_images": 9, "source": "MVTecAD", "class_name": "bottle"}
    assert model.post_processor.calibration == made_from
    with pytest.raises(ValueError, match="at least 19 normal images, and there are 9"):
        model.calibrate(data, 0.05)


def test_a_test_keeps_thresholds_and_references_of_a_calibration_on_folders(normal, tmp_path):
    data = data_trees.mvtec_ad(tmp_path / "data", normal=2)
    few = tmp_path / "few"
    for i in range(2):
        data_trees.write_normal(few / f"{i}.png", seed=100 + i)
    model = build(k_shot=2, few_shot_source=few, seed=0)
    thresholds = model.calibrate(normal, 0.1)
    (before,) = model.model.references.memories
    engine(tmp_path).test(model, datamodule=data)
    assert list(model.model.references.memories) == [before]
    assert model.model.references.categories == ["bottle"]
    kept = {name: float(value) for name, value in model.post_processor.raw_thresholds().items()}
    assert kept == thresholds


def test_references_among_the_images_are_an_error_that_names_them(normal, tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    shutil.copy(normal / "03.png", few / "other_name.png")
    model = build(k_shot=1, few_shot_source=few)
    with pytest.raises(ValueError, match=r"1 of the normal images are references.*03\.png"):
        model.calibrate(normal, 0.1)


def test_several_categories_are_an_error(tmp_path):
    source = data_trees.mvtec_ad(tmp_path / "source", ("cable",), normal=6, anomalous=6)
    target = data_trees.mvtec_ad(tmp_path / "target", ("bottle", "tile"))
    data = CrossDataset(source, target, target_categories=["bottle", "tile"], num_workers=0)
    with pytest.raises(ValueError, match=r"one category, and .* has 2: bottle, tile"):
        build().calibrate(data)


@pytest.mark.parametrize("rate", [0, 1, "many"])
def test_impossible_rates_are_refused(normal, rate):
    with pytest.raises(ValueError, match="false_alarm_rate"):
        build().calibrate(normal, rate)


def test_thresholds_need_the_default_post_processor(normal):
    with pytest.raises(ValueError, match="default post_processor"):
        build(post_processor=False).calibrate(normal)


def test_nothing_to_draw_references_from_is_an_error(normal):
    with pytest.raises(ValueError, match=r"k_shot=2 has nothing to draw from: give few_shot_source"):
        build(k_shot=2).calibrate(normal, 0.1)


def test_command_writes_what_the_thresholds_were_made_from(normal, tmp_path, capsys):
    few = tmp_path / "few"
    for i in range(3):
        data_trees.write_normal(few / f"{i}.png", seed=100 + i)
    out = tmp_path / "line3.safetensors"
    arguments = ["--weights", "tiny-demo", "--normal", str(normal), "--out", str(out), "--false_alarm_rate", "0.05"]
    product = ["--class_name", "leather"]
    assert cli.main(["calibrate", *arguments, "--k_shot", "2", "--few_shot_source", str(few), *product]) == 0
    image, pixel = map(float, re.findall(r"_threshold (0\.\d+)", capsys.readouterr().out))
    with safe_open(out, "pt") as file:
        metadata = json.loads(file.metadata()["genclip"])
    made_from = {"false_alarm_rate": 0.05, "normal_images": 19, "source": "normal", "class_name": "leather"}
    assert metadata["calibration"] == made_from
    assert set(metadata["references"][0]["images"]) <= {file_hash(file) for file in few.glob("*")}
    model = GenCLIP(weights=out, class_name="leather", visualizer=False)
    thresholds = model.post_processor.raw_thresholds()
    assert (float(thresholds["image"]), float(thresholds["pixel"])) == pytest.approx((image, pixel), abs=1e-4)
    results = engine(tmp_path).predict(model, dataset=PredictDataset(normal))
    assert not any(bool(batch.pred_label) for batch in results)
    again = model.save_weights(tmp_path / "again.safetensors", references=True)
    with safe_open(again, "pt") as file:
        assert json.loads(file.metadata()["genclip"])["calibration"] == metadata["calibration"]


def test_command_names_the_rate_that_is_possible(normal, tmp_path, capsys):
    arguments = ["--weights", "tiny-demo", "--normal", str(normal), "--out", str(tmp_path / "out.safetensors")]
    assert cli.main(["calibrate", *arguments]) == 2
    assert "needs at least 99 normal images, and there are 19" in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()
