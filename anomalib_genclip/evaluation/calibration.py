# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Thresholds with a known rate of false alarms, from normal images alone."""

from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from anomalib_genclip.callbacks.reference_images import ReferenceImages, preprocessed
from anomalib_genclip.components.class_names import GENERIC
from anomalib_genclip.components.references import UNNAMED
from anomalib_genclip.data.normal_images import NormalImages, file_hash, images_of_datamodule, images_of_folder
from anomalib_genclip.processing.post_processor import RawScorePostProcessor
from anomalib_genclip.utils.settings import OpenUnitFloat, checked
from anomalib_genclip.utils.text import summarize

if TYPE_CHECKING:
    from anomalib.models.components import AnomalibModule as _Module
else:
    _Module = object


def conformal_threshold(scores: Tensor, false_alarm_rate: float) -> Tensor:
    """Compute the threshold of split conformal prediction: the ``ceil((n + 1)(1 - a))``-th smallest score.

    If a new score is exchangeable with the ``n`` given ones, it is greater than the threshold with a probability of
    at most ``a``, in the mean over all sets of ``n`` scores.

    Args:
        scores (Tensor): Scores of normal images, ``(n,)``.
        false_alarm_rate (float): ``a``.

    Returns:
        Tensor: The threshold, ``()``.

    Raises:
        ValueError: If there are too few scores; says how many are needed.
    """
    rate, count = Fraction(str(false_alarm_rate)), len(scores)  # exact: 0.05 is no sum of powers of 2
    rank = ceil((count + 1) * (1 - rate))
    if rank > count:
        msg = (
            f"false_alarm_rate={false_alarm_rate} needs at least {ceil(1 / rate) - 1} normal images, and there are "
            f"{count}: give more images, or a rate of at least {ceil(1e4 / (count + 1)) / 1e4}."
        )
        raise ValueError(msg)
    return scores.sort().values[rank - 1]


class CalibrationMixin(_Module):
    """Calibrates thresholds. Mixed into :class:`~anomalib_genclip.lightning_model.GenCLIP`."""

    def calibrate(self, normal: LightningDataModule | str | Path, false_alarm_rate: float = 0.01) -> dict[str, float]:
        """Set image and pixel threshold from normal images, by split conformal prediction.

        Of new images from the same production, at most the given share is expected to score above the image threshold
        and, likewise, to have a pixel above the pixel threshold. Later validations keep the thresholds, and
        :meth:`save_weights` saves them.

        Args:
            normal (LightningDataModule | str | Path): Folder of normal images that were neither trained on nor are
                references; or a datamodule of one category, whose normal training images are used without the
                references.
            false_alarm_rate (float): ``a``, between 0 and 1. Defaults to ``0.01``.

        Returns:
            dict[str, float]: ``image`` and ``pixel`` threshold.

        Raises:
            ValueError: If there are too few images, references among them, several categories, or an image that cannot
                be used; or if the model has another post-processor than the default.
        """
        rate = checked("false_alarm_rate", false_alarm_rate, OpenUnitFloat)
        post_processor: Any = self.post_processor
        if not isinstance(post_processor, RawScorePostProcessor):
            msg = "calibrate sets thresholds on raw scores: the model needs the default post_processor."
            raise ValueError(msg)  # noqa: TRY004  # wrong settings are ValueErrors
        category, images, source = _normal_images(normal, self.class_name)
        self._draw_references(category, images if isinstance(normal, LightningDataModule) else None)
        rows = self._without_references(images, may_hold_some=isinstance(normal, LightningDataModule))
        conformal_threshold(torch.zeros(len(rows)), rate)  # raises before anything is computed
        scores, highest = self._scores(images, rows, category)
        thresholds = {"image": conformal_threshold(scores, rate), "pixel": conformal_threshold(highest, rate)}
        name = self.class_name or category or GENERIC
        note = {"false_alarm_rate": rate, "normal_images": len(rows), "source": source, "class_name": name}
        post_processor.set_thresholds(**thresholds, calibration=note)
        return {name: float(threshold) for name, threshold in thresholds.items()}

    def _draw_references(self, category: str, images: NormalImages | None) -> None:
        """Draw ``k_shot`` references, from ``few_shot_source`` or the given images.

        Raises:
            ValueError: If there is nothing to draw from.
        """
        if not self.product.k_shot:
            return
        if self.product.few_shot_source is not None:
            images = images_of_folder(self.product.few_shot_source, "few_shot_source")
        if images is not None:
            ReferenceImages(self.product, self.training_settings.seed).draw(self, {category: images})
        elif not self.model.references.memories:
            msg = f"k_shot={self.product.k_shot} has nothing to draw from: give few_shot_source."
            raise ValueError(msg)

    def _without_references(self, images: NormalImages, *, may_hold_some: bool) -> list[int]:
        """Return the indices of the images that are no references.

        Raises:
            ValueError: If there are references among them where there must be none.
        """
        references = {image for memory in self.model.references.describe() for image in memory["images"]}
        shared = [row for row, file in enumerate(images.files) if references and file_hash(file) in references]
        if shared and not may_hold_some:
            names = summarize(images.files[row] for row in shared)
            msg = (
                f"{len(shared)} of the normal images are references, whose scores are lower than those of new images: "
                f"{names}. Give other images."
            )
            raise ValueError(msg)
        return [row for row in range(len(images.files)) if row not in set(shared)]

    @torch.inference_mode()
    def _scores(self, images: NormalImages, rows: list[int], category: str) -> tuple[Tensor, Tensor]:
        """Predict one image after the other: image scores and the maps' highest values, each ``(n,)``."""
        self.eval()
        name = self.class_name or category or GENERIC
        classes = self.model.class_index([self.class_names.get(name, name)])
        references = self.model.references.index([category or None], self.class_name)
        results = []
        for row in rows:
            pixels = preprocessed(images.read(row), images.files[row], self)
            result = self.model(pixels, classes, references)
            results.append(torch.stack([result.pred_score[0], result.anomaly_map.max()]))
        scores, highest = torch.stack(results).cpu().unbind(dim=1)
        return scores, highest


def _normal_images(normal: LightningDataModule | str | Path, class_name: str | None) -> tuple[str, NormalImages, str]:
    """Find the normal images.

    Returns:
        tuple[str, NormalImages, str]: Category, images, and the name of folder or datamodule.

    Raises:
        ValueError: If there are none, or those of several categories.
    """
    if not isinstance(normal, LightningDataModule):
        return class_name or UNNAMED, images_of_folder(str(normal), "normal"), Path(normal).name
    normal.prepare_data()
    normal.setup(TrainerFn.FITTING)  # with the trainer's own stage, so that a later test does not split again
    found, source = images_of_datamodule(normal), str(getattr(normal, "name", ""))
    if len(found) > 1:
        names = summarize(category for category, _ in found)
        msg = f"calibrate takes the images of one category, and {source} has {len(found)}: {names}."
        raise ValueError(msg)
    return *found[0], source
