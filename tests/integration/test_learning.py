# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""What is learned: the bundled CLIP on rendered images, trained on some categories and tested on others.

The bundled CLIP was shown where damage is, so that the word "damaged" and CLIP's own projection find most of it before
any training. Here ψ starts at random instead: whatever the model then finds, it has learned.
"""

import pytest
import torch
from helpers.runs import engine

from anomalib_genclip import CrossDataset, GenCLIP, SyntheticDefects

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


def from_nothing(seed: int = 0) -> GenCLIP:
    """Build a model whose patch features and texts have nothing to do with each other yet."""
    torch.manual_seed(seed)
    model = GenCLIP(backbone="tiny", projection_learning_rate=1e-3, visualizer=False)
    for psi in model.model.projections:
        torch.nn.init.normal_(psi, std=psi.shape[0] ** -0.5)
    return model


def compute_metrics(model: GenCLIP, data: CrossDataset, folder) -> dict[str, float]:
    """Test a model."""
    return engine(folder).test(model, datamodule=data)[0]


@pytest.fixture(scope="module")
def untrained(data, tmp_path_factory) -> dict[str, float]:
    """Figures before training."""
    return compute_metrics(from_nothing(), data, tmp_path_factory.mktemp("untrained"))


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A trained model and its losses epoch by epoch."""
    model = from_nothing()
    losses: list[float] = []
    model.on_train_epoch_end = lambda: losses.append(model.trainer.callback_metrics["train_loss"].item())
    engine(tmp_path_factory.mktemp("trained"), max_epochs=4).fit(model, datamodule=data)
    return model, losses


def learns(result: dict[str, float], untrained: dict[str, float]) -> bool:
    """Say whether a model finds defects of unseen categories far better than before training."""
    return all(result[key] > untrained[key] + 0.15 for key in ("pixel_AUROC", "pixel_AUPRO", "pixel_AP"))


def test_training_lowers_the_loss(trained):
    losses = trained[1]
    assert losses[-1] < 0.95 * losses[0]


def test_training_finds_more_on_unseen_categories(trained, untrained, data, tmp_path):
    result = compute_metrics(trained[0], data, tmp_path)
    print({key: (round(untrained[key], 3), round(result[key], 3)) for key in untrained if "/" not in key})
    assert learns(result, untrained)


def test_the_same_check_fails_when_training_is_undone(trained, untrained, data, tmp_path):
    model = from_nothing(seed=1)
    undone = {
        key: value.clone() for key, value in model.state_dict().items() if "prompts" in key or "projections" in key
    }
    model.load_state_dict(trained[0].state_dict())
    assert learns(compute_metrics(model, data, tmp_path / "trained"), untrained)
    model.load_state_dict({**model.state_dict(), **undone})
    assert not learns(compute_metrics(model, data, tmp_path / "undone"), untrained)
