# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""What runs the model; exported files are tested where they are made, in ``tests/integration/test_export.py``."""

import numpy as np
import pytest
import torch
from helpers import data_trees
from helpers.predictions import write_images
from helpers.runs import engine
from PIL import Image

import anomalib_genclip
from anomalib_genclip import GenCLIP
from anomalib_genclip.prediction.backends import (
    backend_name,
    choose_device,
    load_backend,
    model_precision,
    weights_files,
)
from anomalib_genclip.prediction.settings import ScoringSettings


def settings(weights="tiny-demo", **others):
    return ScoringSettings(weights=str(weights), **{"num_workers": 0, "accelerator": "cpu", **others})


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    for number in range(3):
        data_trees.write_anomalous(root / "screw" / f"{number}.png", seed=number)
    write_images(root / "others", 3)
    return root


@pytest.mark.parametrize("options", [{}, {"class_name": "screw", "batch_size": 4}])
def test_records_are_what_the_engine_predicts(images, tmp_path, options):
    model = GenCLIP(weights="tiny-demo", class_name=options.get("class_name"))
    batches = engine(tmp_path).predict(model, data_path=images)
    expected = {batch.image_path[0]: batch for batch in batches}
    exact = {"num_workers": 0, "accelerator": "cpu", "precision": "float32"}
    records = list(anomalib_genclip.predict("tiny-demo", images, **exact, **options))
    assert [record.path for record in records] == sorted(expected)
    for record in records:
        batch = expected[record.path]
        assert record.score == pytest.approx(batch.pred_score.item(), abs=1e-6)
        assert record.anomalous == batch.pred_label.item()
        np.testing.assert_allclose(record.anomaly_map, batch.anomaly_map[0].squeeze(), atol=1e-5)
        clear = np.abs(record.anomaly_map - record.pixel_threshold) > 1e-4
        np.testing.assert_array_equal(record.mask[clear], batch.pred_mask[0].squeeze()[clear])


def test_tiles_are_those_of_the_engine(tmp_path):
    """Images of several sizes, each with a map of its own size; what the checkpoint says counts, too."""
    for number, size in enumerate([(200, 150), (90, 300), (200, 150)]):
        pixels = np.random.default_rng(number).integers(0, 255, (*size, 3), dtype=np.uint8)
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    model = GenCLIP(weights="tiny-demo", class_name="screw", tile_size=112, tile_stride=80, working_size=160)
    expected = {batch.image_path[0]: batch for batch in engine(tmp_path).predict(model, data_path=tmp_path / "images")}
    tiles = {"tile_size": 112, "tile_stride": 80, "working_size": 160, "tile_batch_size": 2}
    options = {"num_workers": 0, "accelerator": "cpu", "precision": "float32", "class_name": "screw", **tiles}
    for record in anomalib_genclip.predict("tiny-demo", tmp_path / "images", **options):
        batch = expected[record.path]
        assert max(record.anomaly_map.shape) == 160
        assert record.class_name_filter in {"kept", "replaced"}
        assert record.score == pytest.approx(batch.pred_score.item(), abs=1e-5)
        np.testing.assert_allclose(record.anomaly_map, batch.anomaly_map[0].squeeze(), atol=1e-5)


def test_class_name_filtering_is_told_image_by_image():
    backend = load_backend(settings())
    model = backend.model
    given = torch.rand(2, 3, 112, 112)
    backend.model.class_index(["nut"])
    embedding = model.clip.encode_image(given).embedding
    names = model.class_names
    direction = names.features[0] + embedding[0] - embedding[1]
    names.features[1] = direction / direction.norm()
    found = backend(given, ["nut", "nut"])
    assert (found.class_names, found.class_name_filter) == (["nut", "object"], ["kept", "replaced"])
    assert backend(given, [None, "object"]).class_name_filter == [None, None]
    model.class_name_filter = False
    assert backend(given, ["nut", "nut"]).class_name_filter == [None, None]
    model.branches = "query"
    assert backend(given, ["nut", "nut"]).class_names == ["object", "object"]


def test_thresholds_are_the_weights_own_or_those_given():
    own = GenCLIP(weights="tiny-demo").post_processor
    backend = load_backend(settings())
    assert backend.image_threshold == own.normalized_image_threshold
    assert backend.pixel_threshold == own.normalized_pixel_threshold
    backend = load_backend(settings(image_threshold=0.9, pixel_threshold=0.0))
    found = backend(torch.rand(1, 3, 112, 112), [None])
    assert not found.anomalous.any()
    assert found.mask.all()


