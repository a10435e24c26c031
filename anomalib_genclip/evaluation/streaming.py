# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Pixel metrics in constant memory, from histograms of the scores.

The metrics depend only on the order of the scores, so scores are counted in bins that keep the order. The bins are
leading bits of a float32: at least its top 16 bits everywhere, 6 bits more in the middle of [0, 1]. Taken from the
score itself they would be coarse next to 1, where a confident model puts its defects; so scores above one half are
binned by their distance from 1 (an exact subtraction), and both ends are resolved alike.
"""

import torch
from anomalib.utils.cv import connected_components_cpu
from torch import Tensor

FPR_LIMIT = 0.3  # anomalib's AUPRO default

# A distance's rank is its top 16 bits, or its top 22 bits from 2^-8 on, shifted so that the ranks go on without a gap.
_FINE_FROM = 2.0**-8
_FINE_SHIFT = (119 << 13) - (119 << 7)  # 119: the exponent field of 2^-8
_INSIDE = (126 << 13) - _FINE_SHIFT + 1  # ranks of the distances 0 to 0.5
_OUTSIDE = 0x7F80 + 1  # ranks of the distances 0 to infinity, by their top 16 bits
NUM_BINS = 2 * (_OUTSIDE + _INSIDE)


def score_bins(scores: Tensor) -> Tensor:
    """Bin of each score; a higher score never has a lower bin.

    Args:
        scores (Tensor): Scores of any shape, meant to lie in [0, 1]; others are binned more coarsely. Not NaN.

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
    """The float32 values as integers of the same order, negative ones as 0."""
    return values.clamp(min=0).add(0.0).view(torch.int32)  # adding 0.0 takes the sign off -0.0


def region_weights(mask: Tensor) -> tuple[Tensor, int]:
    """Weight of each anomalous pixel, so that every connected region weighs 1.

    Args:
        mask (Tensor): Boolean mask of shape (H, W).

    Returns:
        tuple[Tensor, int]: The weights of ``mask``'s true pixels in row-major order, float64, and the number of
            regions (8-connected, labelled by anomalib's own routine as in its AUPRO).
    """
    labels = connected_components_cpu(mask[None, None].float())[0, 0][mask].long()
    sizes = torch.bincount(labels)
    return sizes[labels].double().reciprocal(), int((sizes > 0).sum())


class ScoreHistogram:
    """Scores of one category's pixels, counted by bin.

    Holds five arrays of ``NUM_BINS`` (about 6 MB), however many pixels are added.

    Example:
        >>> histogram = ScoreHistogram()
        >>> histogram.add(torch.tensor([[0.1, 0.9]]), torch.tensor([[False, True]]))
        >>> histogram.metrics()["AUROC"]
        1.0
    """

    def __init__(self) -> None:
        self.counts = torch.zeros(2, NUM_BINS, dtype=torch.int64)  # normal, anomalous pixels
        self.weights = torch.zeros(NUM_BINS, dtype=torch.float64)  # anomalous pixels, each 1 / size of its region
        self.regions = 0
        self.value = torch.full((NUM_BINS,), torch.nan)  # a score of each bin
        self.mixed = torch.zeros(NUM_BINS, dtype=torch.bool)  # whether the bin has had different ones

    def add(self, scores: Tensor, mask: Tensor) -> None:
        """Count one image.

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
        self.value[bins] = scores  # one of several scores of a bin stays, whichever
        changed = ((before != scores) & ~before.isnan()) | (self.value[bins] != scores)
        self.mixed[bins[changed]] = True

    def merge(self, other: "ScoreHistogram") -> None:
        """Add what another histogram has counted."""
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
        """AUROC, AUPRO, AP and F1Max, with the scores of a bin taken as evenly mixed, or as tied if they are.

        Returns:
            dict[str, float]: Value per metric. AUPRO is integrated up to ``FPR_LIMIT`` and divided by it.

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
    """Average precision from counts per bin, from the highest bin down.

    All of a tied bin's pixels are found at its end's precision. In a mixed one precision moves from ``t0 / n0`` to
    ``t1 / n1`` as both numbers grow evenly, and its mean over the bin is ``s + (t0 - s n0) log(n1 / n0) / (n1 - n0)``
    with the bin's own share of anomalies ``s``.
    """
    size = normal + anomalous
    true, found = anomalous.cumsum(0), size.cumsum(0)
    true_before, found_before = true - anomalous, found - size
    share = anomalous / size
    growth = torch.log(found / found_before.clamp(min=1)) / size
    within = torch.where(found_before > 0, share + (true_before - share * found_before) * growth, share)
    return (anomalous * torch.where(mixed, within, true / found)).sum() / true[-1]


def _area(x: Tensor, y: Tensor, limit: float) -> Tensor:
    """Mean height of the piecewise linear curve through (0, 0) and the points, for x up to ``limit``."""
    x, y = (torch.cat([values.new_zeros(1), values]) for values in (x, y))
    inside = int((x <= limit).sum())
    if inside < len(x):
        part = (limit - x[inside - 1]) / (x[inside] - x[inside - 1])
        y = torch.cat([y[:inside], torch.lerp(y[inside - 1], y[inside], part)[None]])
        x = torch.cat([x[:inside], x.new_tensor([limit])])
    return torch.trapezoid(y, x) / limit
