# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Scores of uploaded images."""

from pathlib import Path
from shutil import copyfile

import numpy as np
import pytest
from PIL import Image

from anomalib_genclip import GenCLIP, Inferencer
from anomalib_genclip.app.examples import write_examples
from anomalib_genclip.app.handlers import Handlers
from anomalib_genclip.app.scoring import Scorer
from anomalib_genclip.components import ignore_mask


@pytest.fixture(scope="module")
def scorer():
    return Scorer("tiny-demo")


@pytest.fixture(scope="module")
def crack(tmp_path_factory):
    return write_examples(tmp_path_factory.mktemp("examples"))[0][0]


def record_of(scorer, *given):
    ((record, *_),), problems = scorer.score(*given)
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
    assert "99 tokens" in problem
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
    assert own.model.k_shot == Scorer(calibrated).model.k_shot
    assert scorer.products == []
    assert record_of(scorer, [crack]).parts.cls_distance is None  # nothing is left of them


def mask_file(path, left, size=(320, 320)):
    mask = Image.new("L", size)
    mask.paste(255, (left, 0, *size))
    Path(path).parent.mkdir(exist_ok=True)
    mask.save(path)
    return str(path)


def test_mask_of_a_visitor_holds_for_one_call(scorer, crack, tmp_path):
    before = record_of(scorer, [crack])
    half = mask_file(tmp_path / "half.png", 160)
    (image,), problems = scorer.score([crack], None, (), [half])
    assert not problems
    assert not image.record.anomaly_map[:, image.record.anomaly_map.shape[1] // 2 + 1 :].any()
    assert image.record.ignored.mean() == 0.5
    for left, size, words in ((0, (320, 320), "all.png"), (10, (320, 200), "320 x 200"), (0, (0, 0), "broken.png")):
        path = tmp_path / f"{'broken' if not size[0] else 'all' if not left else 'wide'}.png"
        path.write_bytes(b"no image") if not size[0] else mask_file(path, left, size)
        images, (problem,) = scorer.score([crack], None, (), [str(path)])
        assert not images
        assert words in problem
        assert str(tmp_path) not in problem
    assert record_of(scorer, [crack]) == before
    assert scorer.score([crack])[0][0].record.ignored is None


def test_masks_of_a_visitor_are_for_the_images_of_their_names_and_read_once(scorer, crack, tmp_path, monkeypatch):
    other = str(copyfile(crack, tmp_path / "other.png"))
    masks = [mask_file(tmp_path / name / Path(file).name, left, (32, 32)) for name, file, left in
             (("masks", crack, 16), ("masks", other, 8), ("more", "unused.png", 0))]  # fmt: skip
    read, real = [], ignore_mask.read_ignore_mask
    monkeypatch.setattr(ignore_mask, "read_ignore_mask", lambda path: read.append(path.stem) or real(path))
    images, problems = scorer.score([crack, other], None, [other], masks)
    assert not problems
    assert sorted(read) == [Path(crack).stem, "other", "other"]  # once as a good part
    for image, kept in zip(images, (1 / 2, 1 / 4), strict=True):
        counts = image.record.anomaly_map > 0
        assert counts.mean() == kept
        np.testing.assert_array_equal(image.record.ignored, ~counts)
    images, (problem,) = scorer.score([crack, other], None, (), masks[1:])
    assert [image.record.path for image in images] == ["other.png"]
    assert "has no mask for corrugated_cardboard_crack.png: it must have corrugated_cardboard_crack.png" in problem
    assert "/" not in problem
    assert not scorer.score([crack])[1]


def test_another_product_than_that_of_the_calibration_is_told(crack, tmp_path):
    model = GenCLIP(weights="tiny-demo", class_name="bolt")
    note = {"class_name": "bolt", "false_alarm_rate": 0.1, "normal_images": 9}
    model.post_processor.set_thresholds(0.4, 0.4, note)
    scorer = Scorer(str(model.save_weights(tmp_path / "bolt.safetensors")))
    for references in ([], [crack], []):  # a visitor's good parts are compared with, and forgotten
        (image,), problems = scorer.score([crack], "gear", references)
        if references:
            assert (problems, image.record.image_threshold) == ([], None)
        else:
            assert problems == [
                "The thresholds were calibrated for 'bolt' and may not hold for 'gear': calibrate again."
            ]
        assert scorer.model.post_processor.calibration == note
    assert not scorer.score([crack])[1]


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
