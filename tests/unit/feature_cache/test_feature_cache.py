# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Feature cache: the same training without the vision tower and without image files, and never from a wrong cache."""

import json
import logging
import multiprocessing
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from anomalib.engine import Engine
from anomalib.pre_processing import PreProcessor
from helpers import data_trees
from lightning.pytorch import Callback
from PIL import Image
from safetensors import safe_open
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from anomalib_genclip import CrossDataset, GenCLIP
from anomalib_genclip.clip.frozen_clip import FrozenCLIP
from anomalib_genclip.feature_cache import callback, writer

SETTINGS = {"backbone": "ViT-S-32-alt", "pretrained": None, "image_size": 64, "visualizer": False}


pytestmark = pytest.mark.usefixtures("one_thread")


class Record(Callback):
    """Write down each training step's loss and each validation's results."""

    def __init__(self) -> None:
        self.losses, self.validations = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, *args):
        """Write down the loss."""
        del trainer, pl_module, args
        self.losses.append(float(outputs["loss"]))

    def on_validation_batch_end(self, trainer, pl_module, outputs, *args):
        """Write down scores and masks."""
        del trainer, pl_module, args
        self.validations.append((outputs.pred_score.clone(), outputs.anomaly_map.clone(), outputs.gt_mask.clone()))


def cross(root: Path, **settings) -> CrossDataset:
    """Two categories to train on, with masks; 14 images less those held out."""
    if not root.exists():
        data_trees.mvtec_ad(root, ("cable", "tile"), normal=4, anomalous=3)
    parts = [data_trees.MVTecAD(root=root, category="cable") for _ in range(2)]
    loading = {"train_batch_size": 3, "eval_batch_size": 4, "num_workers": 0}
    return CrossDataset(source=parts[0], source_categories="all", target=parts[1], **{**loading, **settings})


def fit(data, results: Path, epochs: int = 2, callbacks=(), trainer=None, **settings) -> tuple[GenCLIP, Record]:
    """Train a small model; the seed settles the prompts, the shuffling and the query-only images."""
    record = Record()
    torch.manual_seed(0)
    model = GenCLIP(**{**SETTINGS, **settings})
    Engine(
        default_root_dir=results,
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        callbacks=[record, *callbacks],
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        **(trainer or {}),
    ).fit(model, datamodule=data)
    return model, record


