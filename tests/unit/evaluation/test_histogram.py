# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Histograms of scores give anomalib's own pixel metrics in constant memory."""

import pytest
import torch

from anomalib_genclip.evaluation.scores import ScoreHistogram, pixel_metrics

SHAPES = {
    "spread": torch.sigmoid,
    "close to 1": lambda logits: torch.sigmoid(2 * logits + 9),
    "close to 0": lambda logits: torch.sigmoid(3 * logits - 25),
    "saturated": lambda logits: (0.6 * logits + 0.2).clamp(0, 1),
    "saturated softmax": lambda logits: torch.sigmoid(20 * logits),
    "narrow": lambda logits: 0.5 + 0.002 * logits,
    "8 bit": lambda logits: (255 * torch.sigmoid(logits)).round() / 255,
    "distances": lambda logits: 40 + 5 * logits,
    "both signs": lambda logits: logits,
}
pytestmark = pytest.mark.usefixtures("one_thread")


def scored_masks(num: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and masks of shape (num, size, size), every second mask with up to three regions."""
    random = torch.Generator().manual_seed(0)
    masks = torch.zeros(num, size, size, dtype=torch.bool)
    for mask in [mask for mask in masks[::2] for _ in range(3)]:
        top, left, height, width = torch.randint(2, size // 3, (4,), generator=random).tolist()
        mask[2 * top : 2 * top + height, 2 * left : 2 * left + width] = True
    return torch.randn(masks.shape, generator=random) + masks, masks


def histogram_of(maps: torch.Tensor, masks: torch.Tensor) -> ScoreHistogram:
    """Histogram of maps and masks of shape (B, H, W)."""
    histogram = ScoreHistogram()
    for scores, mask in zip(maps, masks, strict=True):
        histogram.add(scores, mask)
    return histogram


@pytest.mark.parametrize("shape", SHAPES)
def test_within_a_thousandth_of_anomalib(shape: str) -> None:
    """Every metric agrees with anomalib's, whatever the scores look like; outside of [0, 1] bins are coarser."""
    logits, masks = scored_masks(num=16, size=64)
    maps = SHAPES[shape](logits)
    limit = 1e-3 if 0 <= maps.min() <= maps.max() <= 1 else 3e-3
    assert histogram_of(maps, masks).metrics() == pytest.approx(pixel_metrics(maps, masks), abs=limit)


def test_a_perfect_a_reversed_and_two_constant_maps() -> None:
    """A map of nothing but 0 or 1 ranks nothing."""
    masks = torch.zeros(2, 20, 20, dtype=torch.bool)
    masks[0, :5, :4] = True
    assert [*histogram_of(masks.float(), masks).metrics().values()] == pytest.approx([1.0] * 4)
    reverse = histogram_of(1 - masks.float(), masks).metrics()
    assert reverse["AUROC"] == reverse["AUPRO"] == 0
    for value in (0.0, 1.0):
        ties = histogram_of(torch.full(masks.shape, value), masks).metrics()
        assert ties == pytest.approx({"AUROC": 0.5, "AUPRO": 0.15, "AP": 0.025, "F1Max": 2 * 20 / 820}, abs=1e-9)
