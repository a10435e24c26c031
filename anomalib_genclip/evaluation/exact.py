# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""anomalib's own metrics, computed from all scores."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from anomalib.metrics import AUPR, AUPRO, AUROC, AnomalibMetric, F1Max
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import binary_roc


def _compute(metric_class: type[AnomalibMetric], scores: Tensor, targets: Tensor) -> float:
    """Compute one metric in this process only."""
    metric: Any = metric_class(fields=["scores", "targets"])
    for part in metric.modules():  # F1Max contains a second metric, which would also wait for other processes
        if isinstance(part, Metric):
            part.distributed_available_fn = _not_distributed
    metric.update(SimpleNamespace(scores=scores, targets=targets))
    return float(metric.compute())


def _not_distributed() -> bool:
    """Return ``False``, so that a metric does not wait for other processes."""
    return False


def _into_unit_range(scores: Tensor) -> Tensor:
    """Scale scores to [0, 1]; scores in [0, 1] are not changed.

    AUROC and AUPR apply a sigmoid to scores outside of [0, 1], which saturates.
    """
    low, high = scores.min(), scores.max()
    return scores if low >= 0 and high <= 1 else (scores - low) / (high - low).clamp(min=1e-30)


def image_metrics(scores: Tensor, labels: Tensor) -> dict[str, float]:
    """Compute AUROC, AP and F1Max.

    Args:
        scores (Tensor): Scores of any shape, finite.
        labels (Tensor): Boolean labels of the same shape; both values must occur.

    Returns:
        dict[str, float]: Values by metric.
    """
    scores = _into_unit_range(scores)
    classes = {"AUROC": AUROC, "AP": AUPR, "F1Max": F1Max}
    return {name: _compute(metric_class, scores, labels) for name, metric_class in classes.items()}


def pixel_metrics(maps: Tensor, masks: Tensor) -> dict[str, float]:
    """Compute AUROC, AUPRO, AP and F1Max.

    Args:
        maps (Tensor): Anomaly maps of shape (B, H, W), finite.
        masks (Tensor): Boolean masks of shape (B, H, W); both values must occur.

    Returns:
        dict[str, float]: Values by metric.
    """
    return image_metrics(maps, masks) | {"AUPRO": _compute(AUPRO, maps, masks)}


def miss_rates(scores: Tensor, labels: Tensor, false_alarm_rates: Sequence[float]) -> list[float]:
    """Compute the false negative rates at given false positive rates, interpolated linearly on the ROC curve.

    Args:
        scores (Tensor): Image scores, ``(n,)``, finite.
        labels (Tensor): Boolean labels, ``(n,)``, with both values present.
        false_alarm_rates (Sequence[float]): The false positive rates.

    Returns:
        list[float]: A false negative rate for each of them.
    """
    false_positive, true_positive, _ = binary_roc(_into_unit_range(scores), labels.int())
    return (1 - np.interp(false_alarm_rates, false_positive, true_positive)).tolist()