def entries(cache: Path) -> dict[Path, bytes]:
    """The cache's files and what is in them."""
    return {path: path.read_bytes() for path in sorted(cache.rglob("*.safetensors"))}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A data set, its cache, and the losses of the run that filled it."""
    root = tmp_path_factory.mktemp("filled")
    _, record = fit(cross(root / "data"), root / "results", epochs=1, feature_cache=root / "cache")
    return SimpleNamespace(root=root, losses=record.losses)


@pytest.fixture
def filled(original, tmp_path):
    """A copy of the data set and of its cache, to be spoilt."""
    for name in ("data", "cache"):
        shutil.copytree(original.root / name, tmp_path / name)
    return SimpleNamespace(data=cross(tmp_path / "data"), cache=tmp_path / "cache", losses=original.losses)


@pytest.fixture
def tower_images(monkeypatch) -> list[int]:
    """The numbers of images that the vision tower is called with."""
    seen, encode = [], FrozenCLIP.encode_image

    def counted(self, images):
        seen.append(len(images))
        return encode(self, images)

    monkeypatch.setattr(FrozenCLIP, "encode_image", counted)
    return seen


@pytest.mark.parametrize("workers", [0, 2])
def test_training_is_the_same_within_half_precision(tmp_path, workers):
    data = cross(tmp_path / "data", num_workers=workers)
    slow = {"projection_learning_rate": 1e-4}  # faster steps amplify the rounding from one to the next
    plain, expected = fit(data, tmp_path / "plain", **slow)
    train_data = data.train_data
    cached, got = fit(data, tmp_path / "cached", feature_cache=tmp_path / "cache", **slow)
    assert len(got.losses) == len(expected.losses) >= 6
    assert got.losses == pytest.approx(expected.losses, rel=2e-3)
    for (score, maps, masks), (cached_score, cached_maps, cached_masks) in zip(
        expected.validations, got.validations, strict=True
    ):
        torch.testing.assert_close(cached_score, score, atol=2e-3, rtol=0)
        torch.testing.assert_close(cached_maps, maps, atol=5e-3, rtol=0)
        assert torch.equal(cached_masks, masks)
    torch.testing.assert_close(cached.model.prompts.normal, plain.model.prompts.normal, atol=1e-2, rtol=0)
    assert data.train_data is train_data  # the datamodule has its own data sets back


class _LastEpoch(Callback):
    """Run ``action`` before the last epoch."""

    def __init__(self, action) -> None:
        self.action = action

    def on_train_epoch_start(self, trainer, pl_module):
        """Run it."""
        del pl_module
        if trainer.current_epoch == trainer.max_epochs - 1:
            self.action()


def test_second_epoch_needs_neither_the_tower_nor_an_image(tmp_path, tower_images):
    source = tmp_path / "data"
    data = cross(source)
    gone = _LastEpoch(lambda: (tower_images.clear(), shutil.rmtree(source)))
    _, record = fit(data, tmp_path / "results", callbacks=[gone], feature_cache=tmp_path / "cache")
    assert not source.exists()
    assert tower_images == []
    assert len(record.losses) == 2 * len(record.losses[::2])  # both epochs ran
    assert len(record.validations) == 2


def test_second_run_writes_nothing(filled, tmp_path, tower_images):
    """Though the data have moved to another folder."""
    before = {path: path.stat().st_mtime_ns for path in entries(filled.cache)}
    _, record = fit(filled.data, tmp_path / "results", epochs=1, feature_cache=filled.cache)
    assert tower_images == []
    assert len(before) == len(filled.data.train_data) + len(filled.data.val_data) == 14
    assert {path: path.stat().st_mtime_ns for path in entries(filled.cache)} == before
    assert record.losses == pytest.approx(filled.losses, rel=1e-5)  # matrix products round by where they lie in memory


def test_files_hold_half_precision(filled):
    with safe_open(next(iter(entries(filled.cache))), "pt") as file:
        assert file.get_slice("patches").get_dtype() == "F16"
        assert file.get_slice("patches").get_shape() == [4, 4, 384]


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _flip(path: Path, place: int = -1000) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def _flip_header(path: Path) -> None:
    _flip(path, 40)


def _swap(path: Path) -> None:
    other = next(entry for entry in path.parent.iterdir() if entry != path)
    path.write_bytes(other.read_bytes())


def _foreign(path: Path) -> None:
    path.write_text("not a cache")


@pytest.mark.parametrize("damage", [_cut, _empty, _flip_header, _swap, _foreign])
def test_damaged_file_is_noticed_and_made_anew(filled, tmp_path, tower_images, caplog, damage):
    good = entries(filled.cache)
    victim = next(iter(good))
    damage(victim)
    assert victim.read_bytes() != good[victim]
    with caplog.at_level(logging.WARNING):
        _, record = fit(filled.data, tmp_path / "results", epochs=1, feature_cache=filled.cache)
    assert sum(tower_images) == 1
    assert "1 files of the feature cache are damaged" in caplog.text
    assert victim.name in caplog.text
    with safe_open(victim, "pt") as file:
        assert json.loads(file.metadata()["feature_cache"])["key"].startswith(victim.stem)
    assert record.losses == pytest.approx(filled.losses, rel=1e-3)


def test_damaged_tensor_is_noticed_when_it_is_read(filled, tmp_path):
    victim = next(iter(entries(filled.cache)))
    _flip(victim)
    with pytest.raises(ValueError, match=rf"{victim} of the feature cache is damaged\. Delete it"):
        fit(filled.data, tmp_path / "results", epochs=1, feature_cache=filled.cache)
    victim.unlink()
    _, record = fit(filled.data, tmp_path / "again", epochs=1, feature_cache=filled.cache)
    assert record.losses == pytest.approx(filled.losses, rel=1e-5)  # matrix products round by where they lie in memory


@pytest.mark.parametrize(
    "other",
    [
        {"backbone": "ViT-S-16-alt"},
        {"backbone": "ViT-S-32-alt-quickgelu"},
        {"layers": [3, 12]},
        {"image_size": 96},
        {"pre_processor": PreProcessor(v2.Compose([v2.Resize((64, 64)), v2.Normalize([0.5] * 3, [0.5] * 3)]))},
    ],
)
def test_another_models_cache_is_not_used(filled, tmp_path, tower_images, other):
    before = entries(filled.cache)
    fit(filled.data, tmp_path / "results", epochs=1, feature_cache=filled.cache, **other)
    assert sum(tower_images) == len(before)
    assert len(entries(filled.cache)) == 2 * len(before)


def test_other_weights_of_one_architecture_are_told_apart(filled, tmp_path, tower_images):
    """Even where only one block of the vision tower differs."""
    model = GenCLIP(**SETTINGS)
    clip = model.model.clip.model
    clip.visual.transformer.resblocks[0].mlp.c_fc.weight.data += 0.1
    torch.save(clip.state_dict(), tmp_path / "tuned.pt")
    tuned = {"pretrained": str(tmp_path / "tuned.pt")}
    fit(filled.data, tmp_path / "results", epochs=1, feature_cache=filled.cache, **tuned)
    assert sum(tower_images) == 14


@pytest.mark.parametrize("what", ["test", "ground_truth"])
def test_edited_image_or_mask_is_noticed(filled, tmp_path, tower_images, what):
    path = next((tmp_path / "data" / "cable" / what / "crack").iterdir())
    stat = path.stat()
    with Image.open(path) as image:
        edited = image.transpose(Image.Transpose.ROTATE_180)
    edited.save(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # the date does not tell
    _, got = fit(filled.data, tmp_path / "cached", epochs=1, feature_cache=filled.cache)
    assert sum(tower_images) == 1
    _, expected = fit(filled.data, tmp_path / "plain", epochs=1)
    assert got.losses == pytest.approx(expected.losses, rel=2e-3)


def test_no_room_is_one_error_before_anything_is_written(tmp_path, monkeypatch):
    data = cross(tmp_path / "data")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000))
    with pytest.raises(OSError, match=r"needs \d\.\d\d GB for \d+ of \d+ images.*has 0\.00 GB left.*Nothing has been"):
        fit(data, tmp_path / "results", feature_cache=tmp_path / "cache")
    assert entries(tmp_path / "cache") == {}
    monkeypatch.undo()
    fit(data, tmp_path / "results", epochs=1, feature_cache=tmp_path / "cache")  # the datamodule is as before


def test_size_is_announced_before_it_is_written(tmp_path, monkeypatch):
    notes = []
    monkeypatch.setattr(writer, "rank_zero_info", notes.append)
    written = []
    monkeypatch.setattr(writer, "atomic_write", lambda *_, **__: written.append(len(notes)))
    monkeypatch.setattr(callback, "FeatureDataset", lambda dataset, _: dataset)
    fit(cross(tmp_path / "data"), tmp_path / "results", epochs=1, feature_cache=tmp_path / "cache")
    assert "Feature cache: writing 0.00 GB for 14 of 14 images to" in notes[0]
    assert written == [1] * 14


def test_estimate_is_close_to_the_files(filled, tmp_path):
    trainer = SimpleNamespace(precision="32-true")
    estimate = writer.FeatureWriter(trainer, GenCLIP(**SETTINGS), None, tmp_path)._bytes_per_image()
    for content in entries(filled.cache).values():
        assert len(content) <= estimate < len(content) + 2048


def test_disk_that_fills_up_is_one_clear_error(tmp_path, monkeypatch):
    def full(path, content, **_):
        del path, content
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, "atomic_write", full)
    with pytest.raises(OSError, match=r"feature cache cannot be written to .*No space left.*another folder"):
        fit(cross(tmp_path / "data"), tmp_path / "results", feature_cache=tmp_path / "cache")


def test_interruption_leaves_whole_files_that_are_used_again(tmp_path, tower_images, monkeypatch):
    data, cache = cross(tmp_path / "data"), tmp_path / "cache"
    write, count = writer.atomic_write, []

    def interrupted(path, content, **kwargs):
        count.append(path)
        if len(count) == 6:
            raise RuntimeError
        return write(path, content, **kwargs)

    monkeypatch.setattr(writer, "atomic_write", interrupted)
    with pytest.raises(RuntimeError):
        fit(data, tmp_path / "first", feature_cache=cache)
    assert sorted(path for path in cache.rglob("*") if path.is_file()) == list(entries(cache))
    assert len(entries(cache)) == 5
    monkeypatch.setattr(writer, "atomic_write", write)
    tower_images.clear()
    fit(data, tmp_path / "second", epochs=1, feature_cache=cache)
    assert sum(tower_images) == 14 - 5


def test_broken_image_is_named(tmp_path):
    data = cross(tmp_path / "data")
    path = tmp_path / "data" / "tile" / "test" / "good" / "001.png"
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(OSError, match=r"tile/test/good/001\.png cannot be read: .*truncated"):
        fit(data, tmp_path / "results", feature_cache=tmp_path / "cache")


def test_copies_of_an_image_share_a_file(tmp_path, tower_images):
    data, cache = cross(tmp_path / "data"), tmp_path / "cache"
    good = tmp_path / "data" / "cable" / "test" / "good"
    for copy in range(3):
        shutil.copy(good / "000.png", good / f"copy{copy}.png")
    fit(data, tmp_path / "results", epochs=1, feature_cache=cache)
    assert sum(tower_images) == len(entries(cache)) == 14


def _train_in_a_process(root: str) -> None:
    """Train on a data set that is there, with the common cache."""
    torch.set_num_threads(1)
    fit(cross(Path(root) / "data"), Path(root) / f"results{os.getpid()}", epochs=1, feature_cache=Path(root) / "cache")


def test_two_runs_at_once_leave_one_good_cache(tmp_path, tower_images):
    data = cross(tmp_path / "data")
    context = multiprocessing.get_context("spawn")
    runs = [context.Process(target=_train_in_a_process, args=(str(tmp_path),)) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert [run.exitcode for run in runs] == [0, 0]
    assert len(entries(tmp_path / "cache")) == 14
    assert not list((tmp_path / "cache").rglob("*.part"))
    fit(data, tmp_path / "results", epochs=1, feature_cache=tmp_path / "cache")
    assert tower_images == []


FLIP = v2.RandomHorizontalFlip()


@pytest.mark.parametrize(
    ("data_settings", "settings", "named"),
    [
        ({"train_augmentations": FLIP}, {}, "RandomHorizontalFlip in the datamodule's train_augmentations"),
        ({"val_augmentations": v2.Compose([FLIP])}, {}, "RandomHorizontalFlip in the datamodule's val_augmentations"),
        ({"augmentations": v2.RandomApply([v2.Grayscale(3)])}, {}, "RandomApply in the datamodule's train_augm"),
        (
            {},
            {"pre_processor": PreProcessor(v2.Compose([v2.Resize((64, 64)), v2.ColorJitter(0.1)]))},
            "ColorJitter in the pre_processor",
        ),
        ({}, {"anomaly_source": "synthetic"}, "anomaly_source='synthetic'"),
    ],
)
def test_random_images_are_refused_by_name(tmp_path, data_settings, settings, named):
    data = cross(tmp_path / "data", **data_settings)
    with pytest.raises(ValueError, match=rf"(?s)same images in every epoch.*{named}"):
        fit(data, tmp_path / "results", feature_cache=tmp_path / "cache", **settings)
    assert not (tmp_path / "cache").exists()


def test_fixed_augmentations_are_part_of_the_key(filled, tmp_path, tower_images):
    data = cross(tmp_path / "data", train_augmentations=v2.CenterCrop(24))
    _, got = fit(data, tmp_path / "cached", epochs=1, feature_cache=filled.cache)
    assert sum(tower_images) == len(data.train_data)
    _, expected = fit(data, tmp_path / "plain", epochs=1)
    assert got.losses == pytest.approx(expected.losses, rel=2e-3)


def test_data_set_without_labelled_anomalies_is_refused(tmp_path):
    data = data_trees.mvtec_ad(tmp_path / "data")
    with pytest.raises(ValueError, match=r"anomaly_source='auto'.*CrossDataset"):
        fit(data, tmp_path / "results", feature_cache=tmp_path / "cache")


def test_loaders_without_a_datamodule_are_refused(tmp_path):
    data = cross(tmp_path / "data")
    data.setup()
    loader = DataLoader(data.train_data, collate_fn=data.train_data.collate_fn)
    model = GenCLIP(**SETTINGS, feature_cache=tmp_path / "cache")
    run = Engine(default_root_dir=tmp_path, accelerator="cpu", devices=1, max_epochs=1, logger=False)
    with pytest.raises(ValueError, match="feature_cache needs one of anomalib's datamodules"):
        run.fit(model, train_dataloaders=loader)


def test_file_in_place_of_the_folder_is_refused_before_weights_are_loaded(tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(NotADirectoryError, match=r"feature_cache='.*cache' is a file"):
        GenCLIP(backbone="ViT-L-14-336", feature_cache=tmp_path / "cache")


def test_checkpoint_of_a_cached_run_can_be_read_anywhere(original):
    path = next((original.root / "results").rglob("*.ckpt"))
    assert torch.load(path, weights_only=True)["hyper_parameters"]["feature_cache"] == str(original.root / "cache")


def test_testing_after_training_reads_the_images(filled, tmp_path, tower_images):
    model, _ = fit(filled.data, tmp_path / "results", epochs=1, feature_cache=filled.cache)
    run = Engine(default_root_dir=tmp_path, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False)
    assert "image_AUROC" in run.test(model, datamodule=filled.data)[0]
    assert sum(tower_images) == len(filled.data.test_data)
