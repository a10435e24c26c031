# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Exported models give what the model gives, in all formats and through all inferencers."""

import copy
import csv
import functools
import itertools
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from anomalib.data import Folder
from anomalib.deploy import CompressionType, OpenVINOInferencer, TorchInferencer
from helpers import data_trees
from helpers.runs import engine, save_checkpoint
from PIL import Image
from torch.nn import functional as F  # noqa: N812
from torchvision.utils import save_image

from anomalib_genclip import GenCLIP, Inferencer, cli
from anomalib_genclip.components.references import ReferenceMemory
from anomalib_genclip.data.images import read_image
from anomalib_genclip.demo.synthetic import render
from anomalib_genclip.inferencer import load_trained
from anomalib_genclip.pipelines.calibration import calibrate
from anomalib_genclip.torch_model import set_ignore_mask

FORMATS = {"torch": [], "onnx": ["onnx", "onnxscript", "onnxruntime"], "openvino": ["onnxscript", "openvino"]}
FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32"}  # OpenVINO computes in bfloat16 where the processor can
EXAMPLE = Path(__file__).parents[2] / "examples" / "onnx_inference.py"
BOTH_OUTCOMES = "both"  # the batch in which CNF keeps one name and drops another
SETTINGS = {"backbone": "tiny", "class_name": "screw", "visualizer": False}


def need(kind):
    """Skip where a package of the extra "export" is missing."""
    for package in FORMATS[kind]:
        pytest.importorskip(package, reason=f"{package} comes with the extra: pip install .[export]")


def fill_with_noise(model):
    """Give every learned tensor values that show in the output, the vision prompts' last matrix above all."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.model.named_parameters():
            if not name.startswith("clip."):
                scale = 0.02 if name.startswith("prompts") and "vision" not in name else 0.1
                value.copy_(scale * torch.randn(value.shape, generator=generator))
    return model.eval()


def make_batches():
    """Batches of one and of several images, of the model's and of other sizes, larger and smaller."""
    sizes = {"one": (1, 112, 112), BOTH_OUTCOMES: (2, 150, 200), "flat": (3, 60, 300), "small": (1, 40, 40)}
    generator = torch.Generator().manual_seed(1)
    coarse = {name: torch.rand(n, 3, 3, 3, generator=generator) for name, (n, _, _) in sizes.items()}
    return {
        name: F.interpolate(coarse[name], (h, w)) * torch.rand(n, 3, h, w, generator=generator)
        for name, (n, h, w) in sizes.items()
    }


