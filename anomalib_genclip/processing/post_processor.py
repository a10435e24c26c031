# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Post-processor with thresholds on raw scores."""

import logging
from collections.abc import Iterable
from math import nan
from typing import Any

import torch
from anomalib.post_processing import PostProcessor
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from anomalib_genclip.utils.settings import UnitFloat, checked

logger = logging.getLogger(__name__)

NATURAL_THRESHOLD = 0.5  # scores are probabilities
OTHER_PRODUCT = "The thresholds were calibrated for %r and may not hold for %r: calibrate again."


class RawScorePostProcessor(PostProcessor):
    """Apply thresholds to unnormalized scores.

    anomalib's normalization clamps scores to the range seen in validation. GenCLIP validates on the source and is
    tested on other data, where shifted scores would collapse into ties; its scores are in [0, 1] anyway. anomalib's
    own class with ``enable_normalization=False`` computes thresholds, but its labels use 0.5.

    Args:
        image_threshold (float | None): Image score above which an image is anomalous. Defaults to ``None``: that of
            the weights, else the one found in validation, else 0.5.
        pixel_threshold (float | None): The same for the map. Defaults to ``None``.
        enable_thresholding (bool): Whether to predict labels and masks. Defaults to ``True``.
        enable_threshold_matching (bool): Whether one threshold replaces the other, missing one. Defaults to ``True``.
        image_sensitivity (float): 0.5, the default, uses the threshold as it is; 0.1 more lowers it by 0.1.
        pixel_sensitivity (float): The same for the mask.
    """

    def __init__(
        self,
        image_threshold: UnitFloat | None = None,
        pixel_threshold: UnitFloat | None = None,
        enable_thresholding: bool = True,
        enable_threshold_matching: bool = True,
        image_sensitivity: float = 0.5,
        pixel_sensitivity: float = 0.5,
    ) -> None:
        super().__init__(
            enable_normalization=False,
            enable_thresholding=enable_thresholding,
            enable_threshold_matching=enable_threshold_matching,
            image_sensitivity=image_sensitivity,
            pixel_sensitivity=pixel_sensitivity,
        )
        self.given = {
            "image": checked("image_threshold", image_threshold, UnitFloat | None),
            "pixel": checked("pixel_threshold", pixel_threshold, UnitFloat | None),
        }
        self.reset()

    def reset(self) -> None:
        """Forget all thresholds but the given ones; later validations find others."""
        self.set_thresholds()
        self.keep_thresholds = any(value is not None for value in self.given.values())

    def set_thresholds(
        self, image: Tensor | float = nan, pixel: Tensor | float = nan, calibration: dict[str, Any] | None = None
    ) -> None:
        """Set thresholds where none was given, and keep them: anomalib validates zero-shot models before each test."""
        given = self.given
        self._image_threshold.fill_(image if given["image"] is None else given["image"])
        self._pixel_threshold.fill_(pixel if given["pixel"] is None else given["pixel"])
        self.keep_thresholds = True
        self._warned_of: set[str] = set()
        self.calibration = calibration if given["image"] is None and given["pixel"] is None else None

    def check_product(self, names: Iterable[str]) -> None:
        """Warn once for each class name that the thresholds were not calibrated for."""
        known = self.calibration and self.calibration["class_name"]
        for name in {*names} - {known, *self._warned_of} if known else ():
            self._warned_of.add(name)
            logger.warning(OTHER_PRODUCT, known, name)

    def raw_thresholds(self) -> dict[str, Tensor]:
        """Return the thresholds as arguments of :meth:`set_thresholds`; NaN for none."""
        return {"image": self._image_threshold, "pixel": self._pixel_threshold}

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args, **kwargs) -> None:
        """Collect scores for the thresholds, unless they were set."""
        if not self.keep_thresholds:
            super().on_validation_batch_end(trainer, pl_module, *args, **kwargs)

    @property
    def normalized_image_threshold(self) -> Tensor:
        """Threshold on the image score."""
        if self.enable_normalization:  # anomalib's tiled ensemble sets it
            return super().normalized_image_threshold
        return self._shifted(self.image_threshold, self.image_sensitivity)

    @property
    def normalized_pixel_threshold(self) -> Tensor:
        """Threshold on the anomaly map."""
        if self.enable_normalization:
            return super().normalized_pixel_threshold
        return self._shifted(self.pixel_threshold, self.pixel_sensitivity)

    @staticmethod
    def _shifted(threshold: Tensor, sensitivity: float) -> Tensor:
        threshold = torch.where(torch.isnan(threshold), torch.full_like(threshold, NATURAL_THRESHOLD), threshold)
        return threshold + (0.5 - sensitivity)  # by default exactly the threshold
