# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Regions that do not count: in no map, score, region, reference, threshold or metric, wherever the model goes."""

import json

import numpy as np
import pytest
import torch
from anomalib.data.utils.tiler import Tiler
from helpers import data_trees
from helpers.models import SIZE
from helpers.runs import build, engine, save_checkpoint
from lightning.pytorch import Callback
from PIL import Image

from anomalib_genclip import GenCLIP, Inferencer, cli, torch_model
from anomalib_genclip.app.scoring import Scorer
from anomalib_genclip.callbacks.reference_images import draw_references
from anomalib_genclip.components import ignore_mask
from anomalib_genclip.components.anomaly_map import top_mean
from anomalib_genclip.components.ignore_mask import read_ignore_mask
from anomalib_genclip.data.normal_images import images_of_folder
from anomalib_genclip.demo.synthetic import render
from anomalib_genclip.evaluation.scores import CategoryScores
from anomalib_genclip.persistence.prompts_file import load_weights
from anomalib_genclip.pipelines.calibration import calibrate
from anomalib_genclip.torch_model import gaussian_blur, set_ignore_mask

LEFT = np.zeros((48, 64), np.uint8)
LEFT[:, :32] = 255
IMAGE = np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """A mask that is white on the left, half as large as the image."""
    path = tmp_path_factory.mktemp("mask") / "clamp.png"
    Image.fromarray(LEFT).save(path)
    return path


def open_in(weights, **settings) -> Inferencer:
    return Inferencer(weights, device="cpu", precision="float32", **settings)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA"])
def test_white_does_not_count_in_any_kind_of_picture(tmp_path, mode):
    Image.fromarray(LEFT).convert(mode).save(tmp_path / "mask.png")
    expected = torch.from_numpy(LEFT > 0)
    assert torch.equal(read_ignore_mask(tmp_path / "mask.png"), expected)
    for array in (LEFT, LEFT > 0, np.stack([LEFT] * 3, axis=2), expected):
        assert torch.equal(read_ignore_mask(array), expected)
    strokes = np.dstack([np.full((48, 64, 3), 255, np.uint8), LEFT])  # as a brush paints: the rest is transparent
    assert torch.equal(read_ignore_mask(strokes), expected)
    assert not read_ignore_mask(np.zeros((3, 3), np.uint8)).any()


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.full((4, 4), 255, np.uint8), "ignore_mask is white everywhere"),
        (np.eye(4, dtype=np.uint8), "up to 1 and none is white"),
        (np.eye(4, dtype=np.uint16), "more than 8 bits"),
        (np.eye(4), "cannot be read"),
        ("nowhere.png", r"ignore_mask='nowhere.png' cannot be read: .*Give a PNG"),
        (".", "cannot be read"),
    ],
)
def test_what_is_no_mask_is_refused(mask, message):
    with pytest.raises(ValueError, match=message):
        read_ignore_mask(mask)


def planted(monkeypatch, cell: tuple[int, int]) -> None:
    """Let every map have one hot cell, however the image looks."""

    def grid(result, _distance):
        maps = torch.full_like(next(iter(result.maps.values())), 0.2)
        maps[..., cell[0], cell[1]] = 0.9
        return maps

    monkeypatch.setattr(torch_model, "_joined", grid)


@pytest.mark.parametrize("sigma", [0, 3.0])
@pytest.mark.parametrize("tiled", [False, True])
def test_what_does_not_count_is_zero_and_does_not_bleed(noisy, images, monkeypatch, tiled, sigma):
    """The hot cell of each tile lies under the mask, and so do all of the whole image's."""
    planted(monkeypatch, (1, 1))
    noisy.tiler = Tiler(SIZE, SIZE) if tiled else None
    noisy.smoothing = gaussian_blur(sigma) if sigma else noisy.smoothing
    assert noisy.score_parts(images).top.min() > 0.5
    mask = np.zeros((SIZE, SIZE), bool)
    mask[32:64, 32:64] = True
    set_ignore_mask(noisy, mask)
    parts = noisy.score_parts(images)
    where = torch.from_numpy(mask).expand_as(parts.anomaly_map)
    assert not parts.anomaly_map[where].any()
    torch.testing.assert_close(parts.anomaly_map[~where], torch.full_like(parts.anomaly_map[~where], 0.2))
    torch.testing.assert_close(parts.top, torch.full((3,), 0.2))


