# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Exported models give what the model gives, in all formats and through anomalib's inferencers."""

import copy
import csv
import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from anomalib.data import PredictDataset
from anomalib.deploy import OpenVINOInferencer, TorchInferencer
from helpers.runs import engine, save_checkpoint
from PIL import Image
from torch.nn import functional as F  # noqa: N812
from torchvision.utils import save_image

from anomalib_genclip import GenCLIP, Inferencer, cli
from anomalib_genclip.components.references import ReferenceMemory

FORMATS = {"torch": [], "onnx": ["onnxscript", "onnxruntime"], "openvino": ["onnxscript", "openvino"]}
FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32"}  # OpenVINO computes in bfloat16 where the processor can
EXAMPLE = Path(__file__).parents[2] / "examples" / "onnx_inference.py"
BOTH_OUTCOMES = "both"  # the batch in which CNF keeps one name and drops another


def need(*packages):
    for package in packages:
        pytest.importorskip(package, reason=f"{package} comes with the extra: pip install .[export]")


def fill_with_noise(model):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.model.named_parameters():
            if not name.startswith("clip."):
                scale = 0.02 if name.startswith("prompts") and "vision" not in name else 0.1
                value.copy_(scale * torch.randn(value.shape, generator=generator))


def make_batches():
    sizes = {"one": (1, 112, 112), BOTH_OUTCOMES: (2, 150, 200), "flat": (3, 60, 300), "small": (1, 40, 40)}
    generator = torch.Generator().manual_seed(1)
    coarse = {name: torch.rand(n, 3, 3, 3, generator=generator) for name, (n, _, _) in sizes.items()}
    return {
        name: F.interpolate(coarse[name], (h, w)) * torch.rand(n, 3, h, w, generator=generator)
        for name, (n, h, w) in sizes.items()
    }


def part_by_class_name_filter(model, images):
    embedding = model.model.clip.encode_image(model.pre_processor(images)).embedding
    names = model.model.class_names
    names.features[1] = F.normalize(names.features[0] + embedding[0] - embedding[1], dim=-1)
    margins = embedding @ (names.features[1] - names.features[0])
    assert margins[0] > 1e-3
    assert margins[1] < -1e-3


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    model = GenCLIP(backbone="tiny", class_name="screw", visualizer=False)
    fill_with_noise(model)
    batches = make_batches()
    part_by_class_name_filter(model, batches[BOTH_OUTCOMES])
    model.post_processor.set_thresholds(torch.tensor(0.5), torch.tensor(0.5))
    folder = tmp_path_factory.mktemp("exported")
    np.savez(folder / "inputs.npz", **{name: images.numpy() for name, images in batches.items()})
    file = functools.cache(lambda kind: getattr(model, f"to_{kind}")(folder))
    return SimpleNamespace(model=model.eval(), batches=batches, file=file, inputs=folder / "inputs.npz")


def run_file(path, inputs, folder):
    outputs = folder / "outputs.npz"
    runner = Path(__file__).parents[1] / "helpers" / "run_exported.py"
    done = subprocess.run([sys.executable, runner, path, inputs, outputs], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return np.load(outputs)


@pytest.mark.parametrize("kind", FORMATS)
def test_file_gives_what_the_model_gives(exported, tmp_path, kind):
    need(*FORMATS[kind])
    results = run_file(exported.file(kind), exported.inputs, tmp_path)
    assert len(results.files) == len(exported.batches) * 4
    for name, images in exported.batches.items():
        expected = exported.model(images)
        np.testing.assert_allclose(results[f"{name}/anomaly_map"], expected.anomaly_map, atol=1e-4)
        np.testing.assert_allclose(results[f"{name}/pred_score"], expected.pred_score, atol=1e-4)
        clear = (expected.anomaly_map - 0.5).abs() > 1e-4  # rounding may decide the others
        np.testing.assert_array_equal(results[f"{name}/pred_mask"][clear], expected.pred_mask[clear])
        np.testing.assert_array_equal(results[f"{name}/pred_label"], expected.pred_label)


@pytest.mark.slow
def test_onnx_in_one_file_and_of_fixed_size(exported, tmp_path, capfd):
    need("onnx", *FORMATS["onnx"])
    import onnx

    path = exported.model.to_onnx(tmp_path, input_size=(60, 300), external_data=False)
    assert "Traceback" not in "".join(capfd.readouterr())
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]
    assert onnx.load(path).graph.input[0].type.tensor_type.shape.dim[2].dim_value == 60
    np.savez(tmp_path / "inputs.npz", flat=exported.batches["flat"])
    results = run_file(path, tmp_path / "inputs.npz", tmp_path)
    expected = exported.model(exported.batches["flat"])
    np.testing.assert_allclose(results["flat/anomaly_map"], expected.anomaly_map, atol=1e-4)


