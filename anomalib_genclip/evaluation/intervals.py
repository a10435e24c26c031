# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Confidence intervals of metrics, by bootstrap over the images of a test.

Normal and anomalous images are drawn separately, as often as there are. The draws depend on the category and the
numbers of its images alone, so that the interval of the difference of two models is a paired one.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import ArrayLike, NDArray

INTERVAL_METRICS = ("image_AUROC", "pixel_AUROC", "pixel_AUPRO")
LOW, HIGH = "_low", "_high"  # suffixes of columns with the ends of 95 % intervals
DRAWS = 1000
_FEWEST = 2  # images of each kind
_POINTS = 256  # that stand for the pixels of one kind of an image
_MIDDLES = (np.arange(_POINTS) + 0.5) / _POINTS
_LEVELS = np.linspace(0, 1, 256)  # of normal and of anomalous points, which bound the bins of a curve

Array = NDArray[Any]


class Points(NamedTuple):
    """Equally weighted scores that stand for what an image adds to the curves: 3 kB for all of its pixels."""

    scores: Array  # of normal ones, of anomalous ones and, of pixels, of those by region, (2 or 3, P), float32
    weights: Array  # numbers of these: pixels, pixels and regions, or images, (2 or 3,), float32

    @classmethod
    def of_image(cls, score: float, label: bool) -> "Points":
        """Describe an image by its own score, exactly."""
        return cls(np.full((2, 1), score, np.float32), np.array([not label, label], np.float32))

    @classmethod
    def of_pixels(cls, normal: Array, anomalous: Array, region_weights: Array) -> "Points":
        """Describe pixels, ``(n,)``, ``(a,)``, and 1 / size of their regions ``(a,)``, by 256 quantiles each."""
        normal, order = np.sort(normal), np.argsort(anomalous)
        share, anomalous = np.cumsum(region_weights[order]), anomalous[order]
        scores = np.zeros((3, _POINTS), np.float32)
        if len(normal):
            scores[0] = normal[(_MIDDLES * len(normal)).astype(int)]
        if len(anomalous):
            scores[1] = anomalous[(_MIDDLES * len(anomalous)).astype(int)]
            scores[2] = anomalous[np.searchsorted(share, _MIDDLES * share[-1])]
        regions = share[-1] if len(share) else 0
        return cls(scores, np.array([len(normal), len(anomalous), regions], np.float32))


def bootstrap(
    values: Mapping[str, float], images: Sequence[Points], curves: Mapping[str, tuple[int, float]], seed: str
) -> dict[str, list[float]]:
    """Compute ``DRAWS`` values of metrics of resampled images; none with fewer than 2 normal or anomalous images.

    Scores are counted in at most 513 bins. What this changes in the exact ``values`` is added to all draws. The order
    of the images must not depend on the model; ``curves`` are kind of points and limit of the false positive rate.
    """
    anomalous = np.array([points.weights[1] > 0 for points in images], bool)
    if min(anomalous.sum(), (~anomalous).sum()) < _FEWEST:
        return {}
    random = np.random.default_rng(crc32(seed.encode()))
    times = np.ones((1 + DRAWS, len(images)), np.float32)  # the first row: the images as they are
    for kind in (~anomalous, anomalous):
        count = int(kind.sum())
        times[1:, kind] = random.multinomial(count, np.full(count, 1 / count), DRAWS)
    found = curve_areas(images, times, curves)
    return {name: np.clip(values[name] + own[1:] - own[0], 0, 1).round(6).tolist() for name, own in found.items()}


def curve_areas(images: Sequence[Points], times: Array, curves: Mapping[str, tuple[int, float]]) -> dict[str, Array]:
    """Compute the areas under curves for each way ``(D, n)`` to count the images: ``(D,)`` by metric."""
    scores, weights = (np.stack(parts) for parts in zip(*images, strict=True))
    ends = [np.quantile(scores[weights[:, kind] > 0, kind], _LEVELS, method="nearest") for kind in (0, 1)]
    edges = np.unique(ends)
    size = len(edges) + 1
    rates = []
    for own, weight in zip(scores.swapaxes(0, 1), weights.T / scores.shape[-1], strict=True):
        bins = np.searchsorted(edges, own, side="right") + size * np.arange(len(own))[:, None]
        counts = np.bincount(bins.ravel(), np.repeat(weight, own.shape[1]), len(own) * size).reshape(-1, size)
        above = (times @ counts.astype(np.float32)).astype(float)[:, ::-1].cumsum(1)
        rates.append(above / above[:, -1:])
    return {name: area(rates[0], rates[kind], limit) for name, (kind, limit) in curves.items()}


def area(x: Array, y: Array, limit: float) -> Array:
    """Integrate piecewise linear curves ``(D, n)`` from (0, 0) up to ``limit``, divided by ``limit``: ``(D,)``."""
    x, y = (np.pad(np.atleast_2d(values), ((0, 0), (1, 0))) for values in (x, y))
    inside, step = np.diff(np.minimum(x, limit)), np.diff(x)
    share = np.divide(inside, step, out=np.zeros_like(step), where=step > 0)  # of each piece: 1, 0, or where it is cut
    return (inside * (y[:, :-1] + share * np.diff(y) / 2)).sum(1) / limit


def interval(draws: ArrayLike) -> tuple[float, float]:
    """Compute the ends of the 95 % interval of a metric or of a difference from its draws: their percentiles."""
    low, high = np.quantile(np.asarray(draws), (0.025, 0.975))
    return float(low), float(high)


def with_intervals(row: Mapping[str, Any], draws: Mapping[str, ArrayLike]) -> dict[str, Any]:
    """Put ``<metric>_low`` and ``<metric>_high`` behind each metric of a row that has draws."""
    result: dict[str, Any] = {}
    for name, value in row.items():
        result[name] = value
        if name in draws:
            result[name + LOW], result[name + HIGH] = interval(draws[name])
    return result
