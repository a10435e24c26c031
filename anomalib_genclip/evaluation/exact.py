# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""anomalib's own metrics on scores that are all at hand."""

from types import SimpleNamespace
from typing import Any

from anomalib.metrics import AUPR, AUPRO, AUROC, AnomalibMetric, F1Max
from torch import Tensor
from torchmetrics import Metric


def _compute(metric_class: type[AnomalibMetric], scores: Tensor, targets: Tensor) -> float:
    """Value of one metric, computed in this process alone."""
    metric: Any = metric_class(fields=["scores", "targets"])
    for part in metric.modules():  # F1Max keeps a second metric inside, which would wait for other processes too
        if isinstance(part, Metric):
            part.distributed_available_fn = _not_distributed
    metric.update(SimpleNamespace(scores=scores, targets=targets))
    return float(metric.compute())


def _not_distributed() -> bool:
    """What a metric is told that must not wait for other processes."""
    return False


def _into_unit_range(scores: Tensor) -> Tensor:
    """Scores in [0, 1], in the same order; unchanged if they are there already.

    AUROC and AUPR send other scores through a sigmoid, which makes large ones equal.
    """
    low, high = scores.min(), scores.max()
    return scores if low >= 0 and high <= 1 else (scores - low) / (high - low).clamp(min=1e-30)


def image_metrics(scores: Tensor, labels: Tensor) -> dict[str, float]:
    """AUROC, AP and F1Max of scores against labels.

    Args:
        scores (Tensor): Scores of any shape, finite.
        labels (Tensor): Boolean labels of the same shape, with both values among them.

    Returns:
        dict[str, float]: Value per metric.
    """
    scores = _into_unit_range(scores)
    classes = {"AUROC": AUROC, "AP": AUPR, "F1Max": F1Max}
    return {name: _compute(metric_class, scores, labels) for name, metric_class in classes.items()}


def pixel_metrics(maps: Tensor, masks: Tensor) -> dict[str, float]:
    """AUROC, AUPRO, AP and F1Max of maps against masks.

    Args:
        maps (Tensor): Anomaly maps of shape (B, H, W), finite.
        masks (Tensor): Boolean masks of shape (B, H, W), with both values among them.

    Returns:
        dict[str, float]: Value per metric.
    """
    return image_metrics(maps, masks) | {"AUPRO": _compute(AUPRO, maps, masks)}
