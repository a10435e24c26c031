# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Errors that name the file of an image that cannot be used."""

import errno
import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch, PredictDataset
from helpers import data_trees
from helpers.damage import cut
from helpers.data_trees import cross
from helpers.runs import build, engine
from PIL import Image
from torch.utils.data import DataLoader

from anomalib_genclip import GenCLIP
from anomalib_genclip.callbacks.input_checks import InputChecks


@pytest.fixture(scope="module")
def model() -> GenCLIP:
    """A model without pictures."""
    return build()


@pytest.fixture(scope="module")
def drawing() -> GenCLIP:
    """A model that writes pictures."""
    return build(visualizer=True)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


BREAKS = {
    "truncated": cut,
    "flipped": _flip,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no picture"),
}


@pytest.mark.parametrize("broken", BREAKS)
def test_a_bad_file_late_in_a_prediction_is_named_and_all_before_it_is_on_disk(drawing, tmp_path, broken):
    folder = tmp_path / "images"
    for i in range(5):
        data_trees.write_normal(folder / f"{i}.png", seed=i)
    BREAKS[broken](folder / "3.png")
    run = engine(tmp_path / "results")
    with pytest.raises(Exception, match=r"images/3\.png cannot be read: .+ Repair the file or remove it") as caught:
        run.predict(drawing, data_path=folder, return_predictions=False)
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


def test_a_picture_too_large_to_be_true_is_named(model, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    data_trees.write_normal(tmp_path / "bomb.png")
    with pytest.raises(Image.DecompressionBombError, match=r"bomb\.png cannot be read"):
        engine(tmp_path / "results").predict(model, data_path=tmp_path)


def test_an_error_of_the_loader_itself_stays_as_it_is(model, tmp_path):
    data_trees.write_normal(tmp_path / "images" / "0.png")

    class Broken(DataLoader):
        def __iter__(self):
            msg = "the loader's own"
            raise RuntimeError(msg)

    data = Broken([0], batch_size=1)
    with pytest.raises(RuntimeError, match=r"^the loader's own$"):
        engine(tmp_path / "results").predict(model, dataloaders=data)


@pytest.mark.parametrize("kind", ["image", "mask"])
@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
def test_a_bad_image_or_mask_of_a_data_set_is_named(model, tmp_path, kind, stage):
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


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_full_disk_starts_no_search_among_the_images(monkeypatch, number):
    searched = []
    monkeypatch.setattr("anomalib_genclip.callbacks.input_checks.running_loaders", lambda _: searched.append(1) or [])
    InputChecks().on_exception(SimpleNamespace(), SimpleNamespace(), OSError(number, "No space left on device"))
    assert bool(searched) == (number != errno.ENOSPC)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("call", ["predict", "test"])
def test_pixels_that_are_no_numbers_are_an_error(model, tmp_path, value, call):
    images = torch.rand(3, 3, 64, 64)
    images[1, 0, 5, 5] = value
    batch = ImageBatch(image=images, image_path=["a.png", "b.png", "c.png"], gt_label=torch.tensor([0, 1, 0]))
    loader = DataLoader([batch], batch_size=None)
    with pytest.raises(ValueError, match=r"NaN or infinite pixels in b\.png\."):
        getattr(engine(tmp_path), call)(model, dataloaders=loader)


def test_a_file_of_several_pages_says_so_once(model, tmp_path, caplog):
    pages = [Image.new("L", (32, 32), shade) for shade in (0, 255)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "phone.jpg", format="MPO", save_all=True, append_images=pages[1:])  # with a preview
    images = [PredictDataset(tmp_path)[i] for i in (0, 1)] * 4
    loader = DataLoader(images, batch_size=1, collate_fn=PredictDataset(tmp_path).collate_fn)
    with caplog.at_level(logging.WARNING):
        engine(tmp_path / "results").predict(model, dataloaders=loader)
    assert caplog.text.count("pages.tif has several pages or frames: only the first is used") == 1
    assert "phone.jpg has" not in caplog.text


def test_more_than_8_bits_are_found_whatever_the_ending(model, tmp_path):
    Image.fromarray(np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)).save(tmp_path / "deep.png")
    (tmp_path / "deep.png").rename(tmp_path / "deep.jpg")
    with pytest.raises(ValueError, match=r"deep\.jpg has more than 8 bits"):
        engine(tmp_path / "results").predict(model, data_path=tmp_path)


def test_files_that_anomalib_passes_over_are_named(model, tmp_path, caplog):
    for i in range(2):
        data_trees.write_normal(tmp_path / "images" / f"{i}.png")
    (tmp_path / "images" / "photo.heic").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        engine(tmp_path / "results").predict(model, data_path=tmp_path / "images")
    assert "1 file(s) are left out" in caplog.text
    assert "photo.heic" in caplog.text
