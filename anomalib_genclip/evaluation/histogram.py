# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Pixel metrics in constant memory, from histograms of the scores.

The metrics depend only on the order of the scores, so scores are counted in bins that preserve the order. A bin is
given by the leading bits of a float32: at least 16 bits everywhere, 6 more in the middle of [0, 1]. Bits of the score
itself would resolve values near 1 poorly, where a confident model puts defects. Scores above 0.5 are therefore binned
by their distance from 1 (an exact subtraction), so that both ends have the same resolution.
"""

import torch
from anomalib.utils.cv import connected_components_cpu
from torch import Tensor

FPR_LIMIT = 0.3  # anomalib's AUPRO default

# The rank of a distance is its top 16 bits, or from 2^-8 on its top 22 bits, shifted so that ranks are contiguous.
_FINE_FROM = 2.0**-8
_FINE_SHIFT = (119 << 13) - (119 << 7)  # 119: the exponent field of 2^-8
_INSIDE = (126 << 13) - _FINE_SHIFT + 1  # ranks of the distances 0 to 0.5
_OUTSIDE = 0x7F80 + 1  # ranks of the distances 0 to infinity, by their top 16 bits
NUM_BINS = 2 * (_OUTSIDE + _INSIDE)


def score_bins(scores: Tensor) -> Tensor:
    """Compute the bin of each score, int64 in [0, ``NUM_BINS``); a higher score never has a lower bin."""
    scores = scores.float()
    low = scores <= 0.5
    distance = torch.where(low, scores, 1 - scores)
    inside, outside = _bits(distance), _bits(-distance)
    rank = torch.where(distance >= _FINE_FROM, (inside >> 10) - _FINE_SHIFT, inside >> 16) - (outside >> 16)
    return torch.where(low, _OUTSIDE + rank, NUM_BINS - 1 - _OUTSIDE - rank).long()


def _bits(values: Tensor) -> Tensor:
    """Convert float32 values to integers of the same order, negative ones to 0."""
    return values.clamp(min=0).add(0.0).view(torch.int32)  # adding 0.0 turns -0.0 into 0.0


class ScoreHistogram:
    """Histogram of the scores of one category's pixels: three arrays, about 5 MB, whatever the number of pixels.

    Example:
        >>> histogram = ScoreHistogram()
        >>> histogram.add(torch.tensor([[0.1, 0.9]]), torch.tensor([[False, True]]))
        >>> histogram.metrics()["AUROC"]
        1.0
    """

    def __init__(self) -> None:
        self.counts = torch.zeros(2, NUM_BINS, dtype=torch.int64)  # normal, anomalous pixels
        self.weights = torch.zeros(NUM_BINS, dtype=torch.float64)  # of anomalous pixels: 1 / size of the region
        self.regions = 0

    def add(self, scores: Tensor, mask: Tensor) -> None:
        """Add one image's anomaly map ``(H, W)``, on the CPU, and its boolean mask ``(H, W)``."""
        bins = score_bins(scores)
        both = torch.bincount((bins + NUM_BINS * mask).flatten(), minlength=2 * NUM_BINS)
        self.counts += both.view(2, NUM_BINS)
        # Regions of anomalous pixels are 8-connected, by the same function as in anomalib's AUPRO; each weighs 1.
        regions = connected_components_cpu(mask[None, None].float())[0, 0][mask].long()
        sizes = torch.bincount(regions)
        weights = sizes[regions].double().reciprocal()
        self.weights += torch.bincount(bins[mask], weights=weights, minlength=NUM_BINS)
        self.regions += int((sizes > 0).sum())

    def merge(self, other: "ScoreHistogram") -> None:
        """Add the counts of another histogram."""
        self.counts += other.counts
        self.weights += other.weights
        self.regions += other.regions

    def metrics(self) -> dict[str, float]:
        """Compute AUROC, AUPRO, AP and F1Max; all scores of a bin count as equal.

        There must be normal and anomalous pixels. AUPRO is integrated up to ``FPR_LIMIT`` and divided by it.
        """
        used = self.counts.sum(0) > 0
        normal, anomalous = self.counts[:, used].flip(1).double()  # from the highest score down
        false, true = normal.cumsum(0), anomalous.cumsum(0)
        fpr, tpr = false / false[-1], true / true[-1]
        overlap = self.weights[used].flip(0).cumsum(0) / self.regions
        return {
            "AUROC": _area(fpr, tpr, limit=1.0),
            "AUPRO": _area(fpr, overlap, limit=FPR_LIMIT),
            "AP": float((anomalous * true / (true + false)).sum() / true[-1]),
            "F1Max": float((2 * true / (true + false + true[-1])).max()),
        }


def _area(x: Tensor, y: Tensor, limit: float) -> float:
    """Integrate the piecewise linear curve through (0, 0) and the points up to ``limit``, divided by ``limit``."""
    x, y = (torch.cat([values.new_zeros(1), values]) for values in (x, y))
    inside = int((x <= limit).sum())
    if inside < len(x):
        part = (limit - x[inside - 1]) / (x[inside] - x[inside - 1])
        y = torch.cat([y[:inside], torch.lerp(y[inside - 1], y[inside], part)[None]])
        x = torch.cat([x[:inside], x.new_tensor([limit])])
    return float(torch.trapezoid(y, x)) / limit
