# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Scores of one category; anomalib's own metrics computed from them, and pixel metrics in constant memory."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from anomalib.metrics import AUPR, AUPRO, AUROC, AnomalibMetric, F1Max
from anomalib.utils.cv import connected_components_cpu
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import binary_roc

from anomalib_genclip.utils.messages import counted

from .intervals import Points, area, bootstrap

IMAGE_METRICS = ("image_AUROC", "image_AP", "image_F1Max")
METRIC_NAMES = (*IMAGE_METRICS, "pixel_AUROC", "pixel_AUPRO", "pixel_AP", "pixel_F1Max")
# Of normal and of anomalous images, by the threshold in use, and of the latter at false alarm rates of 1 % and 5 %.
ERROR_RATES = ("false_alarm_rate", "miss_rate", "miss_rate_at_1", "miss_rate_at_5")
# One such value makes the metrics of its level undefined; images without a value are only left out.
NOT_FINITE = {"image": "a score that is not finite", "pixel": "an anomaly map that is not finite"}
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

    Scores are counted in bins that preserve their order, on which alone the metrics depend. A bin is given by the
    leading bits of a float32: at least 16, 6 more in the middle of [0, 1]. Scores above 0.5 are binned by their
    distance from 1 (an exact subtraction), so that both ends have the same resolution.
    """

    def __init__(self) -> None:
        self.counts = torch.zeros(2, NUM_BINS, dtype=torch.int64)  # normal, anomalous pixels
        self.weights = torch.zeros(NUM_BINS, dtype=torch.float64)  # of anomalous pixels: 1 / size of the region
        self.regions = 0

    def add(self, scores: Tensor, mask: Tensor, ignored: Tensor | None = None) -> None:
        """Add one image's map ``(H, W)``, on the CPU, its boolean mask, and pixels that do not count, likewise."""
        bins = score_bins(scores)
        kept = slice(None) if ignored is None else ~ignored
        both = torch.bincount((bins + NUM_BINS * mask)[kept].flatten(), minlength=2 * NUM_BINS)
        mask = mask if ignored is None else mask & ~ignored
        weights = region_weights(mask)
        self.counts += both.view(2, NUM_BINS)
        self.weights += torch.bincount(bins[mask], weights=weights, minlength=NUM_BINS)
        self.regions += round(float(weights.sum()))

    def merge(self, other: "ScoreHistogram") -> None:
        """Add the counts of another histogram."""
        self.counts += other.counts
        self.weights += other.weights
        self.regions += other.regions

    def metrics(self) -> dict[str, float]:
        """Compute AUROC, AUPRO, AP and F1Max of normal and anomalous pixels; all scores of a bin count as equal."""
        used = self.counts.sum(0) > 0
        normal, anomalous = self.counts[:, used].flip(1).double()  # from the highest score down
        false, true = normal.cumsum(0), anomalous.cumsum(0)
        fpr, tpr = false / false[-1], true / true[-1]
        overlap = self.weights[used].flip(0).cumsum(0) / self.regions
        return {
            "AUROC": float(area(fpr, tpr, 1.0)[0]),
            "AUPRO": float(area(fpr, overlap, FPR_LIMIT)[0]),
            "AP": float((anomalous * true / (true + false)).sum() / true[-1]),
            "F1Max": float((2 * true / (true + false + true[-1])).max()),
        }


def region_weights(mask: Tensor) -> Tensor:
    """Compute 1 / size of its region, 8-connected as in AUPRO, of each anomalous pixel of a mask ``(H, W)``."""
    regions = connected_components_cpu(mask[None, None].float())[0, 0][mask].long()
    return torch.bincount(regions)[regions].double().reciprocal()


