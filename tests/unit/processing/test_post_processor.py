# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Thresholds on raw scores."""

from math import nan

import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.metrics import AUROC
from anomalib.post_processing import PostProcessor

from anomalib_genclip.processing.post_processor import RawScorePostProcessor


def batch_of(scores, labels=None) -> ImageBatch:
    maps = torch.as_tensor(scores).view(-1, 1, 1).expand(-1, 4, 4).clone()
    masks = None if labels is None else torch.as_tensor(labels).view(-1, 1, 1).expand(-1, 4, 4)
    return ImageBatch(
        image=torch.zeros(len(maps), 3, 4, 4),
        pred_score=torch.as_tensor(scores).clone(),
        gt_label=labels,
        anomaly_map=maps,
        gt_mask=masks,
    )


def validate(processor: PostProcessor) -> None:
    processor.on_validation_batch_end(None, None, batch_of([0.1, 0.2, 0.3, 0.4], torch.tensor([0, 0, 1, 1])))
    processor.on_validation_epoch_end(None, None)


def test_shifted_target_scores_keep_their_order():
    """Anomalib's default clamps to the range seen in validation, and ties follow."""
    labels = torch.arange(40) % 3 == 0
    raw, metric = torch.linspace(0.55, 0.95, 40) + labels * 0.1, AUROC(fields=["pred_score", "gt_label"])
    for processor, same in ((RawScorePostProcessor(), True), (PostProcessor(), False)):
        validate(processor)
        batch, values = batch_of(raw, labels), []
        processor.on_test_batch_end(None, None, batch)
        for scores in (raw, batch.pred_score):
            metric.reset()
            metric.update(batch_of(scores, labels))
            values.append(metric.compute())
        assert (values[0] == values[1]) == same
        if same:
            assert batch.pred_label.all()
            assert batch.pred_mask.all()  # validation found 0.3


def test_thresholds_that_are_set_or_given_outlive_validations_until_they_are_reset():
    processor, given = RawScorePostProcessor(), RawScorePostProcessor(image_threshold=0.7)
    for one in (processor, given):
        one.set_thresholds(0.6, 0.6, {"class_name": "nut"})
        validate(one)
    assert (processor.normalized_image_threshold, processor.calibration) == (pytest.approx(0.6), {"class_name": "nut"})
    assert (given.normalized_image_threshold, given.calibration) == (pytest.approx(0.7), None)
    processor.reset()
    validate(processor)
    assert (processor.normalized_image_threshold, processor.calibration) == (pytest.approx(0.3), None)
    given.reset()
    validate(given)
    assert given.normalized_image_threshold == pytest.approx(0.7)


@pytest.mark.parametrize("wrong", [{"image_threshold": 1.5}, {"pixel_threshold": -0.5}])
def test_thresholds_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RawScorePostProcessor(**wrong)


@pytest.mark.parametrize(("sensitivity", "threshold"), [(0.5, 0.3), (0.6, 0.2), (0.4, 0.4)])
def test_sensitivity_moves_the_threshold(sensitivity, threshold):
    processor = RawScorePostProcessor(image_sensitivity=sensitivity)
    assert processor.normalized_pixel_threshold == 0.5  # without any
    processor.set_thresholds(torch.tensor(0.3), nan)
    assert processor.normalized_image_threshold == pytest.approx(threshold)
    assert processor.normalized_pixel_threshold == pytest.approx(0.3)  # matched


def test_another_product_is_warned_of_once_for_each_calibration(caplog):
    processor = RawScorePostProcessor()
    processor.check_product(["nut"])
    for known in ("bolt", "cap"):
        processor.set_thresholds(0.5, 0.5, {"class_name": known})
        for _ in range(2):
            processor.check_product(["nut", known])
    assert [record.args for record in caplog.records] == [("bolt", "nut"), ("cap", "nut")]