def part_by_class_name_filter(model, images):
    """Have CNF keep the class name for the first image and drop it for the second, by a clear margin."""
    embedding = model.model.clip.encode_image(model.pre_processor(images)).embedding
    names = model.model.class_names
    names.features[1] = F.normalize(names.features[0] + embedding[0] - embedding[1], dim=-1)
    margins = embedding @ (names.features[1] - names.features[0])
    assert margins[0] > 1e-3
    assert margins[1] < -1e-3


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model full of noise, its inputs, and its file in each format."""
    model = fill_with_noise(GenCLIP(**SETTINGS))
    batches = make_batches()
    part_by_class_name_filter(model, batches[BOTH_OUTCOMES])
    model.post_processor.set_thresholds(0.5, 0.5)
    folder = tmp_path_factory.mktemp("exported")
    np.savez(folder / "inputs.npz", **{name: images.numpy() for name, images in batches.items()})
    file = functools.cache(lambda kind: getattr(model, f"to_{kind}")(folder))
    return SimpleNamespace(model=model.eval(), batches=batches, file=file, inputs=folder / "inputs.npz")


def run_file(path, inputs, folder):
    """Run an exported file in its own process."""
    outputs = folder / "outputs.npz"
    runner = Path(__file__).parents[1] / "helpers" / "run_exported.py"
    done = subprocess.run([sys.executable, runner, path, inputs, outputs], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return np.load(outputs)


def assert_close(result, expected):
    """Compare map and score; the mask where rounding does not decide."""
    np.testing.assert_allclose(np.squeeze(result.anomaly_map), np.squeeze(expected.anomaly_map), atol=1e-4)
    np.testing.assert_allclose(np.squeeze(result.pred_score), np.squeeze(expected.pred_score), atol=1e-4)
    if getattr(result, "pred_mask", None) is not None:
        clear = np.abs(np.squeeze(expected.anomaly_map) - 0.5) > 1e-4
        np.testing.assert_array_equal(np.squeeze(result.pred_mask)[clear], np.squeeze(expected.pred_mask)[clear])
        np.testing.assert_array_equal(np.squeeze(result.pred_label), np.squeeze(expected.pred_label))


def assert_parity(path, inputs, model, folder, names):
    """Compare an exported file with a model, on batches by name."""
    results = run_file(path, inputs, folder)
    for name, images in names.items():
        own = {key.removeprefix(f"{name}/"): results[key] for key in results.files if key.startswith(f"{name}/")}
        assert_close(SimpleNamespace(**own), model(images))
    return results


@pytest.mark.parametrize("kind", FORMATS)
def test_file_gives_what_the_model_gives(exported, tmp_path, kind):
    need(kind)
    results = assert_parity(exported.file(kind), exported.inputs, exported.model, tmp_path, exported.batches)
    assert len(results.files) == len(exported.batches) * 4


def test_images_and_class_names_count_in_these_tests(exported):
    """The parity of a graph whose text does not depend on the image would say little."""
    model = copy.deepcopy(exported.model)
    images = model.pre_processor(exported.batches[BOTH_OUTCOMES])
    result = model.model.branch_maps(images)
    assert result.class_index.tolist() == [1, 0]
    model.model.class_name_filter = False
    others = [model.model.branch_maps(images)]
    model.model.class_name_filter = True
    torch.nn.init.zeros_(model.model.prompts.vision[0].up.weight)
    for other in (*others, model.model.branch_maps(images)):
        assert (other.maps["vision"] - result.maps["vision"]).abs().max() > 5e-3  # fifty times the tolerance


@pytest.mark.slow
def test_onnx_in_one_file_and_of_fixed_size(exported, tmp_path, capfd):
    need("onnx")
    import onnx

    path = exported.model.to_onnx(tmp_path, input_size=(60, 300), external_data=False)
    assert "Traceback" not in "".join(capfd.readouterr())
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]
    assert onnx.load(path).graph.input[0].type.tensor_type.shape.dim[2].dim_value == 60
    flat = {"flat": exported.batches["flat"]}
    np.savez(tmp_path / "inputs.npz", **flat)
    assert_parity(path, tmp_path / "inputs.npz", exported.model, tmp_path, flat)
    pixels = exported.batches["one"][0]
    record = Inferencer(path, precision="float32").predict(pixels)  # an image of another size is resized
    assert record.anomaly_map.shape == (112, 112)


@pytest.mark.slow
def test_quantized_file_takes_batches_of_any_size(exported, tmp_path):
    need("openvino")
    pytest.importorskip("nncf", reason="nncf comes with the extra: pip install .[export]")
    (tmp_path / "good").mkdir()
    for number in range(3):
        save_image(torch.rand(3, 64, 64), tmp_path / "good" / f"{number}.png")
    options = {"test_split_mode": "from_dir", "val_split_mode": "same_as_test", "num_workers": 0}
    data = Folder("good", root=tmp_path, normal_dir="good", normal_test_dir="good", **options)
    data.setup()
    path = exported.model.to_openvino(tmp_path, compression_type=CompressionType.INT8_PTQ, datamodule=data)
    results = run_file(path, exported.inputs, tmp_path)
    for name, images in exported.batches.items():
        assert results[f"{name}/pred_score"].shape == (len(images),)


def test_graph_of_tiles_needs_the_size_of_the_images(tmp_path):
    model = GenCLIP(**SETTINGS, tiles={"size": 96})
    for export in (model.to_onnx, model.to_openvino):
        with pytest.raises(ValueError, match=r"fixed number of tiles.*give input_size"):
            export(tmp_path)
    assert not list(tmp_path.rglob("*.*"))


@pytest.fixture(scope="module")
def masked(exported, tmp_path_factory):
    """The same model with a left third that does not count."""
    model, mask = copy.deepcopy(exported.model), np.zeros((60, 90), bool)
    mask[:, :30] = True
    set_ignore_mask(model.model, mask)
    folder = tmp_path_factory.mktemp("masked")
    return SimpleNamespace(model=model, file=lambda kind: getattr(model, f"to_{kind}")(folder))


@pytest.mark.parametrize(
    "kind", ["torch", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("onnx", "openvino"))]
)
def test_file_has_the_ignore_mask(exported, masked, tmp_path, kind):
    need(kind)
    path = masked.file(kind)
    results = assert_parity(path, exported.inputs, masked.model, tmp_path, exported.batches)
    assert not any(results[f"{name}/anomaly_map"][..., :37].any() for name in exported.batches)
    assert all(results[f"{name}/anomaly_map"][..., 38:].all() for name in exported.batches)
    if kind == "torch":
        return
    with pytest.raises(ValueError, match=r"ignore_mask is fixed in an exported model.*prompts file"):
        Inferencer(path, ignore_mask=np.zeros((3, 3), bool))
    inferencer, image = Inferencer(path, device="cpu", precision="float32"), np.zeros((120, 180, 3), np.uint8)
    image[:, :60] = 255
    record = inferencer.predict(image)
    assert not record.anomaly_map[:, :37].any()
    np.testing.assert_array_equal(record.ignored, np.indices((112, 112))[1] < 37)
    assert record.gray_value == pytest.approx(0, abs=0.01)
    with pytest.raises(ValueError, match=r"\(150 x 120 pixels\) does not have .* ignore_mask of .*\(90 x 60\)"):
        inferencer.predict([image, image[:, :150]])


@pytest.mark.slow
def test_tiles_are_in_the_graph(tmp_path):
    need("onnx")
    model = fill_with_noise(GenCLIP(**SETTINGS, tiles={"size": 96, "stride": 64}))
    mask = np.zeros((150, 200), bool)
    mask[:, :70] = True
    set_ignore_mask(model.model, mask)
    batch = {"images": make_batches()[BOTH_OUTCOMES]}
    np.savez(tmp_path / "inputs.npz", **batch)
    path = model.to_onnx(tmp_path, input_size=(150, 200))
    assert_parity(path, tmp_path / "inputs.npz", model, tmp_path, batch)


@pytest.fixture(scope="module")
def checkpoint(exported, tmp_path_factory):
    """A checkpoint, which has no CLIP and not what CNF was made to say, and the model that it gives."""
    path = tmp_path_factory.mktemp("checkpoint") / "model.ckpt"
    save_checkpoint(copy.deepcopy(exported.model), path)
    return SimpleNamespace(path=path, model=GenCLIP.load_from_checkpoint(path).eval())


def test_engine_exports_a_checkpoint(exported, checkpoint, tmp_path):
    path = engine(tmp_path).export(GenCLIP(backbone="tiny"), "torch", tmp_path, ckpt_path=checkpoint.path)
    assert_parity(path, exported.inputs, checkpoint.model, tmp_path, exported.batches)


def test_class_name_of_a_checkpoint_can_be_chosen_for_the_export_or_its_lack_is_told(checkpoint, tmp_path, caplog):
    for name, told in (("screw", False), ("bolt", False), (None, True)):
        caplog.clear()
        model = GenCLIP.load_from_checkpoint(checkpoint.path, class_name=name)
        assert model.model.class_names.names[int(model.model.default_class)] == (name or "object")
        model.to_torch(tmp_path)
        assert ("class_name" in caplog.text) == told


@pytest.fixture(scope="module")
def references(exported, tmp_path_factory):
    """The same model with the memories of two categories, of which the class name chooses the second.

    Its patches attend by their values.
    """
    model = copy.deepcopy(exported.model)
    model.model.clip.patch_attention = "value"
    generator, memories = torch.Generator().manual_seed(2), {}
    for category in ("bolt", "screw"):
        shapes = ((4, 50, 128), (1, 3, 128))
        unit = [F.normalize(torch.randn(shape, generator=generator), dim=-1) for shape in shapes]
        memories[category] = ReferenceMemory(*unit, torch.tensor(0.8), torch.tensor(0.7), ["hash"] * 3)
    model.model.references.set(memories)
    folder = tmp_path_factory.mktemp("references")
    return SimpleNamespace(model=model, file=lambda kind: getattr(model, f"to_{kind}")(folder))


@pytest.mark.parametrize(
    "kind", ["torch", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("onnx", "openvino"))]
)
def test_file_has_the_references_of_its_class_name(exported, references, tmp_path, kind):
    need(kind)
    results = run_file(references.file(kind), exported.inputs, tmp_path)
    model, zero_shot = references.model.model, copy.deepcopy(references.model)
    zero_shot.model.references.set({})
    for name, images in exported.batches.items():
        index = model.references.index([["screw"]] * len(images))
        expected = model(references.model.pre_processor(images), None, index)
        own = {key: results[f"{name}/{key}"] for key in ("anomaly_map", "pred_score")}
        assert_close(SimpleNamespace(**own), expected)
        for other in (exported.model, zero_shot):
            assert np.abs(own["anomaly_map"] - other(images).anomaly_map.numpy()).max() > 5e-3


def test_export_needs_references_and_a_class_name_that_has_some(references, tmp_path):
    with pytest.raises(ValueError, match=r"k_shot=2, and no references have been drawn"):
        GenCLIP(weights="tiny-demo", k_shot=2).to_torch(tmp_path)
    model = copy.deepcopy(references.model)
    model.names = type(model.names)()
    with pytest.raises(ValueError, match=r"unknown category, only for 'bolt', 'screw'.*class_name"):
        model.to_torch(tmp_path)


@pytest.fixture(scope="module")
def photos(exported, tmp_path_factory):
    """Pictures larger than the model's input, as PNG and as JPEG, and what the model says about them."""
    folder, results = tmp_path_factory.mktemp("photos"), {}
    rng = np.random.default_rng(0)
    for index, name in enumerate(("a.png", "b.jpg")):
        coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((420, 310), Image.Resampling.BICUBIC), np.int16)
        grain = rng.integers(-60, 60, smooth.shape) * (index + 1) // 2
        Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)).save(folder / name)
        with Image.open(folder / name) as file:
            pixels = torch.from_numpy(np.asarray(file).copy()).permute(2, 0, 1)[None] / 255
        results[name] = exported.model(pixels)
    return SimpleNamespace(folder=folder, results=results)


