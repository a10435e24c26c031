# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The one door: whatever weights and images are given, the record is that of the model itself."""

import logging
from unittest import mock

import numpy as np
import pytest
import torch
from anomalib.data import PredictDataset
from helpers import data_trees
from helpers.runs import build, engine, save_checkpoint
from PIL import Image

from anomalib_genclip import GenCLIP, Inferencer
from anomalib_genclip.components.references import ReferenceMemory


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for number in range(3):
        data_trees.write_normal(folder / f"{number}.png", seed=number)
    with Image.open(folder / "2.png") as image:
        image.resize((90, 50)).save(folder / "2.png")
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    model = build(seed=0)
    torch.nn.init.normal_(model.model.prompts.abnormal, std=0.2)
    model.post_processor.set_thresholds(0.4, 0.45)
    return model.save_weights(tmp_path_factory.mktemp("weights") / "prompts.safetensors")


@pytest.fixture(scope="module")
def inferencer(weights):
    return Inferencer(weights, "metal_nut", device="cpu", precision="float32")


def with_references(weights, name: str) -> GenCLIP:
    model = GenCLIP(weights=weights, visualizer=False, class_name=name)
    layers, width = len(model.model.layers), model.model.spec.vision_width
    patches, cls = torch.randn(layers, 5, width), torch.randn(1, 1, width)
    usual = torch.tensor(0.5)
    model.model.references.set({name: ReferenceMemory(patches, cls, usual, usual, ["hash"])})
    return model


def test_records_are_those_of_anomalibs_engine(weights, inferencer, folder, tmp_path):
    model = GenCLIP(weights=weights, class_name="metal_nut", visualizer=False)
    batches = engine(tmp_path).predict(model, dataset=PredictDataset(folder))
    expected = {path: batch for batch in batches for path in batch.image_path}
    records = inferencer.predict([str(path) for path in sorted(folder.iterdir())])
    assert [record.path for record in records] == sorted(expected)
    for record in records:
        batch = expected[record.path]
        assert record.score == pytest.approx(batch.pred_score.item(), abs=1e-6)
        np.testing.assert_allclose(record.anomaly_map, batch.anomaly_map[0], atol=1e-5)
        np.testing.assert_array_equal(record.mask, batch.pred_mask[0])
        assert record.anomalous == batch.pred_label.item() == (record.label == "anomalous")
        assert (record.image_threshold, record.pixel_threshold) == pytest.approx((0.4, 0.45))
    assert records[2].size == (50, 90)


def test_images_may_come_in_any_form(inferencer, folder):
    path = folder / "0.png"
    with Image.open(path) as file:
        image = file.convert("RGB")
    array = np.asarray(image)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    expected = inferencer(path).score
    for form in (str(path), image, array, tensor):
        assert inferencer(form).score == expected
    assert inferencer(tensor / 255).score == pytest.approx(expected, abs=1e-5)
    assert [record.score for record in inferencer([array, image])] == pytest.approx([expected] * 2, abs=1e-6)
    assert inferencer([]) == []


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((5, 5), np.uint8), r"ndarray \(5, 5\) is no image"),
        (np.zeros((5, 5, 4), np.uint8), "is no image"),
        (torch.zeros(3, 5, 5, dtype=torch.int32), "this image has torch.int32"),
        (torch.full((3, 5, 5), 255.0), "from 0 to 1"),
        (Image.new("I;16", (5, 5)), "more than 8 bits"),
        (7, "int .* is no image"),
    ],
)
def test_what_is_no_image_is_refused(inferencer, image, message):
    with pytest.raises(ValueError, match=message):
        inferencer(image)


def test_model_and_checkpoint_give_the_record_of_the_prompts_file(weights, inferencer, folder, tmp_path):
    expected = inferencer(folder / "0.png")
    model = GenCLIP(weights=weights, class_name="metal_nut", visualizer=False)
    save_checkpoint(model, tmp_path / "model.ckpt")
    for source in (model, tmp_path / "model.ckpt"):
        record = Inferencer(source, device="cpu", precision="float32")(folder / "0.png")
        assert record.score == pytest.approx(expected.score, abs=1e-6)
        assert (record.label, record.class_name) == (expected.label, expected.class_name)
        np.testing.assert_array_equal(record.mask, expected.mask)
    assert Inferencer(model, image_threshold=0.0)(folder / "0.png").anomalous


def test_wrong_settings_and_broken_files_are_refused(weights, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no weights nothing\.onnx.*tiny-demo"):
        Inferencer("nothing.onnx")
    with pytest.raises(ValueError, match="image_threshold=2"):
        Inferencer(weights, image_threshold=2)
    with pytest.raises(ValueError, match="is empty"):
        Inferencer(weights, " ")
    (tmp_path / "no.onnx").write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"no\.onnx cannot be opened as a model"):
        Inferencer(tmp_path / "no.onnx")
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(OSError, match=r"broken\.png"):
        Inferencer(weights)(tmp_path / "broken.png")


