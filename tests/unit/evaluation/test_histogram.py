# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Histograms of scores give anomalib's own pixel metrics in constant memory."""

import pytest
import torch

from anomalib_genclip.evaluation.scores import NUM_BINS, ScoreHistogram, pixel_metrics, score_bins

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


def test_bins_keep_the_order() -> None:
    """No score falls below a lower one, from minus to plus infinity; equal scores share a bin."""
    infinity = float("inf")
    scores = torch.cat([
        torch.linspace(0, 1, 100_001),
        torch.logspace(-44, 0, 10_000),
        1 - torch.logspace(-8, 0, 10_000),
        torch.logspace(-40, 38, 10_000),
        -torch.logspace(-40, 38, 10_000),
        torch.tensor([-infinity, -1e-45, -0.0, 0.0, 1e-45, 0.5, 1.0, infinity]),
    ]).sort()[0]
    bins = score_bins(scores)
    assert (bins.diff() >= 0).all()
    assert 0 <= bins[0] <= bins[-1] < NUM_BINS
    assert score_bins(torch.tensor(-0.0)) == score_bins(torch.tensor(0.0))


def test_bins_tell_the_ends_from_their_neighbours() -> None:
    """Exact 0 and 1, where saturated scores pile up, are alone; both ends are resolved alike."""
    ends = score_bins(torch.tensor([0.0, 1e-30, 1 - 2.0**-24, 1.0]))
    assert ends.unique().numel() == 4
    low = torch.logspace(-6, -1, 500, dtype=torch.float64)
    assert score_bins(low.float()).unique().numel() == 500
    assert score_bins((1 - low).float()).unique().numel() >= 480


def test_regions_weigh_the_same() -> None:
    """Regions touching by a corner are one, as in anomalib; each weighs 1 whatever its size."""
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[0, 0] = mask[1, 1] = True
    mask[4:8, 4:8] = True
    histogram = histogram_of((mask & (torch.arange(8) < 2)).float()[None], mask[None])  # only the small region is found
    assert histogram.regions == 2
    assert sorted(histogram.weights[histogram.weights > 0].tolist()) == [1.0, 1.0]


def test_merging_is_adding() -> None:
    """Histograms of parts, merged, are the histogram of the whole, in any order."""
    logits, masks = scored_masks(num=6, size=48)
    maps = torch.sigmoid(logits)
    whole = histogram_of(maps, masks).metrics()
    merged = histogram_of(maps[4:], masks[4:])
    merged.merge(histogram_of(maps[:4], masks[:4]))
    assert merged.metrics() == pytest.approx(whole, abs=1e-12)
