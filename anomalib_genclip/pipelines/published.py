# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Published zero-shot results, by the name of the target's datamodule: means over categories, in [0, 1]."""

from typing import NamedTuple


class Published(NamedTuple):
    """A published result.

    Args:
        model (str): The method.
        source (str): Where the values are from.
        metrics (dict[str, float]): Published values in [0, 1].
    """

    model: str
    source: str
    metrics: dict[str, float]


_WINCLIP = "published (abstract, arXiv 2303.14814)"
_ANOMALY_CLIP = "published (logs in its repository)"


def _anomaly_clip(image_auroc: float, image_ap: float, pixel_auroc: float, pixel_aupro: float) -> Published:
    metrics = {
        "image_AUROC": image_auroc,
        "image_AP": image_ap,
        "pixel_AUROC": pixel_auroc,
        "pixel_AUPRO": pixel_aupro,
    }
    return Published("AnomalyCLIP", _ANOMALY_CLIP, metrics)


PUBLISHED = {
    "MVTecAD": (
        Published("WinCLIP", _WINCLIP, {"image_AUROC": 0.918, "pixel_AUROC": 0.851}),
        _anomaly_clip(0.916, 0.964, 0.911, 0.814),
    ),
    "Visa": (
        Published("WinCLIP", _WINCLIP, {"image_AUROC": 0.781, "pixel_AUROC": 0.796}),
        _anomaly_clip(0.820, 0.853, 0.955, 0.867),
    ),
}