@pytest.mark.parametrize("name", ["a.png", "b.jpg"])
@pytest.mark.parametrize("kind", ["torch", "openvino"])
def test_anomalibs_inferencers_give_what_the_model_gives(exported, photos, monkeypatch, tmp_path, kind, name):
    need(kind)
    monkeypatch.chdir(tmp_path)  # OpenVINOInferencer writes its cache where it is called
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    path = exported.file(kind)
    inferencer = TorchInferencer(path, "cpu") if kind == "torch" else OpenVINOInferencer(path, "CPU", FLOAT32)
    with Image.open(photos.folder / name) as file:
        array = np.asarray(file)
    for image in (photos.folder / name, str(photos.folder / name), array, Image.fromarray(array)):
        assert_close(inferencer.predict(image), photos.results[name])


def test_example_scores_a_folder_without_torch(exported, photos, tmp_path):
    need("onnx")
    pictures, out = tmp_path / "pictures", tmp_path / "out"
    (pictures / "deeper").mkdir(parents=True)
    names = {"a.png": "a.png", "deeper/b.jpg": "b.jpg"}
    for target, name in names.items():
        (pictures / target).write_bytes((photos.folder / name).read_bytes())
    (pictures / "broken.png").write_bytes(b"no picture")
    Image.fromarray(np.full((30, 40), 40_000, np.uint16)).save(pictures / "deep.png")
    program = (
        "import runpy, sys; runpy.run_path(sys.argv.pop(1), run_name='__main__'); assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", program, EXAMPLE, exported.file("onnx"), pictures, "--out", out]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=one_thread)
    assert done.returncode == 0, done.stderr
    assert "4/4" in done.stdout
    assert "broken.png" in done.stderr
    with (out / "scores.csv").open(encoding="utf-8") as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    assert rows["broken.png"]["error"]
    assert "more than 8 bits" in rows["deep.png"]["error"]
    assert not rows["broken.png"]["score"] + rows["deep.png"]["score"]
    for target, name in names.items():
        expected = photos.results[name]
        assert float(rows[target]["score"]) == pytest.approx(expected.pred_score.item(), abs=1e-4)
        assert rows[target]["anomalous"] == str(int(expected.pred_label))
        with Image.open(out / "heat_maps" / f"{target}.png") as picture:
            assert picture.size == (420, 310)


