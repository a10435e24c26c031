# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""What is written to a cache, when it is written anew, and what happens if it cannot be."""

import logging
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from anomalib.pre_processing import PreProcessor
from helpers.damage import cut, flip
from helpers.feature_caches import build, cross, entries, fit
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torchvision.transforms import v2

from anomalib_genclip.feature_cache import callback
from anomalib_genclip.feature_cache.dataset import read_features
from anomalib_genclip.utils.tensors import IGNORED


def test_second_run_writes_nothing(filled, tmp_path, tower_images):
    """Though the data have moved to another folder."""
    before = {path: path.stat().st_mtime_ns for path in entries(filled.cache)}
    _, record = fit(filled.data, tmp_path / "results", epochs=1, feature_cache=filled.cache)
    assert tower_images == []
    assert len(before) == len(filled.data.train_data) + len(filled.data.val_data) == 14
    with safe_open(next(iter(before)), "pt") as file:
        assert file.get_slice("patches").get_dtype() == "F16"
        assert file.get_slice("patches").get_shape() == [4, 16, 128]
    assert {path: path.stat().st_mtime_ns for path in entries(filled.cache)} == before
    assert record.losses == pytest.approx(filled.losses, rel=1e-5)  # matrix products round by where they lie in memory


def test_the_tower_computes_in_bf16_where_that_is_fast_and_the_trainer_says_nothing_else(tmp_path, monkeypatch, caplog):
    """Files of the two precisions are not mixed, and one line says which it is."""
    data, found = cross(tmp_path / "data"), {}
    for fast in (False, True):
        monkeypatch.setattr(callback, "bf16_is_fast", lambda _, fast=fast: fast)
        caplog.clear()
        with caplog.at_level(logging.INFO):
            fit(data, tmp_path / "results", epochs=1, feature_cache=tmp_path / "cache")
        assert "Feature cache: writing 0.00 GB for 14 of 14 images to" in caplog.text
        assert ("in bf16" in caplog.text) == fast
        new = [path for path in entries(tmp_path / "cache") if path not in found.get(False, [])]
        found[fast] = {path: load_file(path)["patches"].float() for path in new}
    assert len(found[False]) == len(found[True]) == 14
    means = [torch.stack(list(patches.values())).mean(0) for patches in found.values()]
    difference = (means[0] - means[1]).abs().max()
    assert 1e-4 < difference < 0.1
    model = build()
    trainer = SimpleNamespace(precision="64-true")
    assert not callback.FeatureWriter(trainer, model, None, tmp_path).in_bf16


def test_what_does_not_count_is_in_the_cache(filled, tmp_path):
    before = entries(filled.cache)
    images = sorted((tmp_path / "data").glob("*/test/crack/*.png"))
    for image in images:
        file = tmp_path / "data" / "ignore" / image.relative_to(tmp_path / "data")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (32, 32), 255).save(file)
    caches = (filled.cache, None)
    runs = [fit(filled.data, tmp_path / "results", epochs=1, feature_cache=cache)[1].losses for cache in caches]
    assert runs[0] == pytest.approx(runs[1], rel=1e-2)
    assert runs[0] != pytest.approx(filled.losses, rel=1e-2)
    new = entries(filled.cache).keys() - before.keys()
    assert len(new) == len(images)
    assert sum(int(load_file(path)["mask"].max()) == IGNORED for path in new) == len(images) - 2  # two for validation


def _swap(path: Path) -> None:
    other = next(entry for entry in path.parent.iterdir() if entry != path)
    path.write_bytes(other.read_bytes())


def _flip_key(path: Path) -> None:
    flip(path, path.read_bytes().index(path.stem.encode()))


@pytest.mark.parametrize("damage", [cut, lambda path: path.write_bytes(b""), _flip_key, _swap])
def test_damaged_file_is_noticed_and_made_anew(filled, tmp_path, tower_images, caplog, damage):
    good = entries(filled.cache)
    victim = next(iter(good))
    damage(victim)
    assert victim.read_bytes() != good[victim]
    with caplog.at_level(logging.WARNING):
        _, record = fit(filled.data, tmp_path / "results", epochs=1, feature_cache=filled.cache)
    assert sum(tower_images) == 1
    assert f"Damaged or foreign, and rewritten: 1 file of the feature cache: {victim}." in caplog.text
    with safe_open(victim, "pt") as file:
        assert file.metadata()["key"].startswith(victim.stem)
    assert record.losses == pytest.approx(filled.losses, rel=1e-3)