@dataclass
class CategoryScores:
    """Scores of one category, by image: those of the images, and those of the pixels, as maps or in a histogram."""

    images: dict[str, tuple[float, bool, bool | None]] = field(default_factory=dict)  # score, label, predicted label
    maps: dict[str, tuple[Tensor, Tensor, Tensor | None]] = field(default_factory=dict)  # map, mask, ignored: (H, W)
    histogram: ScoreHistogram | None = None  # pixels whose maps are not kept
    points: dict[str, Points] = field(default_factory=dict)  # of images whose pixels are in the histogram
    left_out: dict[str, dict[str, str]] = field(default_factory=lambda: {"image": {}, "pixel": {}})  # and why
    repeated: int = 0  # images that were added again and ignored

    def add(
        self,
        image: str,
        score: float | None,
        label: bool | None,
        anomaly_map: Tensor | None,
        mask: Tensor | None,
        alarm: bool | None = None,
        ignored: Tensor | None = None,
    ) -> int:
        """Add one image, identified by its path, unless it was added before. What is unknown is ``None``.

        Map, mask and ``ignored`` pixels are ``(H, W)`` on the CPU, float32 and bool; ``alarm`` is the predicted label.
        """
        if image in self.images or image in self.left_out["image"]:
            self.repeated += 1
            return 0
        if score is None or label is None:
            self.left_out["image"][image] = "no score" if score is None else "no label"
        elif not isfinite(score):
            self.left_out["image"][image] = NOT_FINITE["image"]
        else:
            self.images[image] = (score, label, alarm)
        if anomaly_map is None or mask is None:
            self.left_out["pixel"][image] = "no anomaly map" if anomaly_map is None else "no mask"
        elif not anomaly_map.isfinite().all():
            self.left_out["pixel"][image] = NOT_FINITE["pixel"]
        else:
            self.maps[image] = (anomaly_map, mask, ignored)
            return mask.numel()
        return 0

    def to_histogram(self, kept: int = 0) -> None:
        """Move all maps to the histogram, except the ``kept`` newest."""
        for image in list(self.maps)[: len(self.maps) - kept]:
            self.histogram = self.histogram or ScoreHistogram()
            planes = self.maps.pop(image)
            self.histogram.add(*planes)
            self.points[image] = _points(*planes)

    @classmethod
    def union(cls, parts: Iterable["CategoryScores"]) -> "CategoryScores":
        """Merge the scores of several processes, counting each image once."""
        whole = cls()
        for part in parts:
            whole.images = part.images | whole.images
            whole.left_out = {level: part.left_out[level] | images for level, images in whole.left_out.items()}
            whole.maps = part.maps | whole.maps
            whole.points |= part.points
            whole.repeated += part.repeated
            if part.histogram:
                whole.histogram = whole.histogram or ScoreHistogram()
                whole.histogram.merge(part.histogram)
        whole.maps = {image: planes for image, planes in whole.maps.items() if image not in whole.points}
        return whole

    def compute_metrics(self) -> tuple[dict[str, float], list[str]]:
        """Compute the category's metrics and error rates."""
        values: dict[str, float] = {}
        notes: list[str] = []
        for level, compute in (("image", self._image_values), ("pixel", self._pixel_values)):
            reasons = defaultdict(list)
            for image, reason in sorted(self.left_out[level].items()):
                reasons[reason].append(image)
            defined = bool(self.images if level == "image" else self.maps or self.points)
            defined = defined and NOT_FINITE[level] not in reasons
            outcome = f"{level} metrics {'without some images' if defined else 'undefined (not in the mean)'}"
            for reason, images in reasons.items():
                number = counted(len(images), "image")
                notes.append(f"{outcome}: {number} with {reason}, for example {images[0]}")
            if defined:
                values |= compute(notes)
        if self.repeated:
            notes.append(f"{counted(self.repeated, 'repetition')} left out (images are identified by path)")
        return {name: values[name] for name in METRIC_NAMES + ERROR_RATES if name in values}, notes

    def draws(self, values: Mapping[str, float], seed: str) -> dict[str, list[float]]:
        """Compute metrics of resampled images for intervals; ``values`` are those of the images, ``seed`` any text."""
        images = [Points.of_image(*self.images[image][:2]) for image in sorted(self.images)]
        pixels = self.points | {image: _points(*planes) for image, planes in self.maps.items()}
        curves = {"image_AUROC": (1, 1.0)}
        found = bootstrap(values, images, curves, seed) if "image_AUROC" in values else {}
        if "pixel_AUROC" in values:
            curves = {"pixel_AUROC": (1, 1.0), "pixel_AUPRO": (2, FPR_LIMIT)}
            found |= bootstrap(values, [pixels[image] for image in sorted(pixels)], curves, seed)
        return found

    def _image_values(self, notes: list[str]) -> dict[str, float]:
        scores, labels, alarms = zip(*(self.images[image] for image in sorted(self.images)), strict=True)
        scores, labels = torch.tensor(scores), torch.tensor(labels)
        if not _has_both("image", int((~labels).sum()), int(labels.sum()), notes):
            return {}
        values = {f"image_{name}": value for name, value in _ranking(scores, labels).items()}
        if None not in alarms:
            wrong = (torch.tensor(alarms) != labels).double()
            values |= {"false_alarm_rate": float(wrong[~labels].mean()), "miss_rate": float(wrong[labels].mean())}
        return values | dict(zip(ERROR_RATES[2:], miss_rates(scores, labels, (0.01, 0.05)), strict=True))

    def _pixel_values(self, notes: list[str]) -> dict[str, float]:
        if any(ignored is not None for *_, ignored in self.maps.values()):  # anomalib's AUPRO takes whole maps
            self.to_histogram()
        if len({mask.shape for _, mask, _ in self.maps.values()}) > 1:
            notes.append("pixel metrics are streaming ones: maps differ in size, which anomalib's AUPRO cannot take")
            self.to_histogram()
        if self.histogram:
            self.to_histogram()
            normal, anomalous = self.histogram.counts.sum(1).tolist()
        else:
            maps, masks = map(torch.stack, zip(*(self.maps[image][:2] for image in sorted(self.maps)), strict=True))
            normal, anomalous = int((~masks).sum()), int(masks.sum())
        if not _has_both("pixel", normal, anomalous, notes):
            return {}
        metrics = self.histogram.metrics() if self.histogram else pixel_metrics(maps, masks)
        return {f"pixel_{name}": value for name, value in metrics.items()}