def test_graph_of_tiles_needs_the_size_of_the_images(tmp_path):
    model = GenCLIP(backbone="tiny", class_name="screw", visualizer=False, tiles={"size": 96})
    for export in (model.to_onnx, model.to_openvino):
        with pytest.raises(ValueError, match=r"fixed number of tiles.*give input_size"):
            export(tmp_path)
    assert not list(tmp_path.rglob("*.*"))


@pytest.mark.slow
def test_tiles_are_in_the_graph(tmp_path):
    need("onnx", *FORMATS["onnx"])
    model = GenCLIP(backbone="tiny", class_name="screw", visualizer=False, tiles={"size": 96, "stride": 64}).eval()
    fill_with_noise(model)
    model.model.eval()
    images = make_batches()[BOTH_OUTCOMES]
    np.savez(tmp_path / "inputs.npz", images=images)
    results = run_file(model.to_onnx(tmp_path, input_size=(150, 200)), tmp_path / "inputs.npz", tmp_path)
    expected = model(images)
    np.testing.assert_allclose(results["images/anomaly_map"], expected.anomaly_map, atol=1e-4)
    np.testing.assert_allclose(results["images/pred_score"], expected.pred_score, atol=1e-4)


@pytest.fixture(scope="module")
def checkpoint(exported, tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "model.ckpt"
    save_checkpoint(exported.model, path)
    return path


def test_engine_exports_a_checkpoint(exported, checkpoint, tmp_path):
    path = engine(tmp_path).export(GenCLIP(backbone="tiny"), "torch", tmp_path, ckpt_path=checkpoint)
    model = GenCLIP.load_from_checkpoint(checkpoint).eval()  # CNF's features are not learned, so not in it
    assert model.model.class_names.names[int(model.model.default_class)] == "screw"
    results = run_file(path, exported.inputs, tmp_path)
    for name, images in exported.batches.items():
        np.testing.assert_allclose(results[f"{name}/anomaly_map"], model(images).anomaly_map, atol=1e-4)


def test_class_name_is_chosen_for_the_export_or_said_to_be_missing(exported, checkpoint, tmp_path, caplog):
    other = GenCLIP.load_from_checkpoint(checkpoint, class_name="bolt")
    assert other.model.class_names.names[int(other.model.default_class)] == "bolt"
    GenCLIP.load_from_checkpoint(checkpoint, class_name=None).to_torch(tmp_path)
    assert "class_name" in caplog.text
    caplog.clear()
    exported.model.to_torch(tmp_path)
    assert "class_name" not in caplog.text


@pytest.fixture(scope="module")
def references(exported, tmp_path_factory):
    """The same model with the memories of two categories, of which the class name chooses the second.

    Its patches attend by their values.
    """
    model = copy.deepcopy(exported.model)
    model.model.clip.patch_attention = "value"
    generator = torch.Generator().manual_seed(2)
    memories = {}
    for category in ("bolt", "screw"):
        shapes = {"patches": (4, 50, 128), "cls": (1, 3, 128)}
        unit = [F.normalize(torch.randn(shape, generator=generator), dim=-1) for shape in shapes.values()]
        memories[category] = ReferenceMemory(*unit, torch.tensor(0.8), torch.tensor(0.7), ["hash"] * 3)
    model.model.references.set(memories)
    folder = tmp_path_factory.mktemp("references")
    return SimpleNamespace(model=model, file=lambda kind: getattr(model, f"to_{kind}")(folder))


@pytest.mark.parametrize("kind", FORMATS)
def test_file_has_the_references_of_its_class_name(exported, references, tmp_path, kind):
    need(*FORMATS[kind])
    results = run_file(references.file(kind), exported.inputs, tmp_path)
    model = references.model
    zero_shot = copy.deepcopy(model)
    zero_shot.model.references.set({})
    for name, images in exported.batches.items():
        tokens = model.model.clip.encode_image(model.pre_processor(images))
        parts = model.model.score_parts(tokens, None, model.model.references.index(["screw"] * len(images)))
        np.testing.assert_allclose(results[f"{name}/anomaly_map"], parts.anomaly_map.detach(), atol=1e-4)
        score = model.model.image_score(parts).detach()
        np.testing.assert_allclose(results[f"{name}/pred_score"].squeeze(), score.squeeze(), atol=1e-4)
        for other in (exported.model, zero_shot):
            assert np.abs(results[f"{name}/anomaly_map"] - other(images).anomaly_map.numpy()).max() > 5e-3


def test_export_needs_references_and_a_class_name_that_has_some(references, tmp_path):
    with pytest.raises(ValueError, match=r"k_shot=2, and no references have been drawn"):
        GenCLIP(weights="tiny-demo", k_shot=2).to_torch(tmp_path)
    model = copy.deepcopy(references.model)
    model.class_name = None
    with pytest.raises(ValueError, match=r"unknown category, only for 'bolt', 'screw'.*class_name"):
        model.to_torch(tmp_path)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for index, name in enumerate(("a.png", "b.jpg")):
        coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((420, 310), Image.Resampling.BICUBIC), np.int16)
        grain = rng.integers(-60, 60, smooth.shape) * (index + 1) // 2
        Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def engine_results(exported, photos, tmp_path_factory):
    batches = engine(tmp_path_factory.mktemp("engine")).predict(model=exported.model, dataset=PredictDataset(photos))
    exported.model.eval()
    return {Path(item.image_path).name: item for batch in batches for item in batch.items}