@pytest.mark.parametrize(
    "other",
    [
        {"backbone": "ViT-S-32-alt", "pretrained": "random"},
        {"pretrained": "random"},
        {"layers": [2, 8]},
        {"patch_attention": "value"},
        {"image_size": 64},
        {"pre_processor": PreProcessor(v2.Compose([v2.Resize((32, 32)), v2.Normalize([0.5] * 3, [0.5] * 3)]))},
    ],
)
def test_another_models_cache_is_not_used(filled, other):
    def folder(**settings) -> Path:
        model = build(**settings)
        return callback.FeatureWriter(trainer, model, model.pre_processor.transform, filled.cache).folder

    trainer = SimpleNamespace(precision="32-true")
    assert folder().is_dir()
    assert not folder(**other).exists()


@pytest.mark.parametrize("what", ["test", "ground_truth"])
def test_edited_image_or_mask_is_noticed(filled, tmp_path, tower_images, what):
    path = next((tmp_path / "data" / "cable" / what / "crack").iterdir())
    stat = path.stat()
    with Image.open(path) as image:
        edited = image.transpose(Image.Transpose.ROTATE_180)
    edited.save(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # the date does not tell
    fit(filled.data, tmp_path / "cached", epochs=1, feature_cache=filled.cache)
    assert sum(tower_images) == 1


def test_no_room_is_one_error_before_anything_is_written(tmp_path, monkeypatch):
    data = cross(tmp_path / "data")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000))
    with pytest.raises(OSError, match=r"needs \d\.\d\d GB for \d+ of \d+ images.*has 0\.00 GB left.*Nothing has been"):
        fit(data, tmp_path / "results", feature_cache=tmp_path / "cache")
    assert entries(tmp_path / "cache") == {}
    monkeypatch.undo()
    fit(data, tmp_path / "results", epochs=1, feature_cache=tmp_path / "cache")  # the datamodule is as before


def test_disk_that_fills_up_is_one_clear_error(tmp_path, monkeypatch):
    def full(path, content, **_):
        del path, content
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(callback, "atomic_write", full)
    with pytest.raises(OSError, match=r"feature cache cannot be written to .*No space left.*another folder"):
        fit(cross(tmp_path / "data"), tmp_path / "results", feature_cache=tmp_path / "cache")


def test_interruption_leaves_whole_files_that_are_used_again(tmp_path, tower_images, monkeypatch):
    data, cache = cross(tmp_path / "data"), tmp_path / "cache"
    write, count = callback.atomic_write, []

    def interrupted(path, content, **kwargs):
        count.append(path)
        if len(count) == 6:
            raise RuntimeError
        return write(path, content, **kwargs)

    monkeypatch.setattr(callback, "atomic_write", interrupted)
    with pytest.raises(RuntimeError):
        fit(data, tmp_path / "first", feature_cache=cache)
    assert sorted(path for path in cache.rglob("*") if path.is_file()) == list(entries(cache))
    assert len(entries(cache)) == 5
    monkeypatch.setattr(callback, "atomic_write", write)
    tower_images.clear()
    fit(data, tmp_path / "second", epochs=1, feature_cache=cache)
    assert sum(tower_images) == 14 - 5


def test_broken_image_is_named(tmp_path):
    data = cross(tmp_path / "data")
    path = tmp_path / "data" / "tile" / "test" / "good" / "001.png"
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(OSError, match=r"tile/test/good/001\.png cannot be read: .*truncated"):
        fit(data, tmp_path / "results", feature_cache=tmp_path / "cache")


def test_fixed_augmentations_are_part_of_the_key(filled, tmp_path, tower_images):
    data = cross(tmp_path / "data", train_augmentations=v2.CenterCrop(24))
    fit(data, tmp_path / "cached", epochs=1, feature_cache=filled.cache)
    assert sum(tower_images) == len(data.train_data)


@pytest.mark.parametrize("damage", [cut, lambda path: flip(path, -1), Path.unlink])
def test_files_that_are_damaged_during_a_training_are_refused_by_name(filled, damage):
    victim = next(iter(entries(filled.cache)))
    damage(victim)
    with pytest.raises(ValueError, match=rf"{victim} of the feature cache is damaged\. Delete it"):
        read_features(victim)
