# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Anomalies made for training sets that have none."""

import logging

import pytest
import torch
from helpers import data_trees
from helpers.runs import engine, learned
from lightning.pytorch import Callback, seed_everything
from torchvision.transforms.v2 import Resize

from anomalib_genclip import GenCLIP
from anomalib_genclip.callbacks.synthetic_anomalies import PerlinAnomalies
from anomalib_genclip.data import CategoryBatch
from anomalib_genclip.utils.tensors import IGNORED


def test_one_class_datamodule_trains_on_synthetic_anomalies(tmp_path, caplog):
    data = data_trees.mvtec_ad(tmp_path / "data", normal=4)
    model = GenCLIP(backbone="tiny", image_size=64, visualizer=False)
    before = learned(model)
    with caplog.at_level(logging.WARNING):
        engine(tmp_path / "results", max_epochs=1).fit(model, datamodule=data)
    assert "CrossDataset" in caplog.text
    assert not torch.equal(before["prompts.abnormal"], learned(model)["prompts.abnormal"])


def test_labels_without_an_anomalous_image_are_an_error(tmp_path):
    data = data_trees.mvtec_ad(tmp_path / "data")
    model = GenCLIP(backbone="tiny", training={"anomaly_source": "labels"}, visualizer=False)
    with pytest.raises(ValueError, match=r"MVTecAD has no anomalous training image.*CrossDataset"):
        engine(tmp_path / "results", max_epochs=1).fit(model, datamodule=data)


def test_pixels_that_do_not_count_stay_so_below_synthetic_anomalies(monkeypatch):
    anomalies = PerlinAnomalies("synthetic")
    anomalies.active = anomalies.labelled = True
    monkeypatch.setattr(anomalies, "generator", lambda images: (images, torch.ones(2, 1, 8, 8)))
    mask = torch.zeros(2, 8, 8, dtype=torch.uint8)
    mask[:, :4] = IGNORED
    batch = CategoryBatch(image=torch.rand(2, 3, 8, 8), gt_mask=mask, gt_label=torch.tensor([0, 1]))
    anomalies.on_train_batch_start(None, None, batch, 0)
    assert torch.equal(batch.gt_mask[0], mask[0].clamp(min=1))
    assert torch.equal(batch.gt_mask[1], mask[1])


def test_synthetic_anomalies_are_put_into_normal_images_alone(cross, tmp_path, caplog):
    class Watch(Callback):
        """Stands before the model's own callbacks."""

        def on_train_batch_start(self, *args):
            batch = args[2]
            batch.gt_mask[batch.gt_label.bool().nonzero()[:1]] = False  # of a tiny defect nothing may be left
            before.append((batch.gt_mask.clone(), batch.gt_label.clone()))

    before, after = [], []
    settings = {"training": {"anomaly_source": "synthetic"}, "pre_processor": False, "visualizer": False}
    model = GenCLIP(backbone="tiny", image_size=64, **settings)
    model.loss.register_forward_pre_hook(lambda _, args: after.append(args[2:]))
    cross.train_augmentations = Resize((64, 64))
    with caplog.at_level(logging.WARNING):
        run = engine(tmp_path / "results", max_epochs=1, limit_val_batches=0, callbacks=[Watch()])
        run.fit(model, datamodule=cross)
    assert "only normal" not in caplog.text
    made = 0
    for (mask, label), (new_mask, new_label) in zip(before, after, strict=True):
        real = label.bool()
        assert torch.equal(new_mask[real].bool(), mask[real].bool())
        assert new_label[real].all()
        made += int(new_label[~real].sum())
    assert made > 0


def test_made_up_anomalies_do_not_depend_on_what_was_drawn_before_training():
    made = []
    for drawn_before in (1, 2):
        torch.manual_seed(drawn_before)
        generator = PerlinAnomalies("synthetic").generator
        seed_everything(0)
        made.append(generator(torch.full((16, 3, 64, 64), 0.5))[0])
    assert torch.equal(*made)
