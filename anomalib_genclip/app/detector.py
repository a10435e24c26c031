# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The model behind the page."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from anomalib_genclip.callbacks.reference_images import ReferenceImages
from anomalib_genclip.components.class_names import GENERIC
from anomalib_genclip.components.references import UNNAMED
from anomalib_genclip.data.normal_images import NormalImages
from anomalib_genclip.pipelines.explain import Decision, decide
from anomalib_genclip.prediction.backends import TorchBackend, load_backend
from anomalib_genclip.prediction.records import Record, find_regions
from anomalib_genclip.prediction.settings import ScoringSettings
from anomalib_genclip.processing.post_processor import NATURAL_THRESHOLD

from .uploads import read_upload

_PICTURE_SIDE = 960  # of a picture on the page, the longer one


@dataclass(frozen=True)
class Finding:
    """What was found in an image.

    Args:
        record (Record): Score and anomaly map.
        decision (Decision): What they are based on, without the parts in the size of the model.
        picture (Image.Image): The image as the page shows it.
    """

    record: Record
    decision: Decision
    picture: Image.Image

    def judged(self, image_threshold: float, pixel_threshold: float) -> Record:
        """Apply thresholds."""
        record = self.record
        assert record.score is not None
        assert record.anomaly_map is not None
        mask = record.anomaly_map > np.float32(pixel_threshold)
        return replace(
            record,
            anomalous=record.score > image_threshold,
            image_threshold=image_threshold,
            pixel_threshold=pixel_threshold,
            mask=mask,
            regions=find_regions(mask, record.anomaly_map, record.size),
        )


class Detector:
    """Scores images one by one, whoever asks.

    Args:
        weights (str): A prompts file, a checkpoint, or ``"tiny-demo"``.
        pretrained (str | None): CLIP's weights, if they are others than the prompts file says.

    Raises:
        FileNotFoundError: If there are no such weights.
        ValueError: If they cannot be used, as those of an exported model.
    """

    def __init__(self, weights: str, pretrained: str | None = None) -> None:
        backend = load_backend(
            ScoringSettings(weights=weights, pretrained=pretrained, backend="torch", precision="float32")
        )
        assert isinstance(backend, TorchBackend)
        self.weights = weights
        self.backend = backend
        self.model = backend.lightning_model
        own = self.model.model.references
        self._own_references = dict(zip(own.categories, own.memories, strict=True))
        self._lock = Lock()  # the table of class names grows, and the references are replaced

    @property
    def class_name(self) -> str:
        """Class name that the model was built with."""
        return self.model.class_name or GENERIC

    @property
    def filters_class_names(self) -> bool:
        """Whether Class Name Filtering is on."""
        return self.model.model.class_name_filter and self.model.model.branches != "query"

    def thresholds(self, *, references: bool) -> tuple[float, float]:
        """Return the thresholds of the image score and of the anomaly map, which differ with a visitor's references."""
        if references:
            return NATURAL_THRESHOLD, NATURAL_THRESHOLD
        image, pixel = self.backend.image_threshold, self.backend.pixel_threshold
        assert image is not None
        assert pixel is not None
        return image, pixel

    def examine(self, path: str, class_name: str, references: Sequence[str] = ()) -> Finding:
        """Score an image.

        Args:
            path (str): The image file.
            class_name (str): What it shows; ``""`` for :attr:`class_name`.
            references (Sequence[str]): Image files of good parts to compare it with. Defaults to ``()``: those of the
                weights, if they have some.

        Raises:
            ValueError: If image, class name or references cannot be used; says why.
        """
        class_name = class_name or self.class_name
        pixels = read_upload(path)
        with self._lock:
            self._set_references(references)
            if reason := self.backend.why_no_class_name(class_name):
                raise ValueError(reason)
            decision = decide(self.model, pixels.float() / 255, class_name)
        record = Record(
            path=Path(path).name,
            name=Path(path).name,
            size=(pixels.shape[1], pixels.shape[2]),
            class_name=decision.used_name,
            class_name_filter=self._filtering(decision),
            score=decision.score,
            anomaly_map=decision.anomaly_map.float().numpy(),
        )
        # The page draws the branches from the layers, which are small.
        return Finding(record, decision._replace(image=torch.empty(0), maps={}), _picture(pixels))

    def _set_references(self, files: Sequence[str]) -> None:
        """Compare images with a visitor's references, or with those of the weights."""
        if not files:
            self.model.model.references.set(self._own_references)
            return
        product = replace(self.model.product, k_shot=len(files), few_shot_source=None)  # all are drawn
        images = NormalImages(list(files), lambda row: read_upload(files[row]).float() / 255)
        try:
            ReferenceImages(product, seed=0).draw(self.model, {UNNAMED: images})
        except ValueError as error:
            msg = f"Good part {error.__cause__ or error}"  # the cause names the file without its folder
            raise ValueError(msg) from error

    def _filtering(self, decision: Decision) -> str | None:
        """Say what Class Name Filtering did, as in the tables of `genclip predict`."""
        if not self.filters_class_names or decision.class_name == GENERIC:
            return None
        return "kept" if decision.used_name == decision.class_name else "replaced"


def _picture(pixels: Tensor) -> Image.Image:
    """Scale an image to what the page shows."""
    picture = to_pil_image(pixels)
    scale = _PICTURE_SIDE / max(picture.size)
    return picture.resize([max(1, round(side * scale)) for side in picture.size], Image.Resampling.BICUBIC)
