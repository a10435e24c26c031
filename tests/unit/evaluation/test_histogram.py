# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Histograms of scores give anomalib's own pixel metrics in constant memory."""

import resource

import pytest
import torch

from anomalib_genclip.evaluation.histogram import ScoreHistogram
from anomalib_genclip.evaluation.scores import pixel_metrics

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


def scored_masks(num: int, size: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    masks = torch.zeros(num, size, size, dtype=torch.bool)
    for mask in masks[::2]:
        for _ in range(3):
            top, left = torch.randint(0, size - size // 3, (2,), generator=random).tolist()
            height, width = torch.randint(2, size // 3, (2,), generator=random).tolist()
            mask[top : top + height, left : left + width] = True
    return torch.randn(masks.shape, generator=random) + masks, masks


def histogram_of(maps: torch.Tensor, masks: torch.Tensor) -> ScoreHistogram:
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


@pytest.mark.parametrize("exact_value", [0.0, 1.0])
def test_ties_at_the_ends_are_ties(exact_value: float) -> None:
    """A map of nothing but 0 or 1 ranks nothing."""
    masks = torch.zeros(2, 20, 20, dtype=torch.bool)
    masks[0, :5, :4] = True
    values = histogram_of(torch.full(masks.shape, exact_value), masks).metrics()
    assert values == pytest.approx({"AUROC": 0.5, "AUPRO": 0.15, "AP": 0.025, "F1Max": 2 * 20 / 820}, abs=1e-9)


@pytest.mark.slow
def test_twenty_thousand_images_in_constant_memory() -> None:
    """The resident size does not grow with the number of images."""
    logits, masks = scored_masks(num=100, size=256)
    random = torch.Generator().manual_seed(1)
    histogram = ScoreHistogram()
    peaks = []
    for index in range(20_000):
        shift = 0.2 * torch.randn(1, generator=random)
        histogram.add(torch.sigmoid(logits[index % 100] + shift), masks[index % 100])
        if index + 1 in {1000, 20_000}:
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    assert histogram.counts.sum() == 20_000 * 256 * 256
    assert set(histogram.metrics()) == {"AUROC", "AUPRO", "AP", "F1Max"}
    print(f"peak memory: {peaks[0]:.0f} MB after 1,000 images, {peaks[1]:.0f} MB after 20,000")
    assert peaks[1] - peaks[0] < 50