def _points(anomaly_map: Tensor, mask: Tensor, ignored: Tensor | None) -> Points:
    kept = torch.ones_like(mask) if ignored is None else ~ignored
    normal, anomalous = anomaly_map[kept & ~mask], anomaly_map[kept & mask]
    return Points.of_pixels(normal.numpy(), anomalous.numpy(), region_weights(kept & mask).numpy())


def pixel_metrics(maps: Tensor, masks: Tensor) -> dict[str, float]:
    """Compute AUROC, AP, F1Max and AUPRO of finite maps and boolean masks, ``(B, H, W)``; both labels must occur."""
    return _ranking(maps, masks) | {"AUPRO": _compute(AUPRO, maps, masks)}


def miss_rates(scores: Tensor, labels: Tensor, false_alarm_rates: Sequence[float]) -> list[float]:
    """Compute false negative rates at false positive rates, linearly on the ROC curve; scores ``(n,)`` are finite."""
    false_positive, true_positive, _ = binary_roc(_into_unit_range(scores), labels.int())
    return (1 - np.interp(false_alarm_rates, false_positive, true_positive)).tolist()


def _ranking(scores: Tensor, labels: Tensor) -> dict[str, float]:
    """Compute AUROC, AP and F1Max of scores and labels of any shape."""
    scores = _into_unit_range(scores)
    return {name: _compute(kind, scores, labels) for name, kind in (("AUROC", AUROC), ("AP", AUPR), ("F1Max", F1Max))}


def _compute(kind: type[AnomalibMetric], scores: Tensor, targets: Tensor) -> float:
    """Compute one of anomalib's metrics in this process only."""
    metric: Any = kind(fields=["scores", "targets"])
    for part in metric.modules():  # F1Max contains a second metric, which would also wait for other processes
        if isinstance(part, Metric):
            part.distributed_available_fn = bool  # bool() is False
    metric.update(SimpleNamespace(scores=scores, targets=targets))
    return float(metric.compute())


def _into_unit_range(scores: Tensor) -> Tensor:
    """Scale scores to [0, 1] unless they are: outside of it, AUROC and AUPR take a sigmoid, which saturates."""
    low, high = scores.min(), scores.max()
    return scores if low >= 0 and high <= 1 else (scores - low) / (high - low).clamp(min=1e-30)


def _has_both(level: str, normal: int, anomalous: int, notes: list[str]) -> bool:
    """Return whether there are normal and anomalous images or pixels; if not, note which are missing."""
    if normal and anomalous:
        return True
    notes.append(f"{level} metrics undefined (not in the mean): no {'anomalous' if normal else 'normal'} {level}s")
    return False
