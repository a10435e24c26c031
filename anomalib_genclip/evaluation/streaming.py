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
    """Compute the bin of each score; a higher score never has a lower bin.

    Args:
        scores (Tensor): Scores of any shape, not NaN; those outside of [0, 1] are binned more coarsely.

    Returns:
        Tensor: Bins of the same shape, int64 in [0, ``NUM_BINS``).
    """
    scores = scores.float()
    low = scores <= 0.5
    distance = torch.where(low, scores, 1 - scores)
    inside, outside = _bits(distance), _bits(-distance)
    rank = torch.where(distance >= _FINE_FROM, (inside >> 10) - _FINE_SHIFT, inside >> 16) - (outside >> 16)
    return torch.where(low, _OUTSIDE + rank, NUM_BINS - 1 - _OUTSIDE - rank).long()


def _bits(values: Tensor) -> Tensor:
    """Convert float32 values to integers of the same order, negative ones to 0."""
    return values.clamp(min=0).add(0.0).view(torch.int32)  # adding 0.0 turns -0.0 into 0.0


def region_weights(mask: Tensor) -> tuple[Tensor, int]:
    """Compute weights of anomalous pixels, so that the weights of every connected region sum to 1.

    Args:
        mask (Tensor): Boolean mask of shape (H, W).

    Returns:
        tuple[Tensor, int]: Weights of ``mask``'s true pixels in row-major order, float64, and the number of regions
            (8-connected, by the same function as in anomalib's AUPRO).
    """
    labels = connected_components_cpu(mask[None, None].float())[0, 0][mask].long()
    sizes = torch.bincount(labels)
    return sizes[labels].double().reciprocal(), int((sizes > 0).sum())


class ScoreHistogram:
    """Histogram of the scores of one category's pixels.

    Has five arrays of ``NUM_BINS`` (about 6 MB), independently of the number of pixels.

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
        self.value = torch.full((NUM_BINS,), torch.nan)  # a score of each bin
        self.mixed = torch.zeros(NUM_BINS, dtype=torch.bool)  # whether the bin has different scores

    def add(self, scores: Tensor, mask: Tensor) -> None:
        """Add one image.

        Args:
            scores (Tensor): Anomaly map of shape (H, W), on the CPU.
            mask (Tensor): Boolean ground truth of shape (H, W).
        """
        bins = score_bins(scores)
        both = torch.bincount((bins + NUM_BINS * mask).flatten(), minlength=2 * NUM_BINS)
        self.counts += both.view(2, NUM_BINS)
        self._note_values(bins, scores.float())
        if mask.any():
            weights, regions = region_weights(mask)
            self.weights += torch.bincount(bins[mask], weights=weights, minlength=NUM_BINS)
            self.regions += regions

    def _note_values(self, bins: Tensor, scores: Tensor) -> None:
        before = self.value[bins]
        self.value[bins] = scores  # keeps any one of several scores of a bin
        changed = ((before != scores) & ~before.isnan()) | (self.value[bins] != scores)
        self.mixed[bins[changed]] = True

    def merge(self, other: "ScoreHistogram") -> None:
        """Add the counts of another histogram."""
        differ = (self.value != other.value) & ~self.value.isnan() & ~other.value.isnan()
        self.mixed |= other.mixed | differ
        self.value = torch.where(self.value.isnan(), other.value, self.value)
        self.counts += other.counts
        self.weights += other.weights
        self.regions += other.regions

    @property
    def num_normal(self) -> int:
        """Number of normal pixels."""
        return int(self.counts[0].sum())

    @property
    def num_anomalous(self) -> int:
        """Number of anomalous pixels."""
        return int(self.counts[1].sum())

    def metrics(self) -> dict[str, float]:
        """Compute AUROC, AUPRO, AP and F1Max; different scores in a bin are assumed to be uniformly mixed.

        Returns:
            dict[str, float]: Values by metric. AUPRO is integrated up to ``FPR_LIMIT`` and divided by it.

        Raises:
            ValueError: If there are no normal or no anomalous pixels.
        """
        if not self.num_normal or not self.num_anomalous:
            msg = "metrics need normal and anomalous pixels"
            raise ValueError(msg)
        used = self.counts.sum(0) > 0
        normal, anomalous = self.counts[:, used].flip(1).double()  # from the highest score down
        false, true = normal.cumsum(0), anomalous.cumsum(0)
        fpr, tpr = false / false[-1], true / true[-1]
        overlap = self.weights[used].flip(0).cumsum(0) / self.regions
        return {
            "AUROC": float(_area(fpr, tpr, limit=1.0)),
            "AUPRO": float(_area(fpr, overlap, limit=FPR_LIMIT)),
            "AP": float(_average_precision(normal, anomalous, self.mixed[used].flip(0))),
            "F1Max": float((2 * true / (true + false + true[-1])).max()),
        }


def _average_precision(normal: Tensor, anomalous: Tensor, mixed: Tensor) -> Tensor:
    """Compute average precision from counts per bin, from the highest bin down.

    All pixels of a tied bin have the precision at its end. In a mixed bin, precision goes from ``t0 / n0`` to
    ``t1 / n1`` with both counts growing linearly, and its mean over the bin is
    ``s + (t0 - s n0) log(n1 / n0) / (n1 - n0)``, where ``s`` is the share of anomalous pixels in the bin.
    """
    size = normal + anomalous
    true, found = anomalous.cumsum(0), size.cumsum(0)
    true_before, found_before = true - anomalous, found - size
    share = anomalous / size
    growth = torch.log(found / found_before.clamp(min=1)) / size
    within = torch.where(found_before > 0, share + (true_before - share * found_before) * growth, share)
    return (anomalous * torch.where(mixed, within, true / found)).sum() / true[-1]


def _area(x: Tensor, y: Tensor, limit: float) -> Tensor:
    """Integrate the piecewise linear curve through (0, 0) and the points up to ``limit``, divided by ``limit``."""
    x, y = (torch.cat([values.new_zeros(1), values]) for values in (x, y))
    inside = int((x <= limit).sum())
    if inside < len(x):
        part = (limit - x[inside - 1]) / (x[inside] - x[inside - 1])
        y = torch.cat([y[:inside], torch.lerp(y[inside - 1], y[inside], part)[None]])
        x = torch.cat([x[:inside], x.new_tensor([limit])])
    return torch.trapezoid(y, x) / limit