@pytest.mark.parametrize("name", ["a.png", "b.jpg"])
@pytest.mark.parametrize("kind", ["torch", "openvino"])
def test_inferencers_give_what_the_engine_gives(exported, photos, engine_results, monkeypatch, tmp_path, kind, name):
    need(*FORMATS[kind])
    monkeypatch.chdir(tmp_path)  # OpenVINOInferencer writes its cache where it is called
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    path = exported.file(kind)
    inferencer = TorchInferencer(path, "cpu") if kind == "torch" else OpenVINOInferencer(path, "CPU", FLOAT32)
    expected = engine_results[name]
    with Image.open(photos / name) as file:
        array = np.asarray(file)
    for image in (photos / name, str(photos / name), array, Image.fromarray(array)):
        result = inferencer.predict(image)
        np.testing.assert_allclose(np.squeeze(result.anomaly_map), expected.anomaly_map, atol=1e-4)
        np.testing.assert_allclose(np.squeeze(result.pred_score), expected.pred_score, atol=1e-4)
        clear = (expected.anomaly_map - 0.5).abs() > 1e-4
        np.testing.assert_array_equal(np.squeeze(result.pred_mask)[clear], expected.pred_mask[clear])
        assert bool(np.squeeze(result.pred_label)) == bool(expected.pred_label)


