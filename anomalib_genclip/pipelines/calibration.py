# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Thresholds with a known rate of false alarms, from normal images alone."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from anomalib_genclip.callbacks.reference_images import draw_references
from anomalib_genclip.components.references import UNNAMED
from anomalib_genclip.data.images import FileFaults
from anomalib_genclip.data.normal_images import NormalImages, images_of_datamodule, images_of_folder
from anomalib_genclip.inferencer import Inferencer
from anomalib_genclip.lightning_model import GenCLIP
from anomalib_genclip.processing.post_processor import RawScorePostProcessor
from anomalib_genclip.utils.files import file_hash
from anomalib_genclip.utils.messages import summarize
from anomalib_genclip.utils.settings import OpenUnitFloat, checked


def conformal_threshold(scores: Tensor, false_alarm_rate: float) -> Tensor:
    """Compute the threshold of split conformal prediction: the ``ceil((n + 1)(1 - a))``-th smallest score of ``(n,)``.

    If a new score is exchangeable with those of the ``n`` normal images, it is greater than the threshold with a
    probability of at most the rate ``a``, in the mean over all sets. A ``ValueError`` says how many are needed.
    """
    rate, count = Fraction(str(false_alarm_rate)), len(scores)  # exact: 0.05 is no sum of powers of 2
    rank = ceil((count + 1) * (1 - rate))
    if rank > count:
        what = f"at least {ceil(1 / rate) - 1} normal images, and there are {count}"
        way = f"give more images, or a rate of at least {ceil(1e4 / (count + 1)) / 1e4}"
        msg = f"false_alarm_rate={false_alarm_rate} needs {what}: {way}."
        raise ValueError(msg)
    return scores.sort().values[rank - 1]


def calibrate(
    inferencer: Inferencer, normal: LightningDataModule | str | Path, false_alarm_rate: float = 0.01
) -> dict[str, float]:
    """Set image and pixel threshold from normal images, by split conformal prediction.

    Of new images from the same production, at most the given share is expected to score above the image threshold
    and, likewise, to have a pixel above the pixel threshold. Later validations of the model keep the thresholds.
    References that the model asks for (``k_shot``) are drawn first.

    Args:
        inferencer (Inferencer): The model, which then has the new thresholds, ``image`` and ``pixel``, and saves them.
        normal (LightningDataModule | str | Path): Folder of normal images that were neither trained on nor are
            references; or a datamodule of one category, whose normal training images are used without the references.
        false_alarm_rate (float): ``a``, between 0 and 1. Defaults to ``0.01``.

    Raises:
        ValueError: For too few or unusable images, references among them, several categories, or own post-processing.
    """
    rate = checked("false_alarm_rate", false_alarm_rate, OpenUnitFloat)
    model: Any = inferencer.model
    if model is not None and not isinstance(model.post_processor, RawScorePostProcessor):
        msg = "calibrate sets thresholds on raw scores: the model needs the default post_processor."
        raise ValueError(msg)
    of_datamodule = isinstance(normal, LightningDataModule)
    category, images, source = _normal_images(normal)
    rows = range(len(images.files)) if model is None else _without_references(model, category, images, of_datamodule)
    conformal_threshold(torch.zeros(len(rows)), rate)  # raises before anything is computed
    values, faults = [], FileFaults()
    for row in rows:
        pixels, file = images.read(row, faults), images.files[row]
        batch, size = inferencer.transform(pixels)[None], (pixels.shape[1], pixels.shape[2])
        (record,) = inferencer.predict_batch(batch, [file], [size], [category or None])
        if record.error:
            raise ValueError(record.error)
        values.append((record.score or 0.0, float(np.max(np.asarray(record.anomaly_map))), record.gray_value))
    faults.report()
    scores, highest, gray_values = zip(*values, strict=True)
    both = {"image": torch.tensor(scores), "pixel": torch.tensor(highest)}
    thresholds = {name: conformal_threshold(own, rate) for name, own in both.items()}
    found = {f"{name}_threshold": float(threshold) for name, threshold in thresholds.items()}
    note: dict[str, Any] = {"false_alarm_rate": rate, "normal_images": len(rows), "source": source}
    note |= {"scores": sorted(scores), "gray_values": gray_values, "image_threshold": found["image_threshold"]}
    if model is None:
        note["class_name"] = inferencer.class_name
    else:
        note["ignore_mask"] = model.model.ignore_mask.digest(())
        given = inferencer.given_name or model.names.given
        name = note["class_name"] = replace(model.names, given=given).name_of(category or None)
        model.post_processor.set_thresholds(**thresholds, calibration=note)
        model.names = replace(model.names, of_file=name)
        model.model.set_default_class(model.names.name_of(None))  # of exports
    inferencer.set_thresholds({**found, "calibration": note})
    return {name: float(threshold) for name, threshold in thresholds.items()}


def _without_references(model: GenCLIP, category: str, images: NormalImages, of_datamodule: bool) -> Sequence[int]:
    """Return the indices of the images that are no references, which are drawn from those of a datamodule first."""
    references = model.model.references
    if model.k_shot and model.hparams["few_shot_source"] is None:  # else the inferencer has drawn them
        if of_datamodule:
            draw_references(model, {category: images})
        elif not references.memories:
            msg = f"k_shot={model.k_shot} has nothing to draw from: give few_shot_source."
            raise ValueError(msg)
    known = {image for memory in references.memories for image in memory.images}
    shared = {row for row, file in enumerate(images.files) if known and file_hash(file) in known}
    if shared and not of_datamodule:
        names = summarize(images.files[row] for row in sorted(shared))
        msg = f"References are among the normal images ({len(shared)}), and score too low: {names}. Give other images."
        raise ValueError(msg)
    return [row for row in range(len(images.files)) if row not in shared]


def _normal_images(normal: LightningDataModule | str | Path) -> tuple[str, NormalImages, str]:
    """Find the normal images: their category, themselves, and the name of their source."""
    if not isinstance(normal, LightningDataModule):
        return UNNAMED, images_of_folder(str(normal), "normal"), Path(normal).name
    normal.prepare_data()
    normal.setup(TrainerFn.FITTING)  # with the trainer's own stage, so that a later test does not split again
    found, source = images_of_datamodule(normal), str(getattr(normal, "name", ""))
    if len(found) > 1:
        names = summarize(category for category, _ in found)
        msg = f"calibrate takes the images of one category, and {source} has {len(found)}: {names}."
        raise ValueError(msg)
    return *found[0], source
