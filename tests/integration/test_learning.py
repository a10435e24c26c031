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


def from_nothing() -> GenCLIP:
    torch.manual_seed(0)
    model = GenCLIP(backbone="tiny", visualizer=False)
    for psi in model.model.projections:
        torch.nn.init.normal_(psi, std=psi.shape[0] ** -0.5)
    return model


@pytest.mark.slow
def test_training_lowers_the_loss_and_finds_more_on_unseen_categories(data, tmp_path):
    (untrained,) = engine(tmp_path).test(from_nothing(), datamodule=data)
    model, losses = from_nothing(), []
    model.on_train_epoch_end = lambda: losses.append(model.trainer.callback_metrics["train_loss"].item())
    engine(tmp_path, max_epochs=8).fit(model, datamodule=data)
    (trained,) = engine(tmp_path).test(model, datamodule=data)
    assert losses[-1] < 0.95 * losses[0]
    assert all(trained[key] > untrained[key] + 0.15 for key in ("pixel_AUROC", "pixel_AUPRO", "pixel_AP"))
