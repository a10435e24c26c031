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

TILES = {"tile_size": 64, "tile_stride": 48}


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A folder of images of 150 x 100 pixels with a defect of four."""
    root, rng = tmp_path_factory.mktemp("large"), np.random.default_rng(0)
    for folder, number in (("good", 4), ("bad", 4)):
        for index in range(number):
            pixels, mask = rng.integers(60, 120, (100, 150, 3), dtype=np.uint8), np.zeros((100, 150), np.uint8)
            if folder == "bad":
                mask[50:54, 10 * index : 10 * index + 4] = 255
                (root / "masks").mkdir(exist_ok=True)
                Image.fromarray(mask).save(root / "masks" / f"{index}.png")
            (root / folder).mkdir(exist_ok=True)
            Image.fromarray(np.maximum(pixels, mask[..., None])).save(root / folder / f"{index}.png")
    return root


def data_of(root, **settings) -> Folder:
    """Normal and anomalous images, half of them to train on."""
    given = {"train_batch_size": 4, "eval_batch_size": 3, "num_workers": 0, "val_split_mode": "same_as_test"}
    folders = {"normal_dir": "good", "abnormal_dir": "bad", "mask_dir": "masks"}
    return Folder(name="large", root=root, **folders, **{**given, **settings})


def maps_of(model, root, tmp_path, **settings) -> dict[str, torch.Tensor]:
    """Predict a folder: maps by file."""
    batches = engine(tmp_path, **settings).predict(model, data_path=root / "bad")
    return {path: m for batch in batches for path, m in zip(batch.image_path, batch.anomaly_map, strict=True)}


@pytest.mark.parametrize(
    ("working_size", "expected"), [(None, (100, 150)), (120, (80, 120)), ([90, 130], (90, 130)), (300, (200, 300))]
)
def test_maps_and_masks_have_the_working_size(large, tmp_path, working_size, expected):
    model = build(**TILES, working_size=working_size)
    for image_map in maps_of(model, large, tmp_path).values():
        assert image_map.shape[-2:] == expected
    sizes = []
    step = model.test_step
    model.test_step = lambda batch, *rest: sizes.append((batch.image.shape, batch.gt_mask.shape)) or step(batch, *rest)
    engine(tmp_path).test(model, datamodule=data_of(large))
    assert {shape[-2:] for pair in sizes for shape in pair} == {expected}
    assert "pixel_AUROC" in model.evaluator.result.mean


def test_callback_of_anomalib_does_what_the_arguments_do(large, tmp_path):
    own = maps_of(build(**TILES, seed=0), large, tmp_path)
    callback = TilerConfigurationCallback(enable=True, tile_size=64, stride=48)
    model = build(seed=0)
    theirs = maps_of(model, large, tmp_path, callbacks=[callback])
    assert all(torch.equal(own[path], theirs[path]) for path in own)
    model = build()
    engine(tmp_path, callbacks=[callback]).test(model, datamodule=data_of(large))
    assert model.pre_processor.keeps_size
    borders = TilerConfigurationCallback(enable=True, tile_size=64, stride=48, remove_border_count=2)
    with pytest.raises(ValueError, match="remove_border_count=2"):
        maps_of(build(), large, tmp_path, callbacks=[borders])


def test_without_tiles_nothing_changes(large, tmp_path):
    model = build()
    assert model.model.tiler is None
    assert not model.pre_processor.keeps_size
    assert all(image_map.shape[-2:] == (64, 64) for image_map in maps_of(model, large, tmp_path).values())


def test_pre_processor_of_the_user_is_left_alone():
    own = torch.nn.Module()
    own.transform = Normalize([0.5] * 3, [0.5] * 3)
    model = build(**TILES, pre_processor=own)
    assert model.pre_processor is own


def test_checkpoint_keeps_tiles_and_they_may_be_switched_on_and_off(tmp_path):
    path = tmp_path / "tiles.ckpt"
    save_checkpoint(build(**TILES, working_size=[90, 130]), path)
    same = GenCLIP.load_from_checkpoint(path)
    assert (same.model.tiler.tile_size_h, same.model.tiler.stride_h) == (64, 48)
    assert same.pre_processor(torch.rand(1, 3, 50, 50)).shape[-2:] == (90, 130)
    without = GenCLIP.load_from_checkpoint(path, tile_size=None)
    assert without.pre_processor(torch.rand(1, 3, 50, 50)).shape[-2:] == (64, 64)
    save_checkpoint(build(), path)
    assert GenCLIP.load_from_checkpoint(path).model.tiler is None
    added = GenCLIP.load_from_checkpoint(path, **TILES)
    assert added.pre_processor(torch.rand(1, 3, 50, 50)).shape[-2:] == (50, 50)


@pytest.mark.parametrize("tile_training", [False, True])
def test_training_learns_at_the_models_size_and_validates_on_tiles(large, tmp_path, tile_training):
    model = build(**TILES, tile_training=tile_training, seed=0, anomaly_source="labels")
    before, seen, maps = learned(model), [], []
    train, validate = model.training_step, model.validation_step
    model.training_step = lambda batch, *rest: seen.append((batch.image, batch.gt_mask)) or train(batch, *rest)
    model.validation_step = lambda batch, *rest: maps.append(validate(batch, *rest).anomaly_map) or batch
    data = CrossDataset(data_of(large), data_of(large), train_batch_size=4, eval_batch_size=3, num_workers=0)
    engine(tmp_path, max_epochs=1).fit(model, datamodule=data)
    assert {tensor.shape[-2:] for pair in seen for tensor in pair} == {(64, 64)}
    assert {image_map.shape[-2:] for image_map in maps} == {(100, 150)}
    assert any(not torch.equal(before[key], value) for key, value in learned(model).items())


def test_impossible_settings_are_refused(large, tmp_path):
    for name, value in (("tile_size", 0), ("tile_size", [64]), ("tile_stride", "8"), ("working_size", [1, 2, 3])):
        with pytest.raises(ValueError, match=name):
            build(**{"tile_size": 64, name: value})
    with pytest.raises(ValueError, match=r"tile_stride=65 leaves gaps"):
        build(tile_size=64, tile_stride=65)
    with pytest.raises(ValueError, match="tile_batch_size"):
        build(tile_size=64, tile_batch_size=0)
    with pytest.raises(ValueError, match="tile_training=True needs tiles"):
        engine(tmp_path, max_epochs=1).fit(build(tile_training=True), datamodule=data_of(large))
    with pytest.raises(ValueError, match="feature_cache has features of whole images"):
        engine(tmp_path, max_epochs=1).fit(build(**TILES, feature_cache=tmp_path / "cache"), datamodule=data_of(large))


def test_folder_of_mixed_sizes_is_predicted(tmp_path):
    for number, size in enumerate([(40, 30), (200, 64), (1, 90)]):
        (tmp_path / "mixed").mkdir(exist_ok=True)
        Image.new("RGB", size, (90, 80, 70)).save(tmp_path / "mixed" / f"{number}.png")
    batches = engine(tmp_path).predict(build(**TILES), data_path=tmp_path / "mixed")
    assert [batch.anomaly_map.shape[-2:] for batch in batches] == [(30, 40), (64, 200), (90, 1)]


def test_pictures_have_the_working_size(large, tmp_path):
    engine(tmp_path).test(build(**TILES, visualizer=True), datamodule=data_of(large))
    pictures = [Image.open(path) for path in tmp_path.rglob("bad/*.png")]
    assert pictures
    assert {picture.size for picture in pictures} == {(4 * 150, 100)}
