# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The weight of the image score: when it is chosen, and on which images."""

from types import SimpleNamespace

import pytest
import torch
from helpers import data_trees
from helpers.runs import build, engine
from lightning.pytorch.trainer.states import TrainerFn

from anomalib_genclip.data import CrossDataset
from anomalib_genclip.torch_model import ScoreParts

RIGHT, WRONG = torch.tensor([0.1, 0.2, 0.8, 0.9]), torch.tensor([0.7, 0.65, 0.35, 0.3])
WEAKLY_RIGHT = torch.tensor([0.4, 0.45, 0.5, 0.55])
LABEL = torch.tensor([0, 0, 1, 1])


def test_it_is_chosen_in_training_alone_and_not_on_the_test_images(tmp_path, monkeypatch):
    monkeypatch.setattr("anomalib_genclip.callbacks.score_weight.SCORE_WEIGHTS", (0.5, 0.5, 0.5))
    source = data_trees.mvtec_ad(tmp_path / "source", ("cable",), normal=6, anomalous=6)
    target = data_trees.mvtec_ad(tmp_path / "target", ("bottle",))
    cross = CrossDataset(source=source, target=target, train_batch_size=4, eval_batch_size=4, num_workers=0)
    model = build()
    engine(tmp_path, max_epochs=1).validate(model, datamodule=cross)
    one_class = data_trees.mvtec_ad(tmp_path / "one_class")  # validates on its test images
    engine(tmp_path, max_epochs=1).fit(model, datamodule=one_class)
    assert float(model.model.score_weight) == 0.75
    engine(tmp_path, max_epochs=1).fit(model, datamodule=cross)
    assert float(model.model.score_weight) == 0.5


@pytest.mark.parametrize(
    ("top", "cls", "expected"), [(RIGHT, WRONG, 0.5), (WRONG, WEAKLY_RIGHT, 1.0), (RIGHT, RIGHT, 0.75)]
)
def test_it_is_the_best_on_the_held_out_images_and_the_threshold_fits_it(top, cls, expected, monkeypatch):
    model = build()
    trainer = SimpleNamespace(sanity_checking=False, world_size=1, state=SimpleNamespace(fn=TrainerFn.FITTING))
    monkeypatch.setattr(type(model), "trainer", trainer)
    callback = model._score_weight
    for part in (slice(2), slice(2, 4)):
        parts = ScoreParts(torch.zeros(2, 1, 4, 4), top[part], cls[part], branches=None)
        callback.collect(parts, LABEL[part])
    callback.on_validation_epoch_end(trainer, model)
    assert model.model.score_weight == expected
    if expected != 0.75:  # what the model starts with; the post-processor has then seen the right scores
        predicted = torch.lerp(top, cls, expected) >= model.post_processor.normalized_image_threshold
        assert predicted.tolist() == LABEL.bool().tolist()