def test_what_is_not_used_of_images_is_said_once(inferencer, tmp_path, caplog):
    Image.new("RGBA", (90, 60)).save(tmp_path / "hidden.png")
    with caplog.at_level(logging.WARNING):
        inferencer([tmp_path / "hidden.png", Image.new("RGBA", (9, 6))])
        inferencer(tmp_path / "hidden.png")
    (message,) = [text for text in caplog.messages if "transparent" in text]
    assert message.startswith("2 images with transparent pixels, which are put on white: ")
    assert message.endswith("hidden.png, image 1.")


def test_name_is_the_given_one_then_the_images_then_the_files(weights, folder):
    pixels = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)

    def names(inferencer, *categories):
        batch = torch.stack([inferencer.transform(image) for image in pixels])
        records = inferencer.predict_batch(batch, ["a", "b"], [(64, 64)] * 2, categories, parts=True)
        return [record.parts.class_name for record in records]

    assert names(Inferencer(weights, "bolt"), "metal_nut", None) == ["bolt", "bolt"]
    assert names(Inferencer(weights), "metal_nut", None) == ["metal nut", "object"]
    file = with_references(weights, "hex_nut").save_weights(folder.parent / "product.safetensors", references=True)
    own = Inferencer(file)
    assert own.class_name == "hex nut"
    assert names(own, "hex_nut", None) == ["hex nut", "hex nut"]
    assert own.predict(folder / "0.png", "hex_nut").score == own.predict(folder / "0.png").score


def test_an_image_whose_name_cannot_be_used_is_left_out(weights):
    file = with_references(weights, "hex nut").save_weights(weights.with_name("hex.safetensors"), references=True)
    inferencer = Inferencer(file)
    batch = torch.stack([inferencer.transform(torch.zeros(3, 9, 9, dtype=torch.uint8))] * 3)
    for wrong, message in (("cable", "no references for images of 'cable'"), ("screw " * 90, "has 90 tokens")):
        used = Inferencer(weights) if "screw" in wrong else inferencer
        with mock.patch.object(used.model, "look_up", wraps=used.model.look_up) as looked_up:
            records = used.predict_batch(batch, list("abc"), [(9, 9)] * 3, ["hex_nut", wrong, None])
        assert looked_up.call_count == 3  # each name once
        assert [bool(record.error) for record in records] == [False, True, False]
        assert message in records[1].error
        assert records[1].path == "b"
        assert records[1].score is None
        assert records[0].score is not None
        with pytest.raises(ValueError, match=message[:20]):
            used.predict(np.zeros((9, 9, 3), np.uint8), wrong)


def test_calibrated_file_knows_its_product_and_warns_of_another(weights, tmp_path, caplog):
    model = GenCLIP(weights=weights, visualizer=False, class_name="hex nut", tiles={"size": 32})
    note = {"false_alarm_rate": 0.1, "normal_images": 9, "source": "good", "class_name": "hex nut"}
    model.post_processor.set_thresholds(0.5, 0.5, note)
    file = model.save_weights(tmp_path / "line3.safetensors")
    image = np.zeros((64, 64, 3), np.uint8)
    inferencer = Inferencer(file)
    assert inferencer.class_name == "hex nut"
    assert inferencer.calibration == note
    assert inferencer.model.model.tiler.tile_size_h == 32
    with caplog.at_level(logging.WARNING):
        inferencer(image)
        assert "calibrated" not in caplog.text
        other = Inferencer(file, "bolt", tiles={"size": 48})
        other([image, image])
        other(image)
    messages = [record.getMessage() for record in caplog.records]
    assert sum("'hex nut'" in message and "'bolt'" in message for message in messages) == 1
    assert sum("size=32" in message and "size=48" in message for message in messages) == 1
    assert Inferencer(file, image_threshold=0.7).image_threshold == 0.7


def test_parts_add_up_to_the_score(weights, inferencer):
    image = np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)
    record = inferencer.predict(image, parts=True)
    parts, model = record.parts, inferencer.model.model
    assert record.score == pytest.approx((1 - model.score_weight) * parts.top + model.score_weight * parts.cls)
    grid = torch.from_numpy(np.mean(list(parts.maps.values()), axis=0))[None, None]
    upsampled = torch.nn.functional.interpolate(grid, (64, 64), mode="bilinear")
    np.testing.assert_allclose(upsampled[0, 0], record.anomaly_map, atol=1e-6)
    assert parts.maps.keys() == parts.layers.keys() == {"vision", "query"}
    assert list(parts.layers["query"]) == [3, 6, 9, 12]
    assert parts.class_name == "metal nut"
    assert (parts.used_name == "metal nut") == (parts.similarity >= parts.generic_similarity)
    assert record.class_name_filter == ("kept" if parts.used_name == "metal nut" else "replaced")
    assert parts.distance is None
    with_some = Inferencer(with_references(weights, "nut")).predict(image, parts=True).parts
    assert with_some.distance.shape == with_some.maps["query"].shape
    assert with_some.cls_distance > 0
