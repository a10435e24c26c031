# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Scores of uploaded images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomalib_genclip import GenCLIP, Inferencer
from anomalib_genclip.app.examples import write_examples
from anomalib_genclip.app.handlers import Handlers
from anomalib_genclip.app.scoring import Scorer
from anomalib_genclip.pipelines.calibration import calibrate


@pytest.fixture(scope="module")
def scorer():
    return Scorer("tiny-demo")


@pytest.fixture(scope="module")
def crack(tmp_path_factory):
    return write_examples(tmp_path_factory.mktemp("examples"))[0][0]


def record_of(scorer, *given):
    ((record, _),), problems = scorer.score(*given)
    assert not problems
    return record


def test_scores_are_those_of_the_inferencer(scorer, crack):
    (image,), _ = scorer.score([crack], "corrugated cardboard")
    expected = Inferencer("tiny-demo", precision="float32").predict(crack, "corrugated cardboard")
    assert image.record.path == "corrugated_cardboard_crack.png"
    assert image.record.score == expected.score
    assert image.record.regions == expected.regions
    assert image.picture.size == (960, 960)


def test_bad_class_names_and_files_are_named_once(scorer, crack, tmp_path):
    assert record_of(scorer, [crack], None).class_name_filter is None
    assert record_of(scorer, [crack], "pill").class_name_filter == "replaced"
    images, (problem,) = scorer.score([crack, crack], "gear " * 99)
    assert not images
    assert "Give a shorter name" in problem
    (tmp_path / "broken.png").write_bytes(b"no image")
    images, (problem,) = scorer.score([str(tmp_path / "broken.png"), crack], None)
    assert len(images) == 1
    assert problem.startswith("broken.png cannot be used")
    Image.new("RGB", (90, 60)).save(
        tmp_path / "pages.tif", save_all=True, append_images=[Image.new("RGB", (90, 60), "white")]
    )
    images, (problem,) = scorer.score([str(tmp_path / "pages.tif"), crack], None)
    assert len(images) == 2
    assert problem == "1 image with several pages or frames: only the first is used: pages.tif."
    _, (problem,) = scorer.score([crack, crack], None, [str(tmp_path / "broken.png")])
    assert problem.startswith("Good part broken.png cannot be used")


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibrated")
    for name, value in (("references", 0), ("normal", 20)):
        (folder / name).mkdir()
        Image.fromarray(np.full((112, 112, 3), value, np.uint8)).save(folder / name / "bolt.png")
    model = GenCLIP(weights="tiny-demo", class_name="bolt", k_shot=1, few_shot_source=str(folder / "references"))
    calibrate(Inferencer(model), str(folder / "normal"), 0.5)
    return str(model.save_weights(folder / "bolt.safetensors", references=True))


def test_good_parts_of_a_visitor_replace_references_for_one_call(scorer, crack, calibrated):
    own = Scorer(calibrated)
    assert own.products == ["bolt"]
    before = record_of(own, [crack], "bolt")
    assert before.p_value == 0.5  # one of the good part and this one
    found = record_of(own, [crack], "gear", [crack])
    assert found.p_value is None
    assert found.parts.cls_distance < before.parts.cls_distance
    assert found.score == pytest.approx(record_of(scorer, [crack], "gear", [crack]).score)
    assert record_of(own, [crack], "bolt").score == before.score
    assert record_of(own, [crack]).class_name == before.class_name
    assert record_of(own, [crack], "bolt").image_threshold == before.image_threshold
    assert record_of(own, [crack], "bolt").p_value == 0.5
    assert scorer.products == []
    assert record_of(scorer, [crack]).parts.cls_distance is None  # nothing is left of them


def test_page_of_another_product_starts_without_examples(calibrated, crack):
    does = Handlers(Scorer(calibrated), [(crack, "corrugated cardboard")])
    assert (does.class_name, does.examples) == ("bolt", [])
    assert does.open(*does.reset_thresholds([])[:2], 0.8)[0] == []


def test_weights_that_do_not_explain_themselves_are_refused(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"nothing\.safetensors"):
        Scorer(str(tmp_path / "nothing.safetensors"))
    monkeypatch.setattr(Inferencer, "__init__", lambda own, *_, **__: setattr(own, "model", None))
    with pytest.raises(ValueError, match="exported model"):
        Scorer("model.onnx")


def test_one_example_is_normal(tmp_path):
    examples = {Path(path).stem: name for path, name in write_examples(tmp_path)}
    assert len(list(tmp_path.iterdir())) == len(examples) > 3
    assert [stem.endswith("_good") for stem in examples].count(True) == 1
    assert all(stem.replace("_", " ").startswith(name) for stem, name in examples.items())
