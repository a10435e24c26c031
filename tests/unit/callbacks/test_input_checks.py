# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Errors that name the file of an image that cannot be used."""

import logging
from pathlib import Path

import pytest
import torch
from anomalib.data import Folder, ImageBatch, PredictDataset
from helpers import data_trees
from helpers.damage import cut
from helpers.data_trees import cross
from helpers.runs import engine
from PIL import Image
from torch.utils.data import DataLoader

from anomalib_genclip import GenCLIP
from anomalib_genclip.callbacks.input_checks import InputChecks
from anomalib_genclip.callbacks.synthetic_anomalies import PerlinAnomalies


@pytest.fixture(scope="module")
def model() -> GenCLIP:
    return GenCLIP(backbone="tiny", image_size=64, visualizer=False)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, _flip, lambda path: path.write_bytes(b"")], ids=["cut", "flipped", "empty"])
def test_a_bad_file_late_in_a_prediction_is_named_and_all_before_it_is_on_disk(tmp_path, damage):
    folder = tmp_path / "images"
    for i in range(5):
        data_trees.write_normal(folder / f"{i}.png", seed=i)
    damage(folder / "3.png")
    run = engine(tmp_path / "results")
    with pytest.raises(Exception, match=r"images/3\.png cannot be read: .+ Repair the file or remove it") as caught:
        run.predict(GenCLIP(backbone="tiny", image_size=64), data_path=folder, return_predictions=False)
    assert "4.png" not in str(caught.value)
    written = sorted(path.name for path in Path(run.trainer.default_root_dir).rglob("*.png"))
    assert written == ["0.png", "1.png", "2.png"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_folder_with_the_name_of_an_image_is_named(model, tmp_path, workers):
    data_trees.write_normal(tmp_path / "0.png")
    (tmp_path / "1.png").mkdir()
    loader = DataLoader(PredictDataset(tmp_path), num_workers=workers, collate_fn=PredictDataset(tmp_path).collate_fn)
    with pytest.raises(Exception, match=r"^\S+/1\.png cannot be read: .+ Repair the file or remove it"):
        engine(tmp_path / "results").predict(model, dataloaders=loader)


def test_an_error_of_the_loader_itself_stays_as_it_is(model, tmp_path):
    data_trees.write_normal(tmp_path / "images" / "0.png")

    class Broken(DataLoader):
        def __iter__(self):
            msg = "the loader's own"
            raise RuntimeError(msg)

    data = Broken([0], batch_size=1)
    with pytest.raises(RuntimeError, match=r"^the loader's own$"):
        engine(tmp_path / "results").predict(model, dataloaders=data)


@pytest.mark.parametrize(("stage", "kind"), [("fit", "image"), ("fit", "mask"), ("validate", "image")])
def test_a_bad_image_or_mask_of_a_data_set_is_named(model, tmp_path, stage, kind):
    source = data_trees.mvtec_ad(tmp_path / "source", normal=1, anomalous=4)
    target = data_trees.mvtec_ad(tmp_path / "target", ("wood",), normal=1, anomalous=4)
    data = cross(source, target, val_split_ratio=0.5)
    data.setup()
    samples = {"fit": data.train_data, "validate": data.val_data, "test": data.test_data}[stage].samples
    victim = samples[samples.label_index == 1].iloc[-1][f"{kind}_path"]
    cut(Path(victim)) if kind == "image" else Path(victim).write_bytes(b"")
    run = engine(tmp_path / "results", max_epochs=1)
    with pytest.raises(Exception, match=f"^{victim} cannot be read"):
        getattr(run, stage)(model=model, datamodule=data)


@pytest.mark.parametrize(("value", "call"), [(torch.nan, "fit"), (torch.inf, "predict"), (torch.nan, "test")])
def test_pixels_that_are_no_numbers_are_an_error(model, tmp_path, value, call):
    images, masks = torch.rand(3, 3, 64, 64), torch.zeros(3, 64, 64, dtype=torch.bool)
    images[1, 0, 5, 5] = value
    labels, paths = torch.tensor([0, 1, 0]), ["a.png", "b.png", "c.png"]
    loader = DataLoader([ImageBatch(image=images, image_path=paths, gt_label=labels, gt_mask=masks)], batch_size=None)
    loaders = {"train_dataloaders" if call == "fit" else "dataloaders": loader}
    with pytest.raises(ValueError, match=r"^NaN or infinite pixels in b\.png\."):
        getattr(engine(tmp_path, max_epochs=1), call)(model, **loaders)


def test_a_training_step_waits_for_no_check(monkeypatch):
    """Each value that Python reads of a tensor is a wait for the device."""

    def waited(_):
        pytest.fail("a value was read")

    checks, anomalies = InputChecks(), PerlinAnomalies("synthetic")
    anomalies.active = anomalies.labelled = True
    made = torch.rand(2, 3, 32, 32), torch.ones(2, 1, 32, 32)
    monkeypatch.setattr(anomalies, "generator", lambda _: made)
    masks, labels = torch.zeros(2, 32, 32, dtype=torch.bool), torch.tensor([0, 1])
    batch = ImageBatch(image=torch.rand(2, 3, 32, 32), image_path=["a.png", "b.png"], gt_label=labels, gt_mask=masks)
    for name in ("__bool__", "item", "tolist", "cpu"):
        monkeypatch.setattr(torch.Tensor, name, waited)
    checks.on_train_batch_start(None, None, batch, 0)
    anomalies.on_train_batch_start(None, None, batch, 0)


def test_a_file_of_several_pages_says_so_once(model, tmp_path, caplog):
    pages = [Image.new("L", (32, 32), shade) for shade in (0, 255)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "phone.jpg", format="MPO", save_all=True, append_images=pages[1:])  # with a preview
    images = [PredictDataset(tmp_path)[i] for i in (0, 1)] * 4
    loader = DataLoader(images, batch_size=1, collate_fn=PredictDataset(tmp_path).collate_fn)
    with caplog.at_level(logging.WARNING):
        engine(tmp_path / "results").predict(model, dataloaders=loader)
    assert caplog.text.count("pages.tif") == 1
    assert f"1 image with several pages or frames: only the first is used: {tmp_path}/pages.tif." in caplog.text
    assert "phone.jpg" not in caplog.text


def test_files_that_anomalib_passes_over_are_named(model, tmp_path, caplog):
    for i in range(2):
        data_trees.write_normal(tmp_path / "images" / f"{i}.png")
    (tmp_path / "images" / "photo.heic").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        engine(tmp_path / "results").predict(model, data_path=tmp_path / "images")
    assert "does not read images with these suffixes: 1 file: " in caplog.text
    assert "photo.heic" in caplog.text


@pytest.fixture
def folder(tmp_path) -> Path:
    data_trees.folder(tmp_path / ".config" / "data", normal=2, anomalous=4)
    return tmp_path / ".config" / "data"


def check(model: GenCLIP, folder: Path) -> None:
    masks = {"mask_dir": "mask", "normal_test_dir": "good_test", "val_split_mode": "none"}
    data = Folder("screws", "good", folder, "bad", **data_trees.LOADING, **masks)
    engine(folder.parent / "results").test(model, datamodule=data)


def test_a_mask_of_another_shape_is_an_error_that_names_both(model, folder):
    Image.new("L", (32, 20), 255).save(folder / "mask" / "001.png")
    match = rf"The mask {folder}/mask/001\.png \(32 x 20 pixels\) does not have the shape of its image {folder}/bad/001"
    with pytest.raises(ValueError, match=match):
        check(model, folder)


def test_doubtful_masks_and_turned_or_transparent_images_are_named_once(model, folder, caplog):
    turned = Image.Exif()
    turned[0x0112] = 6
    with Image.open(folder / "bad" / "000.png") as image:
        image.save(folder / "bad" / "000.png", exif=turned)
    for name in ("good_test/000", "good_test/001", "bad/002"):  # the last one is opaque
        with Image.open(folder / f"{name}.png") as image:
            image.putalpha(255 if name == "bad/002" else Image.linear_gradient("L").resize(image.size))
            image.save(folder / f"{name}.png")
    Image.new("L", (32, 32), 0).save(folder / "mask" / "001.png")
    Image.new("L", (32, 32), 255).save(folder / "mask" / "002.png")
    with Image.open(folder / "mask" / "003.png") as mask:
        mask.save(folder / "mask" / "003.png", format="JPEG")
    with caplog.at_level(logging.WARNING):
        check(model, folder)
    bad = {
        "an EXIF orientation tag": 0,
        "an empty mask": 1,
        "a mask of more than 95% of the image": 2,
        "a JPEG mask": 3,
    }
    for fault, number in bad.items():
        (message,) = [text for text in caplog.messages if fault in text]
        assert message.startswith("1 image with ")
        assert message.endswith(f": {folder}/bad/00{number}.png.")
    (message,) = [text for text in caplog.messages if "transparency" in text]
    assert message.startswith("2 images with transparency, which is dropped")
    assert f": {folder}/good_test/000.png, " in message
