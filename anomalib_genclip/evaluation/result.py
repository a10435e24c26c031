# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The outcome of a test run: a figure per category and metric, and their means."""

from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

IMAGE_METRICS = ("image_AUROC", "image_AP", "image_F1Max")
PIXEL_METRICS = ("pixel_AUROC", "pixel_AUPRO", "pixel_AP", "pixel_F1Max")
METRIC_NAMES = IMAGE_METRICS + PIXEL_METRICS


@dataclass
class EvaluationResult:
    """Figures of a test run; a figure that is undefined is absent.

    Args:
        categories (dict[str, dict[str, float]]): Category to metric name to value in [0, 1].
        mode (str): How the pixel metrics were computed, ``"exact"`` or ``"streaming"``. Image metrics are always
            exact. Defaults to ``"exact"``.
        notes (list[str]): What a reader of the figures has to know: undefined cases, images left out.

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

    @property
    def mean(self) -> dict[str, float]:
        """Mean of each metric over the categories in which it is defined; absent if there is none."""
        defined = {name: [row[name] for row in self.categories.values() if name in row] for name in METRIC_NAMES}
        return {name: fmean(values) for name, values in defined.items() if values}

    @property
    def rows(self) -> list[tuple[str, dict[str, float]]]:
        """The categories' figures by name, and as ``"mean"`` their means."""
        return [*self.categories.items(), ("mean", self.mean)]

    def logged(self) -> dict[str, float]:
        """Every figure under the key it is logged with.

        Returns:
            dict[str, float]: The means under their metrics' names and, if there are several categories, each
                category's figures under ``category/metric``.
        """
        rows = self.categories if len(self.categories) > 1 else {}
        per_category = {f"{category}/{name}": value for category, row in rows.items() for name, value in row.items()}
        return self.mean | per_category

    def as_dict(self) -> dict[str, Any]:
        """The result as plain data, as it is written to ``metrics.json``."""
        return {"mean": self.mean, "categories": self.categories, "mode": self.mode, "notes": self.notes}
