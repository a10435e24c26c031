# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Trainings with a feature cache, and what is in it."""

from pathlib import Path

import torch
from lightning.pytorch import Callback

from anomalib_genclip import CrossDataset, GenCLIP
from helpers import data_trees
from helpers.runs import engine


def build(**settings) -> GenCLIP:
    return GenCLIP(**{"backbone": "tiny", "image_size": 32, "visualizer": False, **settings})


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


def fit(data, results: Path, epochs: int = 2, callbacks=(), training=(), **settings) -> tuple[GenCLIP, Record]:
    """Train a small model; the seed settles the prompts, the shuffling and the query-only images."""
    record = Record()
    torch.manual_seed(0)
    cache = {"feature_cache": settings.pop("feature_cache", None)}
    model = build(training={**cache, **dict(training)}, **settings)
    engine(results, max_epochs=epochs, callbacks=[record, *callbacks]).fit(model, datamodule=data)
    return model, record


def entries(cache: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(cache.rglob("*.safetensors"))}