def test_example_reads_images_as_the_package_does(tmp_path):
    need("onnx")
    turned, read = Image.Exif(), runpy.run_path(str(EXAMPLE))["read_image"]
    turned[0x0112] = 6
    colors = np.random.default_rng(0).integers(0, 255, (6, 9, 4), dtype=np.uint8)
    Image.fromarray(colors).save(tmp_path / "hidden.png", exif=turned)
    Image.fromarray(colors).convert("CMYK").save(tmp_path / "print.jpg")
    for path in tmp_path.iterdir():
        np.testing.assert_array_equal(np.asarray(read(path)).transpose(2, 0, 1), read_image(str(path)))


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_images_of_any_sizes_are_predicted_with_an_exported_file(exported, tmp_path, kind):
    need(kind)
    inferencer = Inferencer(exported.file(kind), device="cpu", precision="float32")
    images = [image for batch in exported.batches.values() for image in batch]
    for number, image in enumerate(images):
        save_image(image, tmp_path / f"{number}.png")
    paths = [tmp_path / f"{number}.png" for number in range(len(images))]
    records = inferencer.predict(paths)
    assert (inferencer.class_name, inferencer.image_threshold, inferencer.calibration) == ("screw", 0.5, None)
    for path, record in zip(paths, records, strict=True):
        with Image.open(path) as file:
            pixels = torch.from_numpy(np.asarray(file).copy()).permute(2, 0, 1)[None] / 255
        result = SimpleNamespace(
            anomaly_map=record.anomaly_map, pred_score=record.score, pred_mask=record.mask, pred_label=record.anomalous
        )
        assert_close(result, exported.model(pixels))


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_exported_file_is_calibrated_and_saved_with_what_it_was_calibrated_on(exported, tmp_path, kind):
    need(kind)
    for number in range(9):
        data_trees.write_normal(tmp_path / "good" / f"{number}.png", seed=number)
    path, out = exported.file(kind), tmp_path / "new" / exported.file(kind).name.replace("model", "line3")
    options = ["--weights", str(path), "--normal", str(tmp_path / "good"), "--false_alarm_rate", "0.1"]
    assert cli.main(["calibrate", *options, "--out", str(out)]) == 0
    calibrated = Inferencer(out, device="cpu", precision="float32")
    note = calibrated.calibration
    assert (note["class_name"], note["normal_images"]) == (calibrated.class_name, 9) == ("screw", 9)
    assert calibrated.image_threshold == note["scores"][-1]
    image = tmp_path / "good" / "0.png"
    record, before = (own.predict(image) for own in (calibrated, Inferencer(path, device="cpu", precision="float32")))
    assert record.score == pytest.approx(before.score, abs=1e-6)
    of_torch = Inferencer(exported.model, device="cpu", precision="float32").predict(image)
    assert record.gray_value == pytest.approx(of_torch.gray_value, abs=1e-4)  # although torch's image is normalized
    assert record.score < calibrated.image_threshold + 1e-6
    assert record.p_value >= 0.1
    with pytest.raises(ValueError, match=r"must end in \.(onnx|xml)"):
        calibrated.save(tmp_path / "line3.safetensors")


