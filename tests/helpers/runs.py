# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""A small model, a quiet engine, and fixtures of a training."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from anomalib.engine import Engine

from anomalib_genclip import CrossDataset, GenCLIP
from helpers import data_trees

QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
SETTINGS = {"backbone": "ViT-S-32-alt", "pretrained": "random", "image_size": 64}


def build(**settings) -> GenCLIP:
    """Build a small model with random CLIP weights and without pictures."""
    return GenCLIP(**{**SETTINGS, "visualizer": False, **settings})


def engine(folder: Path, **settings) -> Engine:
    """Build a quiet engine on the CPU."""
    return Engine(**{"default_root_dir": folder, "accelerator": "cpu", "devices": 1, **QUIET, **settings})


def save_checkpoint(model: GenCLIP, path: Path) -> None:
    """Write a checkpoint without training."""
    run = engine(path.parent)
    run._setup_trainer(model)
    run.trainer.strategy.connect(model)
    run.trainer.save_checkpoint(path)


@pytest.fixture
def cross(tmp_path) -> CrossDataset:
    source = data_trees.mvtec_ad(tmp_path / "source", ("cable", "tile"), normal=6, anomalous=6)
    target = data_trees.mvtec_ad(tmp_path / "target", ("bottle", "wood"))
    return CrossDataset(
        source=source,
        source_categories=["cable", "tile"],
        target=target,
        target_categories=["bottle", "wood"],
        train_batch_size=4,
        eval_batch_size=4,
        num_workers=0,
    )


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """One short training run: the engine, its model and its files."""
    folder = tmp_path_factory.mktemp("trained")
    source = data_trees.mvtec_ad(folder / "source", ("cable",), normal=6, anomalous=6)
    target = data_trees.mvtec_ad(folder / "target", ("bottle",))
    data = CrossDataset(source=source, target=target, train_batch_size=4, eval_batch_size=4, num_workers=0)
    model = build()
    run = engine(folder / "results", max_epochs=1)
    run.fit(model, datamodule=data)
    prompts = model.save_weights(folder / "prompts.safetensors")
    return SimpleNamespace(engine=run, model=model, data=data, prompts=prompts, checkpoint=run.best_model_path)


def learned(model: GenCLIP) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.model.state_dict().items() if not k.startswith("clip.")}
