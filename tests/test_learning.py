# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""What is learned: the bundled CLIP on rendered images, trained on some categories and tested on others."""

import pytest
import torch
from anomalib.engine import Engine

from anomalib_genclip import CrossDataset, GenCLIP, SyntheticDefects
from anomalib_genclip.prompts import PromptLearner

SOURCE, TARGET = ["weave", "tile", "bolt", "pill"], ["leather", "honeycomb", "gear"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> CrossDataset:
    """A small render: four categories to train on, three others to test on."""
    renders = SyntheticDefects(
        root=tmp_path_factory.mktemp("renders"), train_good=1, test_good=10, test_per_defect=4, num_workers=0
    )
    return CrossDataset(
        source=renders,
        source_categories=SOURCE,
        target=renders,
        target_categories=TARGET,
        eval_batch_size=30,
        num_workers=0,
    )


def engine(folder, **settings) -> Engine:
    """Build a quiet engine on the CPU."""
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    return Engine(default_root_dir=folder, accelerator="cpu", devices=1, **quiet, **settings)


def figures(model: GenCLIP, data: CrossDataset, folder) -> dict[str, float]:
    """Test a model."""
    return engine(folder).test(model, datamodule=data)[0]


@pytest.fixture(scope="module")
def untrained(data, tmp_path_factory) -> dict[str, float]:
    """Figures of untrained prompts."""
    torch.manual_seed(0)
    model = GenCLIP(backbone="tiny", visualizer=False)
    return figures(model, data, tmp_path_factory.mktemp("untrained"))


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A trained model and its losses epoch by epoch."""
    torch.manual_seed(0)
    model = GenCLIP(backbone="tiny", visualizer=False)
    losses: list[float] = []
    model.on_train_epoch_end = lambda: losses.append(model.trainer.callback_metrics["train_loss"].item())
    engine(tmp_path_factory.mktemp("trained"), max_epochs=4).fit(model, datamodule=data)
    return model, losses


def learns(result: dict[str, float], untrained: dict[str, float]) -> bool:
    """Say whether a model finds defects of unseen categories better than untrained prompts."""
    return result["pixel_AP"] > untrained["pixel_AP"] + 0.02 and result["pixel_AUPRO"] > untrained["pixel_AUPRO"] + 0.02


def test_training_lowers_the_loss(trained):
    losses = trained[1]
    assert losses[-1] < 0.95 * losses[0]


def test_training_finds_more_on_unseen_categories(trained, untrained, data, tmp_path):
    result = figures(trained[0], data, tmp_path)
    print({key: (round(untrained[key], 3), round(result[key], 3)) for key in untrained if "/" not in key})
    assert learns(result, untrained)


def test_the_same_check_fails_when_training_is_undone(trained, untrained, data, tmp_path):
    model = GenCLIP(backbone="tiny", visualizer=False)
    model.load_state_dict(trained[0].state_dict())
    spec = model.model.spec
    torch.manual_seed(1)
    fresh = PromptLearner(spec.vision_width, spec.text_width, len(model.model.layers), 4, 4)
    model.model.prompts.load_state_dict(fresh.state_dict())
    for psi in model.model.projections:
        psi.data.copy_(model.model.clip.model.visual.proj)
    assert not learns(figures(model, data, tmp_path), untrained)