def test_torch_file_has_its_description_beside_it(exported):
    metadata = json.loads(exported.file("torch").with_name("metadata.json").read_text())
    assert (metadata["image_threshold"], metadata["class_name"], metadata["image_size"]) == (0.5, "screw", [112, 112])
    assert metadata["score_weight"] == exported.model.model.score_weight
    assert {"torch", "anomalib"} <= metadata["versions"].keys()


CALIBRATED = "calibrated file with references"
NEAR = {CALIBRATED: 500, "prompts file": 60, "checkpoint": 60}  # images near the threshold
RUNTIMES = ("onnx", "openvino", "anomalib's torch", "anomalib's openvino")
# One source is enough for the export to OpenVINO, which takes long.
JUDGED = [(source, runtime) for source in NEAR for runtime in RUNTIMES if source == CALIBRATED or runtime != "openvino"]


def weights_of(source, folder, rng):
    """A file of each kind, for leather, with a pixel threshold that many pixels are near."""
    for kind, count in {"references": 4, "normal": 30}.items():
        (folder / kind).mkdir()
        for number in range(count):
            Image.fromarray(render("leather", None, 112, rng)[0]).save(folder / kind / f"{number}.png")
    few = {"k_shot": 4, "few_shot_source": str(folder / "references")} if source == CALIBRATED else {}
    inferencer = Inferencer("tiny-demo", "leather", "cpu", "float32", **few)
    if few:
        calibrate(inferencer, folder / "normal", false_alarm_rate=0.1)
    maps = [record.anomaly_map for record in inferencer.predict(list((folder / "normal").iterdir()))]
    model, known = inferencer.model, {"image": inferencer.image_threshold, "calibration": inferencer.calibration}
    model.post_processor.set_thresholds(pixel=float(np.quantile(maps, 0.95)), **known)
    if source == "checkpoint":
        save_checkpoint(model, folder / "model.ckpt")
        return folder / "model.ckpt"
    return inferencer.save(folder / "leather.safetensors")


