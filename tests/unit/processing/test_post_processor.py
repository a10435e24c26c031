# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Thresholds on raw scores."""

import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.metrics import AUROC
from anomalib.post_processing import PostProcessor

from anomalib_genclip.processing.post_processor import RawScorePostProcessor


def test_shifted_target_scores_keep_their_order():
    """Anomalib's default clamps to the range seen in validation, and ties follow."""
    raw, labels = torch.linspace(0.55, 0.95, 40), torch.arange(40) % 3 == 0
    raw = raw + labels * 0.1
    for processor, same in ((RawScorePostProcessor(), True), (PostProcessor(), False)):
        validation = ImageBatch(
            image=torch.zeros(4, 3, 4, 4),
            pred_score=torch.tensor([0.1, 0.2, 0.3, 0.4]),
            gt_label=torch.tensor([0, 0, 1, 1]),
            anomaly_map=torch.rand(4, 4, 4) * 0.4,
            gt_mask=torch.zeros(4, 4, 4),
        )
        processor.on_validation_batch_end(None, None, validation)
        processor.on_validation_epoch_end(None, None)
        batch = ImageBatch(image=torch.zeros(40, 3, 4, 4), pred_score=raw.clone(), gt_label=labels)
        batch.anomaly_map = torch.rand(40, 4, 4)
        processor.on_test_batch_end(None, None, batch)
        metrics = []
        for scores in (raw, batch.pred_score):
            metric = AUROC(fields=["pred_score", "gt_label"])
            metric.update(ImageBatch(image=torch.zeros(40, 3, 4, 4), pred_score=scores, gt_label=labels))
            metrics.append(metric.compute())
        assert (metrics[0] == metrics[1]) == same


def test_labels_use_the_threshold_that_validation_found():
    processor = RawScorePostProcessor()
    processor.set_thresholds(torch.tensor(0.3), torch.tensor(0.2))
    batch = ImageBatch(image=torch.zeros(2, 3, 4, 4), pred_score=torch.tensor([0.25, 0.35]))
    batch.anomaly_map = torch.tensor([0.15, 0.25]).view(2, 1, 1).expand(2, 4, 4)
    processor.on_test_batch_end(None, None, batch)
    assert batch.pred_label.tolist() == [False, True]
    assert batch.pred_mask.flatten(1).any(dim=1).tolist() == [False, True]
    assert batch.pred_score.tolist() == pytest.approx([0.25, 0.35])


@pytest.mark.parametrize(("sensitivity", "threshold"), [(0.5, 0.3), (0.6, 0.2), (0.4, 0.4)])
def test_sensitivity_moves_the_threshold(sensitivity, threshold):
    processor = RawScorePostProcessor(image_sensitivity=sensitivity)
    processor.set_thresholds(torch.tensor(0.3), torch.tensor(float("nan")))
    assert processor.normalized_image_threshold == pytest.approx(threshold)
    assert processor.normalized_pixel_threshold == pytest.approx(0.3)  # matched


def test_scores_without_any_threshold_are_labelled_at_one_half():
    assert RawScorePostProcessor().normalized_image_threshold == 0.5


def test_thresholds_come_from_the_source(trained):
    own = trained.model.post_processor.raw_thresholds()
    assert all(torch.isfinite(value) for value in own.values())
    before = {key: value.clone() for key, value in own.items()}
    trained.engine.test(trained.model, datamodule=trained.data)
    assert trained.model.post_processor.raw_thresholds() == before
