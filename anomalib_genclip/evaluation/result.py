# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Result of a test run: metrics per category, and their means."""

from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

IMAGE_METRICS = ("image_AUROC", "image_AP", "image_F1Max")
PIXEL_METRICS = ("pixel_AUROC", "pixel_AUPRO", "pixel_AP", "pixel_F1Max")
METRIC_NAMES = IMAGE_METRICS + PIXEL_METRICS
# Of images: normal ones that are labelled as anomalous and anomalous ones that are not, by the threshold in use; and
# the latter at thresholds with which 1 % and 5 % of the normal images are labelled as anomalous.
ERROR_RATES = ("false_alarm_rate", "miss_rate", "miss_rate_at_1", "miss_rate_at_5")


@dataclass
class EvaluationResult:
    """Metrics of a test run; undefined ones are absent.

    Args:
        categories (dict[str, dict[str, float]]): Values in [0, 1] by metric by category.
        mode (str): How the pixel metrics were computed, ``"exact"`` or ``"streaming"``. Image metrics are always
            exact. Defaults to ``"exact"``.
        notes (list[str]): Notes on undefined metrics and excluded images.
        rates (dict[str, dict[str, float]]): Values in [0, 1] by error rate by category.

    Example:
        >>> result = EvaluationResult({"bottle": {"image_AUROC": 0.9}, "cable": {"image_AUROC": 0.7}, "screw": {}})
        >>> result.mean
        {'image_AUROC': 0.8}
        >>> sorted(result.logged())
        ['bottle/image_AUROC', 'cable/image_AUROC', 'image_AUROC']
    """

    categories: dict[str, dict[str, float]]
    mode: str = "exact"
    notes: list[str] = field(default_factory=list)
    rates: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def mean(self) -> dict[str, float]:
        """Mean of each metric over the categories for which it is defined; absent if there are none."""
        return _means(self.categories, METRIC_NAMES)

    @property
    def mean_rates(self) -> dict[str, float]:
        """Mean of each error rate over the categories for which it is defined; absent if there are none."""
        return _means(self.rates, ERROR_RATES)

    @property
    def rows(self) -> list[tuple[str, dict[str, float]]]:
        """Categories and their metrics, followed by ``"mean"`` and the means."""
        return [*self.categories.items(), ("mean", self.mean)]

    def logged(self) -> dict[str, float]:
        """Return all values under the keys they are logged with.

        Returns:
            dict[str, float]: The means by metric and, if there are several categories, the values of each category
                by ``category/metric``.
        """
        rows = self.categories if len(self.categories) > 1 else {}
        per_category = {f"{category}/{name}": value for category, row in rows.items() for name, value in row.items()}
        return self.mean | per_category

    def as_dict(self) -> dict[str, Any]:
        """Return the result as plain data, the content of ``metrics.json``."""
        rates = {"mean": self.mean_rates, "categories": self.rates}
        return {
            "mean": self.mean,
            "categories": self.categories,
            "error_rates": rates,
            "mode": self.mode,
            "notes": self.notes,
        }


def _means(categories: dict[str, dict[str, float]], names: tuple[str, ...]) -> dict[str, float]:
    """Compute means over the categories that have a value."""
    defined = {name: [row[name] for row in categories.values() if name in row] for name in names}
    return {name: fmean(values) for name, values in defined.items() if values}