def near_the_threshold(inferencer, count, rng):
    """Blend pictures of lower with pictures of higher scores; each pair gives two whose score is within 0.01."""
    threshold, defects, found = inferencer.image_threshold, [None, "scratch", "hole"], {}
    pictures = [Image.fromarray(render("leather", defects[number % 3], 112, rng)[0]) for number in range(120)]
    scores = np.array([record.score for record in inferencer.predict(pictures)])
    pairs = [*itertools.product(np.flatnonzero(scores <= threshold), np.flatnonzero(scores > threshold))]
    pairs = rng.permutation(pairs)[: count // 2 + 40]
    shares = np.zeros(pairs.shape) + np.array([0, 1])  # of the higher picture, at both ends of the search
    times = np.zeros(len(pairs))
    while len(found) < count:
        left, middles = np.flatnonzero(times < 2), shares.mean(axis=1)
        blends = [Image.blend(*(pictures[one] for one in pairs[number]), middles[number]) for number in left]
        for number, blend, record in zip(left, blends, inferencer.predict(blends), strict=True):
            if abs(record.score - threshold) < 0.01:
                found[blend.tobytes()] = blend
                times[number] += 1
            shares[number, int(record.score > threshold)] = middles[number]
        assert np.ptp(shares, axis=1).min() > 1e-3, "some scores jump over the threshold: take more pairs"
    return list(found.values())[:count]


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    """A model from a file of each kind, its judgement of images near its threshold, and its file in each format."""

    @functools.cache
    def judged(source):
        folder, rng, count = tmp_path_factory.mktemp("judged"), np.random.default_rng(0), NEAR[source]
        weights = weights_of(source, folder, rng)
        inferencer = Inferencer(weights, device="cpu", precision="float32")
        paths = [folder / f"{number:03}.png" for number in range(count)]
        for path, picture in zip(paths, near_the_threshold(inferencer, count, rng), strict=True):
            picture.save(path)
        exporting = load_trained(str(weights), visualizer=False).eval()
        file = functools.cache(lambda kind: getattr(exporting, f"to_{kind}")(folder))
        return SimpleNamespace(paths=paths, inferencer=inferencer, records=inferencer.predict(paths), file=file)

    return judged


@pytest.mark.slow
@pytest.mark.parametrize(("source", "runtime"), JUDGED)
def test_labels_and_masks_near_the_threshold_are_those_of_the_model(
    judge, monkeypatch, record_property, tmp_path, source, runtime
):
    kind = runtime.split()[-1]
    need(kind)
    judged = judge(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    if source != CALIBRATED and kind == "openvino":
        kind = "onnx"  # OpenVINO reads it too
    path, own = judged.file(kind), judged.inferencer
    if runtime == kind:
        results = Inferencer(path, device="cpu", precision="float32").predict(judged.paths)
        found = [(record.score, record.anomalous, record.mask) for record in results]
    else:
        model = TorchInferencer(path, "cpu") if kind == "torch" else OpenVINOInferencer(path, "CPU", FLOAT32)
        parts = [(one.pred_score, one.pred_label, one.pred_mask) for one in map(model.predict, judged.paths)]
        found = [tuple(np.squeeze(np.asarray(part)) for part in result) for result in parts]
    labels, pixels = [], 0
    for (score, anomalous, mask), record in zip(found, judged.records, strict=True):
        assert abs(record.score - own.image_threshold) < 0.01
        assert float(score) == pytest.approx(record.score, abs=1e-5)
        if abs(record.score - own.image_threshold) > 1e-5:
            assert bool(anomalous) == record.anomalous, record.path
            labels.append(record.anomalous)
        distance = np.abs(record.anomaly_map - own.pixel_threshold)
        np.testing.assert_array_equal(mask[distance > 1e-5], record.mask[distance > 1e-5])
        pixels += int((distance < 0.01).sum())
    record_property("labels, anomalous ones, pixels within 0.01", (len(labels), sum(labels), pixels))
    assert len(labels) >= 0.98 * len(judged.paths)
    assert 0.25 < np.mean(labels) < 0.75
    assert pixels > 100 * len(judged.paths)