def test_precision_is_that_of_the_settings():
    images = torch.rand(1, 3, 112, 112)
    maps = {name: load_backend(settings(precision=name))(images, [None]).anomaly_map for name in ("float32", "bf16")}
    assert maps["bf16"].dtype == np.float32
    difference = np.abs(maps["bf16"] - maps["float32"]).max()
    assert 0 < difference < 0.1


def test_precision_of_an_exported_model_is_that_of_its_runtime(monkeypatch):
    monkeypatch.setattr("anomalib_genclip.utils.precision.bf16_is_fast", lambda device: device.type == "cpu")
    cuda = torch.device("cuda")
    chosen = [model_precision(settings(name), cuda) for name in ("tiny-demo", "a.onnx", "a.xml")]
    assert chosen == ["float32", "float32", "bf16"]  # OpenVINO runs on the processor
    assert model_precision(settings("a.xml", precision="float32"), cuda) == "float32"


def test_a_class_name_that_cannot_be_used_is_an_error_of_its_image(images):
    found = list(
        anomalib_genclip.predict(
            "tiny-demo", images, num_workers=0, accelerator="cpu", class_from="parent", on_error="record"
        )
    )
    screws = [record for record in found if "screw" in record.path]
    assert len(screws) == 3
    names = {"kept": "screw", "replaced": "object"}
    assert all(record.class_name == names[record.class_name_filter] for record in screws)
    backend = load_backend(settings())
    assert "is empty" in backend.why_no_class_name("_")
    assert "tokens" in backend.why_no_class_name("nut " * 80)
    assert not backend.why_no_class_name("metal_nut")


def test_a_broken_image_stops_python_callers_too(tmp_path):
    data_trees.write_normal(tmp_path / "a.png")
    (tmp_path / "b.png").touch()
    records = anomalib_genclip.predict("tiny-demo", [tmp_path / "a.png", tmp_path / "b.png"], num_workers=0)
    assert next(records).error == ""
    with pytest.raises(OSError, match=r"b\.png cannot be read"):
        next(records)


@pytest.mark.parametrize(
    ("weights", "others", "name"),
    [
        ("a.safetensors", {}, "torch"),
        ("a.ckpt", {}, "torch"),
        ("tiny-demo", {}, "torch"),
        ("a.onnx", {}, "onnx"),
        ("a.xml", {}, "openvino"),
        ("a.onnx", {"backend": "openvino"}, "openvino"),
    ],
)
def test_backend_goes_by_the_ending(weights, others, name):
    assert backend_name(settings(weights, **others)) == name


@pytest.mark.parametrize(
    ("weights", "others", "message"),
    [
        ("a.onnx", {"backend": "torch"}, "backend torch does not run a.onnx"),
        ("a.pt", {}, "backend torch does not run a.pt"),
        ("a.safetensors", {"backend": "onnx"}, "backend onnx does not run"),
        ("a.xml", {"backend": "onnx"}, "backend onnx does not run a.xml"),
        ("a.onnx", {"precision": "bf16"}, "precision"),
    ],
)
def test_weights_that_do_not_fit_the_backend_are_refused(weights, others, message):
    with pytest.raises(ValueError, match=message):
        backend_name(settings(weights, **others))


def test_files_that_are_no_models_are_named(tmp_path):
    for name in ("a.onnx", "a.xml"):
        with pytest.raises(FileNotFoundError, match=f"no weights .*{name}"):
            load_backend(settings(tmp_path / name))
        (tmp_path / name).write_text("<net/>")
        pytest.importorskip("openvino" if name == "a.xml" else "onnxruntime")
        with pytest.raises(ValueError, match=f"{name} cannot be opened as a model"):
            load_backend(settings(tmp_path / name))
        with pytest.raises(ValueError, match="class_name is fixed in an exported model"):
            load_backend(settings(tmp_path / name, class_name="nut"))
    (tmp_path / "a.bin").touch()
    assert weights_files(str(tmp_path / "a.xml")) == [tmp_path / "a.xml", tmp_path / "a.bin"]


def test_a_gpu_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: None)
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="no GPU"):
        choose_device("gpu")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("cuda"))
    assert choose_device("auto") == choose_device("gpu") == torch.device("cuda")
    assert choose_device("cpu") == torch.device("cpu")