def test_example_scores_a_folder_without_torch(exported, photos, engine_results, tmp_path):
    need(*FORMATS["onnx"])
    pictures = tmp_path / "pictures"
    (pictures / "deeper").mkdir(parents=True)
    for name, target in (("a.png", "a.png"), ("b.jpg", "deeper/b.jpg")):
        (pictures / target).write_bytes((photos / name).read_bytes())
    (pictures / "broken.png").write_bytes(b"no picture")
    program = (
        "import runpy, sys; runpy.run_path(sys.argv.pop(1), run_name='__main__'); assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", program, EXAMPLE, exported.file("onnx"), pictures, "--out", tmp_path / "out"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert "3/3" in done.stdout
    assert "broken.png" in done.stderr
    with (tmp_path / "out" / "scores.csv").open(encoding="utf-8") as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    assert rows["broken.png"]["error"]
    assert not rows["broken.png"]["score"]
    for name in ("a.png", "deeper/b.jpg"):
        expected = engine_results[Path(name).name]
        assert float(rows[name]["score"]) == pytest.approx(expected.pred_score.item(), abs=1e-4)
        assert rows[name]["anomalous"] == str(int(expected.pred_label))
        with Image.open(tmp_path / "out" / "heat_maps" / f"{name}.png") as picture:
            assert picture.size == (420, 310)


# The inferencer


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_inferencer_judges_with_an_exported_file_as_with_the_model(exported, tmp_path, kind):
    need(*FORMATS[kind])
    folder = tmp_path / "images"
    folder.mkdir()
    for name, images in exported.batches.items():
        for number, image in enumerate(images):
            save_image(image, folder / f"{name}{number}.png")
    paths = sorted(map(str, folder.iterdir()))
    inferencer = Inferencer(exported.file(kind), device="cpu", precision="float32")
    assert (inferencer.class_name, inferencer.image_threshold, inferencer.calibration) == ("screw", 0.5, None)
    own = Inferencer(exported.model, precision="float32").predict(paths)
    for record, expected in zip(inferencer.predict(paths), own, strict=True):
        np.testing.assert_allclose(record.anomaly_map, expected.anomaly_map, atol=1e-4)
        assert record.score == pytest.approx(expected.score, abs=1e-4)
        if abs(record.score - 0.5) > 1e-4:
            assert record.label == expected.label
        clear = np.abs(record.anomaly_map - 0.5) > 1e-4
        np.testing.assert_array_equal(record.mask[clear], expected.mask[clear])
    lowest = min(record.score for record in own)
    others = Inferencer(exported.file(kind), device="cpu", image_threshold=lowest + 1e-3).predict(paths)
    assert sum(not record.anomalous for record in others) == 1
    with pytest.raises(ValueError, match="class_name is fixed in an exported model"):
        Inferencer(exported.file(kind), "bolt")


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_thresholds_of_an_exported_file_are_set_without_a_new_export(exported, photos, tmp_path, kind):
    need(*FORMATS[kind])
    good = tmp_path / "good"
    good.mkdir()
    for number in range(20):
        save_image(exported.batches["small"][0] * number / 20, good / f"{number}.png")
    path = exported.file(kind)
    out = tmp_path / f"line3{path.suffix}"
    assert (
        cli.main(["calibrate", f"--weights={path}", f"--normal={good}", f"--out={out}", "--false_alarm_rate=0.1"]) == 0
    )
    calibrated = Inferencer(out, device="cpu")
    assert calibrated.calibration["normal_images"] == 20
    assert calibrated.image_threshold == sorted(calibrated.calibration["scores"])[18]
    record, before = (which.predict(photos / "a.png") for which in (calibrated, Inferencer(path, device="cpu")))
    assert record.score == pytest.approx(before.score, abs=1e-6)
    assert record.p_value is not None
    assert record.anomalous == (record.score > calibrated.image_threshold)
    with pytest.raises(ValueError, match="must end in"):
        calibrated.save(tmp_path / "line3.safetensors")


def test_torch_file_has_its_description_beside_it(exported):
    metadata = json.loads(exported.file("torch").with_name("metadata.json").read_text())
    assert (metadata["image_threshold"], metadata["class_name"], metadata["image_size"]) == (0.5, "screw", [112, 112])
    assert {"torch", "anomalib"} <= metadata["versions"].keys()


@pytest.mark.slow
def test_a_file_of_a_fixed_size_takes_other_images_resized(exported, tmp_path):
    need("onnx", *FORMATS["onnx"])
    path = exported.model.to_onnx(tmp_path, input_size=(112, 112), external_data=False)
    save_image(exported.batches["flat"][0], tmp_path / "flat.png")
    record, expected = (Inferencer(which, device="cpu")(tmp_path / "flat.png") for which in (path, exported.model))
    np.testing.assert_allclose(record.anomaly_map, expected.anomaly_map, atol=1e-3)