@pytest.mark.parametrize("tiler", [None, Tiler(128, 96)])
def test_a_defect_elsewhere_keeps_its_score(noisy, monkeypatch, tiler):
    planted(monkeypatch, (0, 0))
    noisy.tiler, images = tiler, torch.randn(2, 3, *((SIZE, SIZE) if tiler is None else (200, 300)))
    before = noisy.score_parts(images)
    corner = np.zeros(images.shape[-2:], bool)
    corner[-images.shape[2] // 3 :, -images.shape[3] // 4 :] = True
    set_ignore_mask(noisy, corner)
    after = noisy(images)
    torch.testing.assert_close(after.pred_score, before.top, atol=1e-6, rtol=0)
    assert not after.anomaly_map[..., torch.from_numpy(corner)].any()
    one_each = torch.from_numpy(np.stack([corner, ~corner]))[:, None]
    parts = noisy.score_parts(images, ignored=one_each)
    torch.testing.assert_close(parts.anomaly_map[0], after.anomaly_map[0])
    assert not parts.anomaly_map[1, 0][torch.from_numpy(~corner)].any()


def test_fewer_pixels_than_the_highest_hundredth_may_count():
    maps, ignored = torch.rand(2, 1, 40, 40), torch.ones(2, 1, 40, 40, dtype=torch.bool)
    ignored[0, 0, 0, :3] = ignored[1, 0, :20] = False
    expected = [maps[0, 0, 0, :3].mean(), maps[1, 0, :20].flatten().topk(16).values.mean()]
    torch.testing.assert_close(top_mean(maps, ignored=ignored), torch.stack(expected))


def test_a_defect_under_the_mask_is_not_found():
    pixels, truth = render("leather", "hole", 112, np.random.default_rng(0))
    plain = open_in("tiny-demo", class_name="leather")
    found = plain.predict(pixels, parts=True)
    assert found.regions
    rows, columns = (np.arange(112)[truth.any(axis=axis)] for axis in (1, 0))
    mask = np.zeros((112, 112), np.uint8)
    mask[max(0, rows[0] - 16) : rows[-1] + 17, max(0, columns[0] - 16) : columns[-1] + 17] = 255
    record = open_in("tiny-demo", class_name="leather", ignore_mask=mask).predict(pixels, parts=True)
    assert not record.anomaly_map[mask > 0].any()
    assert not any(mask[round(region.centre_y), round(region.centre_x)] for region in record.regions)
    assert max((region.score for region in record.regions), default=0) < found.regions[0].score - 0.1
    assert record.score == pytest.approx(record.parts.top)  # the CLS token sees what does not count
    assert record.score < found.parts.top - 0.2
    far = np.roll(mask, (56, 56), axis=(0, 1))
    assert np.sort(found.anomaly_map[far > 0])[-1] < np.sort(found.anomaly_map.ravel())[-126]
    elsewhere = open_in("tiny-demo", class_name="leather", ignore_mask=far).predict(pixels)
    assert elsewhere.score == pytest.approx(found.parts.top, abs=1e-6)


def test_mask_travels_in_prompts_file_and_checkpoint_and_a_given_one_replaces_it(left, tmp_path):
    model = build(ignore_mask=left, seed=0)
    expected = open_in(model).predict(IMAGE)
    assert not expected.anomaly_map[:, :32].any()
    assert expected.anomaly_map[:, 32:].all()
    path = model.save_weights(tmp_path / "masked.safetensors")
    assert load_weights(path).description.ignore_mask == [48, 64]
    save_checkpoint(model, tmp_path / "masked.ckpt")
    left.rename(left.with_suffix(".moved"))
    try:
        loaded = [GenCLIP(weights=path), GenCLIP.load_from_checkpoint(tmp_path / "masked.ckpt")]
    finally:
        left.with_suffix(".moved").rename(left)
    for other in loaded:
        np.testing.assert_array_equal(open_in(other).predict(IMAGE).anomaly_map, expected.anomaly_map)
        assert other.model.ignore_mask.size == [48, 64]
    again = loaded[0].save_weights(tmp_path / "again.safetensors")
    assert load_weights(again).description == load_weights(path).description
    Image.fromarray(255 - LEFT).save(tmp_path / "right.png")
    right = {"ignore_mask": tmp_path / "right.png"}
    replaced = [GenCLIP(weights=path, **right), GenCLIP.load_from_checkpoint(tmp_path / "masked.ckpt", **right)]
    for source in (*replaced, path):
        record = open_in(source, **(right if source == path else {})).predict(IMAGE)
        assert not record.anomaly_map[:, 32:].any()
        assert record.anomaly_map[:, :32].all()
    plain = build(seed=0).save_weights(tmp_path / "plain.safetensors")
    assert not load_weights(plain).description.ignore_mask


def test_a_mask_of_another_shape_is_an_error_that_names_both(left, tmp_path):
    Image.fromarray(IMAGE[:, :100]).save(tmp_path / "part.png")
    message = r"part\.png.* \(100 x 96 pixels\) does not have the shape of ignore_mask .*{} \(64 x 48\)\. Draw the mask"
    inferencer = open_in(build(), ignore_mask=left)
    with pytest.raises(ValueError, match=message.format(r"clamp\.png")):
        inferencer.predict(tmp_path / "part.png")
    path = inferencer.save(tmp_path / "masked.safetensors")
    with pytest.raises(ValueError, match=message.format(r"masked\.safetensors")):
        open_in(path).predict(tmp_path / "part.png")
    with pytest.raises(ValueError, match=message.format("")):
        engine(tmp_path).predict(GenCLIP(weights=path, visualizer=False), data_path=tmp_path / "part.png")
    inferencer.predict([IMAGE, IMAGE[:, :127], IMAGE[::2, 1::2]])  # the same, up to a pixel
    with pytest.raises(ValueError, match="white everywhere"):
        open_in(build(), ignore_mask=np.pad(np.zeros((1, 1), bool), 2000, constant_values=True))  # at the model's size


def test_a_folder_has_a_mask_for_each_image(left, tmp_path):
    for name in ("a/1.png", "b/1.jpg", "2.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(IMAGE).save(tmp_path / "images" / name)
    masks = tmp_path / "masks"
    for name, mask in (("a/1", LEFT), ("b/1", 255 - LEFT), ("2", 0 * LEFT)):
        (masks / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(masks / f"{name}.{'PNG' if name == '2' else 'png'}")
    inferencer = open_in(build(ignore_mask=left), ignore_mask=masks)
    records = inferencer.predict([tmp_path / "images" / name for name in ("a/1.png", "b/1.jpg", "2.png")])
    halves = [(bool(r.anomaly_map[:, :32].any()), bool(r.anomaly_map[:, 32:].any())) for r in records]
    assert halves == [(False, True), (True, False), (True, True)]
    two, sizes = torch.rand(2, 3, 64, 64), [(48, 64)] * 2
    missing, scored = inferencer.predict_batch(two, ["images/3.jpg", "images/2.png"], sizes, [None] * 2)
    assert "masks has no mask for images/3.jpg: it must have 3.png" in missing.error
    assert scored.score is not None
    with pytest.raises(ValueError, match="no mask for an image without a path"):
        inferencer.predict(IMAGE)
    assert not load_weights(inferencer.save(tmp_path / "plain.safetensors")).description.ignore_mask


def test_references_do_not_remember_what_does_not_count(tmp_path):
    for number in range(3):
        data_trees.write_normal(tmp_path / "good" / f"{number}.png", seed=number)
    square = np.zeros((32, 32), np.uint8)
    square[:, :16] = 255
    images = {"": images_of_folder(str(tmp_path / "good"), "folder")}
    for k_shot, tiles in ((1, None), (2, None), (2, {"size": 20, "stride": 12})):
        views = 5 if tiles else 1
        model = build(k_shot=k_shot, seed=0, tiles=tiles)
        draw_references(model, images)
        (whole,) = model.model.references.memories
        set_ignore_mask(model.model, square)
        draw_references(model, images)
        (memory,) = model.model.references.memories
        assert json.loads(memory.drawn_with).keys() - json.loads(whole.drawn_with).keys() == {"ignore_mask"}
        known = whole.patches.view(4, k_shot, views, 2, 2, -1)
        right = known[:, :, 0, :, 1].flatten(1, 2)  # of the whole images; each has two rows of two cells
        kept = memory.patches.view(4, k_shot, -1, memory.patches.shape[-1])
        torch.testing.assert_close(kept[:, :, :2].flatten(1, 2), right)
        assert kept.shape[2] == (2 if tiles is None else 2 + 2 * 2 + 2 * 4)  # it covers one column of the left tiles
        assert memory.usual_patch_distance > 0
        draw_references(model, images)
        assert list(model.model.references.memories) == [memory]


def test_calibration_leaves_it_out_and_saves_it(tmp_path, capsys):
    square, masks = np.zeros((32, 32), np.uint8), tmp_path / "masks"
    square[:16] = 255
    masks.mkdir()
    for number in range(9):
        data_trees.write_normal(tmp_path / "good" / f"{number}.png", seed=number)
        Image.fromarray(square).save(masks / f"{number}.png")
    options = ["--weights", "tiny-demo", "--normal", str(tmp_path / "good"), "--false_alarm_rate", "0.1"]
    files = {name: tmp_path / f"{name}.safetensors" for name in ("one", "folder", "none")}
    given = {"one": ["--ignore_mask", str(masks / "0.png")], "folder": ["--ignore_mask", str(masks)], "none": []}
    for name, file in files.items():
        assert cli.main(["calibrate", *options, *given[name], "--out", str(file)]) == 0
        assert ("are not part of it" in capsys.readouterr().out) == (name == "folder")
    saved = {name: load_weights(file) for name, file in files.items()}
    assert saved["one"].description.ignore_mask == [32, 32]
    assert not saved["folder"].description.ignore_mask
    thresholds = {name: float(weights.thresholds["pixel"]) for name, weights in saved.items()}
    assert thresholds["one"] == pytest.approx(thresholds["folder"], abs=1e-6)
    records = open_in(files["one"]).predict(sorted((tmp_path / "good").glob("*")))
    assert max(record.anomaly_map.max() for record in records) == pytest.approx(thresholds["one"], abs=1e-3)
    assert not any(record.mask.any() or record.anomaly_map[:56].any() for record in records)
    command = ["predict", "--weights", "tiny-demo", "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    command += ["--accelerator", "cpu", "--precision", "float32", "--maps", "npy", *given["folder"]]
    assert cli.main(command) == 0
    found = np.load(tmp_path / "out" / "maps" / "good" / "3.png.npy")
    assert capsys.readouterr().out.startswith("9 images, ")  # the masks are none
    np.testing.assert_allclose(found, records[3].anomaly_map, atol=1e-5)


def test_one_mask_is_scaled_once_for_a_batch(left, monkeypatch):
    inferencer, scaled = open_in(build(seed=0), ignore_mask=left), []
    own, images = inferencer.model.model.ignore_mask, [IMAGE] * 3
    expected = [inferencer.predict(image).score for image in images]
    monkeypatch.setattr(own, "of", lambda *given: scaled.append(given) or type(own).of(own, *given))
    assert [record.score for record in inferencer.predict(images)] == pytest.approx(expected, abs=1e-6)
    assert len(scaled) == 1


def test_training_is_validated_without_it_and_keeps_it(cross, left, tmp_path):
    class Figures(Callback):
        def on_validation_end(self, trainer, *_):
            logged.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    logged, thresholds = [], []
    models = [build(seed=0, ignore_mask=mask) for mask in (None, left)]
    for number, model in enumerate(models):
        engine(tmp_path / str(number), max_epochs=1, callbacks=[Figures()]).fit(model, datamodule=cross)
        thresholds.append(model.post_processor.raw_thresholds())
    assert logged[0].keys() > {"image_AUROC", "pixel_AUROC"}
    assert logged[0] == logged[1]
    assert thresholds[0] == thresholds[1]
    plain, masked = (open_in(model).predict(IMAGE) for model in models)
    assert plain.anomaly_map.all()
    assert not masked.anomaly_map[:, :32].any()
    (prompts,) = (tmp_path / "1").rglob("prompts.safetensors")
    assert load_weights(prompts).description.ignore_mask == [48, 64]


def test_engine_leaves_it_out_of_maps_and_metrics(tmp_path):
    data = data_trees.mvtec_ad(tmp_path / "data", normal=2, anomalous=3)
    square = np.zeros((32, 32), np.uint8)
    square[:, :16] = 255
    Image.fromarray(square).save(tmp_path / "square.png")
    model = build(ignore_mask=tmp_path / "square.png", seed=0)
    maps, step = [], model.test_step
    model.test_step = lambda *given: maps.append(step(*given).anomaly_map) or step(*given)
    engine(tmp_path / "results").test(model, datamodule=data)
    assert not torch.cat(maps)[..., :32].any()
    assert model.evaluator.result.streamed == ["bottle"]


def test_engine_leaves_out_each_images_own_from_a_folder(tmp_path):
    data, square, masks = (
        data_trees.mvtec_ad(tmp_path / "data", normal=2, anomalous=3),
        np.zeros((32, 32)),
        tmp_path / "m",
    )
    square[:, :16] = 255
    for number, path in enumerate(sorted((data.root / "bottle" / "test").rglob("*.png"))):
        mask = masks / path.relative_to(data.root)
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((255 - square if number % 2 else square).astype(np.uint8)).save(mask)
    model = build(ignore_mask=masks, seed=0)
    found, read, add = {}, [], CategoryScores.add
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ignore_mask, "read_ignore_mask", lambda path: read.append(path) or read_ignore_mask(path))
        patch.setattr(CategoryScores, "add", lambda own, *given: found.setdefault(given[0], given) and add(own, *given))
        engine(tmp_path / "results").test(model, datamodule=data)
    assert model.evaluator.result.streamed == ["bottle"]
    assert len(read) == len(set(read)) == len(found)
    for number, path in enumerate(sorted(found)):
        _, _, _, anomaly_map, _, _, ignored = found[path]
        left, right = (half.any() for half in anomaly_map.split(32, dim=1))
        assert (left, right) == ((True, False) if number % 2 else (False, True))
        assert torch.equal(ignored, torch.arange(64).expand(64, 64) // 32 == number % 2)
    with pytest.raises(ValueError, match=r"ignore_mask .*m is a folder, and an exported model has one mask"):
        model.to_torch(tmp_path / "export")
    save_checkpoint(build(ignore_mask=mask), tmp_path / "one.ckpt")
    model = GenCLIP.load_from_checkpoint(tmp_path / "one.ckpt", ignore_mask=masks)  # replaces that of the checkpoint
    assert (model.model.ignore_mask.mask, model.model.ignore_mask.folder) == (None, masks)
    Image.fromarray(IMAGE).save(mask)
    part = tmp_path / "data" / mask.relative_to(masks)
    for message in (
        r"\(32 x 32 pixels\) does not have the shape of ignore_mask .*\(128 x 96\)",
        "has no mask for .*png",
    ):
        with pytest.raises(ValueError, match=message):
            engine(tmp_path).predict(GenCLIP(weights="tiny-demo", ignore_mask=masks, visualizer=False), data_path=part)
        mask.unlink(missing_ok=True)


def test_calibration_with_another_mask_is_told_once(left, tmp_path, caplog):
    def warnings():
        found = [record.message for record in caplog.records if "another ignore mask" in record.message]
        caplog.clear()
        return found

    Image.fromarray(255 - LEFT).save(tmp_path / "right.png")
    for number in range(9):
        Image.fromarray(IMAGE).save(tmp_path / f"{number}.jpg")
    (tmp_path / "good").mkdir()
    for file in tmp_path.glob("*.jpg"):
        file.rename(tmp_path / "good" / file.name)
    Image.fromarray(IMAGE).save(tmp_path / "right.jpg")
    for mask, others in ((left, [tmp_path / "right.png", tmp_path]), (None, [left])):
        inferencer = open_in("tiny-demo", ignore_mask=mask)
        calibrate(inferencer, tmp_path / "good", 0.1)
        path = inferencer.save(tmp_path / "line.safetensors")
        open_in(path, ignore_mask=mask).predict(IMAGE)
        engine(tmp_path).predict(GenCLIP(weights=path, visualizer=False), data_path=tmp_path / "good")
        assert not warnings()
        for other in others:
            inferencer = open_in(path, ignore_mask=other)
            inferencer.predict([tmp_path / "right.jpg"] * 2)
            inferencer.predict(tmp_path / "right.jpg")
            assert len(warnings()) == 1
        inferencer = open_in(path, ignore_mask=others[0])
        calibrate(inferencer, tmp_path / "good", 0.1)
        inferencer.predict(IMAGE)
        assert not warnings()
    other = GenCLIP(weights=path, ignore_mask=left, visualizer=False)
    engine(tmp_path).predict(other, data_path=tmp_path / "good")
    assert len(warnings()) == 1
    found, problems = Scorer(str(path)).score([str(tmp_path / "good" / "1.jpg")], ignore_masks=[str(left)])
    assert found
    assert "another ignore mask" in "".join(problems)
