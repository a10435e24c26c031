# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Tiles in anomalib's engine: sizes of images and results, settings, checkpoints, training."""

import numpy as np
import pytest
import torch
from anomalib.callbacks import TilerConfigurationCallback
from anomalib.data import Folder
from helpers.runs import build, engine, learned, save_checkpoint
from PIL import Image
from torchvision.transforms.v2 import Normalize

from anomalib_genclip import CrossDataset, GenCLIP

TILES = {"size": 64, "stride": 48}


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("large"), np.random.default_rng(0)
    for folder in ("good", "bad", "masks"):
        (root / folder).mkdir()
    for index in range(4):
        mask = np.zeros((100, 150), np.uint8)
        mask[50:54, 10 * index : 10 * index + 4] = 255
        Image.fromarray(mask).save(root / "masks" / f"{index}.png")
        for folder, defect in (("good", 0), ("bad", mask[..., None])):
            pixels = rng.integers(60, 120, (100, 150, 3), dtype=np.uint8)
            Image.fromarray(np.maximum(pixels, defect).astype(np.uint8)).save(root / folder / f"{index}.png")
    return root


def data_of(root) -> Folder:
    folders = {"normal_dir": "good", "abnormal_dir": "bad", "mask_dir": "masks"}
    loading = {"train_batch_size": 4, "eval_batch_size": 3, "num_workers": 0}
    return Folder(name="large", root=root, **folders, **loading, val_split_mode="same_as_test")


def maps_of(model, folder, tmp_path, **settings) -> dict[str, torch.Tensor]:
    batches = engine(tmp_path, **settings).predict(model, data_path=folder)
    return {path: m for batch in batches for path, m in zip(batch.image_path, batch.anomaly_map, strict=True)}


@pytest.mark.parametrize(
    ("tiles", "expected"), [(TILES, (100, 150)), (TILES | {"working_size": [90, 130]}, (90, 130)), (None, (64, 64))]
)
def test_maps_masks_and_pictures_have_the_working_size(large, tmp_path, tiles, expected):
    model = build(tiles=tiles, visualizer=True)
    sizes, step = [], model.test_step
    model.test_step = lambda batch, *rest: sizes.append((batch.image.shape, batch.gt_mask.shape)) or step(batch, *rest)
    engine(tmp_path).test(model, datamodule=data_of(large))
    assert {shape[-2:] for pair in sizes for shape in pair} == {expected}
    assert "pixel_AUROC" in model.evaluator.result.mean
    pictures = {Image.open(path).size for path in tmp_path.rglob("bad/*.png")}
    assert pictures == {(4 * expected[1], expected[0])} or not tiles


def test_callback_of_anomalib_does_what_the_arguments_do(large, tmp_path):
    own = maps_of(build(tiles=TILES, seed=0), large / "bad", tmp_path)
    assert {image_map.shape[-2:] for image_map in own.values()} == {(100, 150)}
    callback = TilerConfigurationCallback(enable=True, tile_size=64, stride=48)
    theirs = maps_of(build(seed=0), large / "bad", tmp_path, callbacks=[callback])
    torch.testing.assert_close(own, theirs, rtol=0, atol=0)
    borders = TilerConfigurationCallback(enable=True, tile_size=64, stride=48, remove_border_count=2)
    with pytest.raises(ValueError, match="remove_border_count=2"):
        maps_of(build(), large / "bad", tmp_path, callbacks=[borders])


def test_pre_processor_of_the_user_is_left_alone():
    own = torch.nn.Module()
    own.transform = Normalize([0.5] * 3, [0.5] * 3)
    assert build(tiles=TILES, pre_processor=own).pre_processor is own


def test_checkpoint_keeps_tiles_and_they_may_be_switched_on_and_off(tmp_path):
    def size_of(path, **settings) -> tuple[int, int]:
        loaded = GenCLIP.load_from_checkpoint(path, **settings)
        assert (loaded.model.tiler is None) == (loaded.hparams["tiles"] is None)
        return loaded.pre_processor(torch.rand(1, 3, 50, 50)).shape[-2:]

    save_checkpoint(build(tiles=TILES | {"working_size": [90, 130]}), tmp_path / "tiles.ckpt")
    save_checkpoint(build(), tmp_path / "whole.ckpt")
    assert size_of(tmp_path / "tiles.ckpt") == (90, 130)
    assert size_of(tmp_path / "tiles.ckpt", tiles=None) == (64, 64)
    assert size_of(tmp_path / "whole.ckpt") == (64, 64)
    assert size_of(tmp_path / "whole.ckpt", tiles=TILES) == (50, 50)


def test_training_learns_at_the_models_size_and_validates_on_tiles(large, tmp_path):
    model = build(tiles=TILES, seed=0, training={"anomaly_source": "labels"})
    before, seen, maps = learned(model), [], []
    train, validate = model.training_step, model.validation_step
    model.training_step = lambda batch, *rest: seen.append((batch.image, batch.gt_mask)) or train(batch, *rest)
    model.validation_step = lambda batch, *rest: maps.append(validate(batch, *rest).anomaly_map) or batch
    data = CrossDataset(data_of(large), data_of(large), train_batch_size=4, eval_batch_size=3, num_workers=0)
    engine(tmp_path, max_epochs=1).fit(model, datamodule=data)
    assert {tensor.shape[-2:] for pair in seen for tensor in pair} == {(64, 64)}
    assert {image_map.shape[-2:] for image_map in maps} == {(100, 150)}
    assert any(not torch.equal(before[key], value) for key, value in learned(model).items())


def test_settings_that_do_not_fit_each_other_are_refused(large, tmp_path):
    with pytest.raises(ValueError, match=r"tiles\.stride=65 leaves gaps"):
        build(tiles={"size": 64, "stride": 65})
    model = build(tiles=TILES, training={"feature_cache": str(tmp_path / "cache")})
    with pytest.raises(ValueError, match="feature_cache has features of whole images"):
        engine(tmp_path, max_epochs=1).fit(model, datamodule=data_of(large))


def test_folder_of_mixed_sizes_is_predicted(tmp_path):
    (tmp_path / "mixed").mkdir()
    for number, size in enumerate([(40, 30), (200, 64), (1, 90)]):
        Image.new("RGB", size, (90, 80, 70)).save(tmp_path / "mixed" / f"{number}.png")
    maps = maps_of(build(tiles=TILES), tmp_path / "mixed", tmp_path)
    assert [image_map.shape[-2:] for image_map in maps.values()] == [(30, 40), (64, 200), (90, 1)]
