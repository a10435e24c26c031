# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Synthetic anomalies for training sets without anomalous images."""

import logging
from typing import Any

import torch
from anomalib.data.utils.generators.perlin import PerlinAnomalyGenerator
from lightning.pytorch import Callback, LightningModule, Trainer
from torchvision.tv_tensors import Mask

from anomalib_genclip.utils.tensors import IGNORED

logger = logging.getLogger(__name__)


def makes_anomalies(source: str, dataset: object) -> bool:
    """Return whether training on a dataset uses synthetic anomalies; ``source`` as in :class:`PerlinAnomalies`."""
    return source == "synthetic" or (source == "auto" and not _is_labelled(dataset))


def _is_labelled(dataset: object) -> bool:
    """Return whether a training set has anomalous images."""
    samples = getattr(dataset, "samples", None)
    # A dataset without anomalib's table of samples is expected to have masks; the training step checks that.
    return samples is None or bool((samples["label_index"] == 1).any())


class PerlinAnomalies(Callback):
    """Add anomalib's Perlin anomalies to half of the training images, as DRAEM does.

    Must come before the pre-processor, because the generator expects images in [0, 1]. With ``source`` "labels" it adds
    none, with "synthetic" always, and with "auto" if the training set has no anomalous image.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        # The generator draws one of its settings when it is created, and a resumed run needs the same one.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.generator = PerlinAnomalyGenerator()
        self.active = self.labelled = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the training set's labels; without an anomalous image, ``source`` must not be "labels"."""
        dataset = getattr(trainer.train_dataloader, "dataset", None)
        name = getattr(dataset, "name", None) or "The training set"
        self.active, self.labelled = makes_anomalies(self.source, dataset), _is_labelled(dataset)
        if self.source == "labels" and not self.labelled:
            what = f"{name} has no anomalous training image and anomaly_source is 'labels'"
            msg = f"{what}. Train on a labelled source (CrossDataset), or set anomaly_source to 'synthetic'."
            raise ValueError(msg)
        if self.active and self.source == "auto" and trainer.is_global_zero:
            text = "%s has only normal training images: anomalies are generated with anomalib's Perlin generator. "
            logger.warning(text + "GenCLIP learns more from a labelled source: see CrossDataset.", name)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: ANN401
        """Add anomalies to normal images of the batch; anomalous images stay unchanged."""
        if not self.active or (self.labelled and batch.gt_mask is None):  # the training step raises without masks
            return
        images, masks = self.generator(batch.image)
        masks = masks.squeeze(1) > 0
        labels = masks.flatten(1).any(dim=1)
        if self.labelled:
            real = batch.gt_label.bool().view(-1, 1, 1)
            images = torch.where(real[:, None], batch.image, images)
            own = batch.gt_mask.as_subclass(torch.Tensor)
            masks = torch.where(real | (own == IGNORED), own, masks.to(own.dtype))
            labels |= batch.gt_label.bool()
        batch.update(image=images, gt_mask=Mask(masks), gt_label=labels)
