# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The same result from the same seed, finite numbers in every precision, scores that depend on their image alone."""

import pytest
import torch
from helpers.runs import QUIET
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from anomalib_genclip import GenCLIP
from anomalib_genclip.data import CategoryBatch

SIZE = 32


def _batches() -> DataLoader:
    batches = []
    for images in (torch.zeros(4, 3, SIZE, SIZE), torch.ones(4, 3, SIZE, SIZE), torch.rand(4, 3, SIZE, SIZE)):
        for anomalous in (0, 2, 4):
            masks = torch.zeros(4, SIZE, SIZE, dtype=torch.bool)
            masks[:anomalous] = True
            labels = masks.flatten(1).any(1)
            batch = {"image": images.clone(), "gt_mask": masks, "gt_label": labels, "category": ["nut"] * 4}
            batches.append(CategoryBatch(**batch))
    return DataLoader(batches, batch_size=None)


def _trainer(folder, precision: str) -> Trainer:
    return Trainer(default_root_dir=folder, accelerator="cpu", max_epochs=1, precision=precision, **QUIET)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_training_stays_finite_and_belongs_to_the_same_clip(tmp_path, precision):
    """Checkpoint and prompts are taken by a model in float32."""
    model = GenCLIP(backbone="tiny", image_size=SIZE, visualizer=False)
    losses = []
    model.loss.register_forward_hook(lambda *args: losses.append(args[-1].detach()))
    trainer = _trainer(tmp_path, precision)
    trainer.fit(model, train_dataloaders=_batches())
    assert len(losses) == 9
    assert all(torch.isfinite(loss) for loss in losses)
    assert all(torch.isfinite(value).all() for value in model.model.prompts.parameters())
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    prompts = model.save_weights(tmp_path / "prompts.safetensors")
    for other in (GenCLIP.load_from_checkpoint(tmp_path / "model.ckpt"), GenCLIP(weights=prompts, visualizer=False)):
        torch.testing.assert_close(other.model.prompts.normal.detach(), model.model.prompts.normal.detach().float())


def test_training_in_float16_alone_is_an_error_that_names_what_works(tmp_path):
    model = GenCLIP(backbone="tiny", image_size=SIZE, visualizer=False)
    with pytest.raises(ValueError, match=r"precision='16-true' cannot train.*'16-mixed'"):
        _trainer(tmp_path, "16-true").fit(model, train_dataloaders=_batches())


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true", "16-true"])
def test_maps_and_scores_stay_in_the_unit_interval(tmp_path, precision):
    model = GenCLIP(weights="tiny-demo", image_size=SIZE, visualizer=False)
    for result in _trainer(tmp_path, precision).predict(model, dataloaders=_batches()):
        for values in (result.pred_score, result.anomaly_map):
            assert torch.isfinite(values).all()
            assert 0 <= values.min() <= values.max() <= 1
