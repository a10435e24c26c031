# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Thresholds from normal images: the quantile, its guarantee, and what is calibrated on what."""

import re
import shutil

import numpy as np
import pytest
import torch
from helpers import data_trees
from helpers.runs import build, engine
from PIL import Image

from anomalib_genclip import GenCLIP, Inferencer, cli
from anomalib_genclip.persistence.prompts_file import load_weights
from anomalib_genclip.pipelines.calibration import calibrate, conformal_threshold
from anomalib_genclip.utils.files import file_hash


@pytest.fixture(scope="module")
def normal(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibration") / "normal"
    for i in range(19):
        data_trees.write_normal(folder / f"{i:02}.png", seed=i)
    return folder


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    folder = tmp_path_factory.mktemp("few")
    for i in range(3):
        data_trees.write_normal(folder / f"{i}.png", seed=100 + i)
    return folder


@pytest.mark.parametrize(("rate", "rank"), [(0.05, 19), (0.1, 18), (0.25, 15), (0.5, 10), (0.99, 1)])
def test_threshold_is_the_conformal_quantile(rate, rank):
    scores = torch.linspace(0, 1, 19)[torch.randperm(19)]
    assert conformal_threshold(scores, rate) == scores.sort().values[rank - 1]
    ties = torch.tensor([0.1] * rank + [0.5] * (19 - rank))
    assert (ties > conformal_threshold(ties, rate)).sum() == 19 - rank


@pytest.mark.parametrize(("count", "rate"), [(9, 0.1), (19, 0.05), (99, 0.01), (999, 0.001)])
def test_a_rate_that_the_images_cannot_support_names_how_many_are_needed(count, rate):
    assert conformal_threshold(torch.rand(count), rate) <= 1
    with pytest.raises(ValueError, match=rf"at least {count} normal images, and there are {count - 1}\b"):
        conformal_threshold(torch.rand(count - 1), rate)


def test_thresholds_are_quantiles_of_scores_and_of_the_maps_highest_values(normal):
    inferencer = Inferencer(build(class_name="screw"), precision="float32")
    thresholds = calibrate(inferencer, normal, 0.1)
    records = inferencer.predict(sorted(normal.iterdir()))
    scores, highest = (
        sorted(values) for values in zip(*((r.score, r.anomaly_map.max()) for r in records), strict=True)
    )
    assert thresholds == pytest.approx({"image": scores[17], "pixel": highest[17]}, abs=1e-6)
    assert sum(record.anomalous for record in records) <= 2
    assert inferencer.image_threshold == thresholds["image"]
    assert inferencer.calibration["scores"] == pytest.approx(scores, abs=1e-6)
    assert inferencer.calibration["gray_values"] == pytest.approx([record.gray_value for record in records], abs=1e-6)
    assert inferencer.predict(np.full((9, 9, 3), 51, np.uint8)).gray_value == pytest.approx(0.2, abs=1e-6)
    assert inferencer.model.post_processor.keep_thresholds


def test_datamodule_gives_normal_training_images_that_are_no_references(tmp_path):
    inferencer = Inferencer(build(k_shot=3))
    calibrate(inferencer, data_trees.mvtec_ad(tmp_path / "data", normal=12), 0.1)
    made_from = {"false_alarm_rate": 0.1, "normal_images": 9, "source": "MVTecAD", "class_name": "bottle"}
    assert inferencer.model.post_processor.calibration.items() >= made_from.items()
    assert inferencer.model.model.references.categories == ["bottle"]
    with pytest.raises(ValueError, match="at least 19 normal images, and there are 9"):
        calibrate(inferencer, data_trees.mvtec_ad(tmp_path / "data", normal=12), 0.05)


@pytest.mark.parametrize(("given", "expected"), [("flask", "flask"), (None, "bottle")])
def test_class_name_is_the_given_one_or_the_datamodules_and_not_an_earlier_calibrations(tmp_path, given, expected):
    model = build(k_shot=2)
    model.names = model.names.of(None, "wood", 68)
    inferencer = Inferencer(model, given)
    calibrate(inferencer, data_trees.mvtec_ad(tmp_path / "data", normal=11), 0.1)
    assert model.post_processor.calibration["class_name"] == model.names.of_file == expected


def test_a_test_keeps_thresholds_and_references_of_a_calibration_on_folders(normal, few, tmp_path):
    model = build(k_shot=2, few_shot_source=few, seed=0)
    thresholds = calibrate(Inferencer(model), normal, 0.1)
    (before,) = model.model.references.memories
    engine(tmp_path).test(model, datamodule=data_trees.mvtec_ad(tmp_path / "data", normal=2))
    assert list(model.model.references.memories) == [before]
    assert model.model.references.categories == ["bottle"]
    assert {name: float(value) for name, value in model.post_processor.raw_thresholds().items()} == thresholds


def test_references_among_the_images_are_an_error_that_names_them(normal, tmp_path):
    shutil.copy(normal / "03.png", tmp_path / "other_name.png")
    with pytest.raises(ValueError, match=r"References are among the normal images \(1\).*03\.png"):
        calibrate(Inferencer(build(k_shot=1, few_shot_source=tmp_path)), normal, 0.1)


def test_several_categories_are_an_error(cross):
    with pytest.raises(ValueError, match=r"one category, and .* has 2: bottle, wood"):
        calibrate(Inferencer(build()), cross)


@pytest.mark.parametrize(
    ("settings", "rate", "message"),
    [
        ({}, 0, "false_alarm_rate=0 "),
        ({}, "many", "false_alarm_rate='many'"),
        ({"post_processor": False}, 0.1, "default post_processor"),
        ({"k_shot": 2}, 0.1, "k_shot=2 has nothing to draw from: give few_shot_source"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(normal, settings, rate, message):
    with pytest.raises(ValueError, match=message):
        calibrate(Inferencer(build(**settings)), normal, rate)


def test_command_writes_what_the_thresholds_were_made_from(normal, few, tmp_path, capsys, caplog):
    normal, turned = shutil.copytree(normal, tmp_path / "normal"), Image.Exif()
    turned[0x0112] = 3
    for name in ("00", "01"):
        Image.open(normal / f"{name}.png").save(normal / f"{name}.png", exif=turned)
    few = shutil.copytree(few, tmp_path / "few")
    for file in (normal / "02.png", *few.iterdir()):
        image = Image.open(file)
        image.putalpha(Image.linear_gradient("L").resize(image.size))
        image.save(file)
    (normal / "film.gif").touch()
    out = tmp_path / "line3.safetensors"
    arguments = ["--weights", "tiny-demo", "--normal", str(normal), "--out", str(out), "--false_alarm_rate", "0.05"]
    arguments += ["--class_name", "leather", "--k_shot", "2", "--few_shot_source", str(few), "--tiles.size", "24"]
    assert cli.main(["calibrate", *arguments]) == 0
    hidden, left_out, first, second = caplog.messages
    assert hidden.startswith("2 images with transparent pixels, which are put on white: ")
    assert (
        left_out == f"Left out, because anomalib does not read images with these suffixes: 1 file: {normal}/film.gif."
    )
    assert first.startswith("2 images with an EXIF orientation tag")
    assert second.startswith("1 image with transparent pixels")
    printed = [float(number) for number in re.findall(r"_threshold (0\.\d+)", capsys.readouterr().out)]
    saved = load_weights(out)
    made_from = {"false_alarm_rate": 0.05, "normal_images": 19, "source": "normal", "class_name": "leather"}
    assert saved.description.calibration.items() >= made_from.items()
    assert (saved.description.class_name, saved.description.tiles["size"]) == ("leather", 24)
    assert {*saved.description.references[0].images} <= {file_hash(file) for file in few.iterdir()}
    assert [float(saved.thresholds[name]) for name in ("image", "pixel")] == pytest.approx(printed, abs=1e-4)
    again = GenCLIP(weights=out, visualizer=False).save_weights(tmp_path / "again.safetensors", references=True)
    assert load_weights(again).description == saved.description


def test_a_file_alarms_at_its_rate_without_being_told_its_product(normal, tmp_path):
    """Its name and its tiles are the default: with others the rate would be another."""
    model = GenCLIP(weights="tiny-demo", class_name="leather", class_name_filter=False, tiles={"size": 24})
    inferencer = Inferencer(model, precision="float32")
    calibrate(inferencer, normal, 0.1)
    path = inferencer.save(tmp_path / "line3.safetensors")
    image = normal / "00.png"
    found = [Inferencer(path, name, precision="float32").predict(image).score for name in (None, "wood")]
    assert found[0] == inferencer.predict(image).score != found[1]
