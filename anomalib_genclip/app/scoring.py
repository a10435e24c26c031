# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Scores of uploaded images, compared with a visitor's good parts if there are some."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torchvision.transforms.v2.functional import to_pil_image

from anomalib_genclip.callbacks.reference_images import draw_references
from anomalib_genclip.components.ignore_mask import IgnoreMask
from anomalib_genclip.components.references import UNNAMED
from anomalib_genclip.data.images import FileFaults
from anomalib_genclip.data.normal_images import NormalImages
from anomalib_genclip.evaluation.good_parts import SOURCE_NOTE
from anomalib_genclip.inferencer import Inferencer
from anomalib_genclip.persistence.export_metadata import thresholds_of
from anomalib_genclip.processing.post_processor import OTHER_PRODUCT, RawScorePostProcessor
from anomalib_genclip.records import Record
from anomalib_genclip.torch_model import set_ignore_mask

from .uploads import read_upload

_PICTURE_SIDE = 960  # of a picture on the page, the longer one


class ScoredImage(NamedTuple):
    """A record, whose path is the file's name, and the image as the page shows it."""

    record: Record
    picture: Image.Image


class Scorer:
    """Scores the images of all visitors, one after the other.

    ``pretrained`` are CLIP's weights if they are others than the prompts file says. ``thresholds`` are those of the
    weights, and their ``calibration``; ``alarm_level_note`` is ``""`` if they have one. ``products`` are the class
    names that the weights are for, ``""`` for an unknown one; empty for all. Errors are those of the inferencer, and a
    ``ValueError`` for an exported model, which does not explain its scores.
    """

    def __init__(self, weights: str, pretrained: str | None = None) -> None:
        self.inferencer = Inferencer(weights, precision="float32", pretrained=pretrained)
        if self.inferencer.model is None:
            msg = f"{weights} is an exported model, which does not explain its scores: give its prompts file."
            raise ValueError(msg)
        self.model = self.inferencer.model
        self.thresholds = thresholds_of(self.model)
        self.alarm_level_note = SOURCE_NOTE if self.inferencer.alarm_level == "source" else ""
        own = self.model.model.references
        self._own_references = dict(zip(own.categories, own.memories, strict=True))
        names = (self.inferencer.class_name, *own.categories)
        self.products = list(dict.fromkeys(name for name in names if name is not None))
        self._lock = Lock()  # a visitor's references replace others for a while

    def score(
        self,
        paths: Sequence[str],
        class_name: str | None = None,
        references: Sequence[str] = (),
        ignore_masks: Sequence[str] | None = None,
    ) -> tuple[list[ScoredImage], list[str]]:
        """Score image files, with what a visitor gives instead of what the weights have.

        ``references`` are good parts to compare with. ``ignore_masks`` are white where pixels do not count: one for all
        images, or one of each image's name. Returns images with scores; and what to know of all files, each once.
        """
        scored, problems, faults = list[ScoredImage](), list[str](), FileFaults()
        files = [*paths, *references, *(ignore_masks or ())]
        with self._lock, ExitStack() as stack:
            try:
                if ignore_masks:
                    files.append(self._leave_out(ignore_masks, [*paths, *references], stack))
                if references:
                    stack.enter_context(self._compared_with(list(references)))
                self.model.look_up([None], class_name)  # raises once for all images
            except ValueError as error:
                return [], [_without_folders(error, files)]
            product = (self.inferencer.calibration or {}).get("class_name")
            problems += filter(None, [self.model.model.ignore_mask.note_on(self.inferencer.calibration)])
            for path in paths:
                try:
                    pixels = read_upload(path, found := list[str]())
                    given: Any = self.inferencer.transform(pixels)[None], [path], [pixels.shape[1:]], [None]
                    (record,) = self.inferencer.predict_batch(*given, class_name=class_name, parts=True)
                    if record.error:
                        raise ValueError(record.error)  # noqa: TRY301  # as that of a file
                except ValueError as error:
                    problems.append(_without_folders(error, files))
                    continue
                used = record.parts and record.parts.class_name
                if product and used != product:
                    problems.append(OTHER_PRODUCT % (product, used))
                faults.add(Path(path).name, found)
                picture = to_pil_image(pixels)
                scale = _PICTURE_SIDE / max(picture.size)
                shown = picture.resize([max(1, round(side * scale)) for side in picture.size])
                scored.append(ScoredImage(replace(record, path=Path(path).name), shown))
        return scored, list(dict.fromkeys([*problems, *faults.lines().values()]))

    def _leave_out(self, masks: Sequence[str], images: Sequence[str], stack: ExitStack) -> str:
        """Use a visitor's masks instead of that of the weights until the stack is closed; return their folder."""
        model, folder = self.model.model, stack.enter_context(TemporaryDirectory(prefix="masks-"))
        named, wanted = {Path(mask).stem: mask for mask in masks}, {Path(image).stem for image in images}
        for name in named.keys() & wanted if len(masks) > 1 else named:
            read_upload(named[name])  # checks format and size
            copyfile(named[name], Path(folder, f"{name}.png"))
        stack.callback(setattr, model, "ignore_mask", model.ignore_mask)
        model.ignore_mask = IgnoreMask()
        set_ignore_mask(model, folder if len(masks) > 1 else masks[0])
        return folder

    @contextmanager
    def _compared_with(self, files: list[str]) -> Iterator[None]:
        """Compare images with a visitor's good parts, to which no thresholds belong, for a while."""
        model = self.model
        k_shot, post_processor = model.k_shot, model.post_processor
        try:
            model.k_shot, model.post_processor = len(files), RawScorePostProcessor()  # all are drawn
            images = NormalImages(files, lambda row, _: read_upload(files[row]).float() / 255)
            draw_references(model, {UNNAMED: images}, seed=0)
            self.inferencer.set_thresholds({})
            yield
        except ValueError as error:
            msg = f"Good part {error.__cause__ or error}"  # the cause names the file without its folder
            raise ValueError(msg) from error
        finally:
            model.k_shot, model.post_processor = k_shot, post_processor
            model.model.references.set(self._own_references)
            self.inferencer.set_thresholds(self.thresholds)


def _without_folders(error: ValueError, files: Sequence[str]) -> str:
    """Return the message with the names that a visitor knows."""
    message = str(error)
    for file in files:
        message = message.replace(file, Path(file).name)
    return message


def with_thresholds(record: Record, image_threshold: float, pixel_threshold: float) -> Record:
    """Return a record of a scored image with the label, mask and regions of other thresholds."""
    assert record.score is not None
    assert record.anomaly_map is not None
    return replace(
        record,
        anomalous=record.score > image_threshold,
        image_threshold=image_threshold,
        pixel_threshold=pixel_threshold,
        mask=record.anomaly_map > np.float32(pixel_threshold),
    )
