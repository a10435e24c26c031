# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The same training without the vision tower and without image files, or an error that says why not."""

import shutil

import pytest
import torch
from anomalib.pre_processing import PreProcessor
from helpers import data_trees
from helpers.feature_caches import build, cross, fit
from helpers.runs import engine
from lightning.pytorch import Callback
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from anomalib_genclip import GenCLIP
from anomalib_genclip.feature_cache import callback


@pytest.mark.parametrize("workers", [0, 2])
def test_training_is_the_same_within_half_precision(tmp_path, workers, monkeypatch):
    monkeypatch.setattr(callback, "bf16_is_fast", lambda _: False)
    data = cross(tmp_path / "data", num_workers=workers)
    slow = {"training": {"projection_learning_rate": 1e-4}}  # faster steps amplify the rounding from one to the next
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


FLIP = v2.RandomHorizontalFlip()


@pytest.mark.parametrize(
    ("data_settings", "settings", "named"),
    [
        ({"train_augmentations": FLIP}, {}, "RandomHorizontalFlip in the datamodule's train_augmentations"),
        ({"val_augmentations": v2.Compose([FLIP])}, {}, "RandomHorizontalFlip in the datamodule's val_augmentations"),
        ({"augmentations": v2.RandomApply([v2.Grayscale(3)])}, {}, "RandomApply in the datamodule's train_augm"),
        (
            {},
            {"pre_processor": PreProcessor(v2.Compose([v2.Resize((32, 32)), v2.ColorJitter(0.1)]))},
            "ColorJitter in the pre_processor",
        ),
        ({}, {"training": {"anomaly_source": "synthetic"}}, "anomaly_source='synthetic'"),
    ],
)
def test_random_images_are_refused_by_name(tmp_path, data_settings, settings, named):
    data = cross(tmp_path / "data", **data_settings)
    with pytest.raises(ValueError, match=rf"(?s)same images in every epoch.*{named}"):
        fit(data, tmp_path / "results", feature_cache=tmp_path / "cache", **settings)
    assert not (tmp_path / "cache").exists()


def test_data_set_without_labelled_anomalies_is_refused(tmp_path):
    data = data_trees.mvtec_ad(tmp_path / "data")
    with pytest.raises(ValueError, match=r"anomaly_source='auto'.*CrossDataset"):
        fit(data, tmp_path / "results", feature_cache=tmp_path / "cache")


def test_loaders_without_a_datamodule_are_refused(tmp_path):
    data = cross(tmp_path / "data")
    data.setup()
    loader = DataLoader(data.train_data, collate_fn=data.train_data.collate_fn)
    model = build(training={"feature_cache": tmp_path / "cache"})
    with pytest.raises(ValueError, match="feature_cache needs one of anomalib's datamodules"):
        engine(tmp_path, max_epochs=1).fit(model, train_dataloaders=loader)


def test_file_in_place_of_the_folder_is_refused_before_weights_are_loaded(tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(NotADirectoryError, match=r"feature_cache='.*cache' is a file"):
        GenCLIP(backbone="ViT-L-14-336", training={"feature_cache": tmp_path / "cache"})


def test_checkpoint_of_a_cached_run_can_be_read_anywhere(original):
    content = torch.load(next((original.root / "results").rglob("*.ckpt")), weights_only=True)
    assert content["hyper_parameters"]["training"]["feature_cache"] == str(original.root / "cache")


def test_testing_after_training_reads_the_images(filled, tmp_path, tower_images):
    model, _ = fit(filled.data, tmp_path / "results", epochs=1, feature_cache=filled.cache)
    assert "image_AUROC" in engine(tmp_path).test(model, datamodule=filled.data)[0]
    assert sum(tower_images) == len(filled.data.test_data)
