# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The model behind the page."""

import pytest
from PIL import Image

from anomalib_genclip import GenCLIP, predict
from anomalib_genclip.app.detector import Detector
from anomalib_genclip.app.examples import write_examples
from anomalib_genclip.callbacks.reference_images import ReferenceImages
from anomalib_genclip.data.normal_images import images_of_folder


@pytest.fixture(scope="module")
def detector():
    """The bundled demonstration."""
    return Detector("tiny-demo")


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """An image with a defect that is found."""
    return write_examples(tmp_path_factory.mktemp("examples"))[0]


def test_scores_are_those_of_predict(detector, example):
    (expected,) = predict("tiny-demo", example.path, class_name=example.class_name, precision="float32", num_workers=0)
    record = detector.examine(example.path, example.class_name).judged(*detector.thresholds(references=False))
    row, wanted = record.as_row(), expected.as_row()
    assert row.pop("path") == "corrugated_cardboard_crack.png"
    assert wanted.pop("path") == example.path
    assert row == pytest.approx(wanted, abs=1e-5)
    assert record.region_rows() == [pytest.approx(row, abs=1e-5) for row in expected.region_rows()]


def test_thresholds_change_the_label_and_the_regions_alone(detector, example):
    found = detector.examine(example.path, example.class_name)
    strict = found.judged(1, 1)
    assert (strict.anomalous, strict.regions) == (False, [])
    assert found.judged(0.1, 0.1).anomalous
    assert found.judged(0.1, 0.0).as_row()["anomalous_share"] == 1
    assert strict.score == found.record.score


def test_branches_and_parts_are_kept_without_what_is_large(detector, example):
    found = detector.examine(example.path, example.class_name)
    decision = found.decision
    assert [list(layers) for layers in decision.layers.values()] == [[2, 4, 6, 8]] * 2
    assert (decision.image.numel(), decision.maps) == (0, {})
    assert max(found.picture.size) == 960


def test_class_name_is_the_given_one_or_that_of_the_model(detector, example):
    assert detector.examine(example.path, "").decision.class_name == "object"
    assert detector.examine(example.path, "").record.class_name_filter is None
    assert detector.examine(example.path, "pill").record.class_name_filter == "replaced"
    with pytest.raises(ValueError, match="Give a shorter name"):
        detector.examine(example.path, "gear " * 99)
    detector.model.class_name = "corrugated_cardboard"
    assert detector.examine(example.path, "").decision.class_name == "corrugated cardboard"
    detector.model.class_name = None


def test_references_of_a_visitor_replace_those_of_the_weights_for_one_image(detector, example, tmp_path):
    model = GenCLIP(weights="tiny-demo", class_name="bolt", k_shot=1, few_shot_source=str(tmp_path))
    Image.new("RGB", (112, 112)).save(tmp_path / "black.png")
    ReferenceImages(model.product, seed=0).draw(model, {"bolt": images_of_folder(str(tmp_path), "few_shot_source")})
    own = Detector(str(model.save_weights(tmp_path / "prompts.safetensors", references=True)))
    before = own.examine(example.path, "bolt")
    with pytest.raises(ValueError, match="no references for images of category 'gear'"):
        own.examine(example.path, "gear")
    found = own.examine(example.path, "gear", [example.path])
    assert found.decision.cls_distance < before.decision.cls_distance
    assert found.record.score == pytest.approx(detector.examine(example.path, "gear", [example.path]).record.score)
    assert own.examine(example.path, "bolt").record.score == before.record.score
    assert own.thresholds(references=True) == (0.5, 0.5)


def test_weights_that_do_not_explain_themselves_are_refused(tmp_path):
    (tmp_path / "model.onnx").touch()
    with pytest.raises(ValueError, match="torch does not run"):
        Detector(str(tmp_path / "model.onnx"))
    with pytest.raises(FileNotFoundError, match=r"nothing\.safetensors"):
        Detector(str(tmp_path / "nothing.safetensors"))
