# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Answers to what a visitor of the page does."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import numpy as np
from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_upload_folder
from PIL import Image

from . import drawing, tables, texts
from .detector import Detector, Finding
from .examples import Example
from .uploads import MAX_IMAGES, MAX_REFERENCES

OPACITY = 0.8  # to start with
_PANEL_SIDE, _THUMBNAIL_SIDE = 480, 240

Pictures = list[tuple[Image.Image, str]]  # with captions


@dataclass(frozen=True)
class Session:
    """What a visitor looks at.

    Args:
        findings (tuple[Finding, ...]): The scored images.
        selected (int): Which of them is shown.
    """

    findings: tuple[Finding, ...] = ()
    selected: int = 0


class View(NamedTuple):
    """What depends on the sliders."""

    verdict: str
    picture: str | None
    images: list[list[Any]]
    regions: list[list[Any]]
    saved_picture: str | None
    saved_scores: str | None
    saved_regions: str | None


class Details(NamedTuple):
    """What the score of the selected image is based on."""

    class_name: str
    parts: str
    branches: Pictures
    layers: Pictures


class Answers:
    """Answers to what a visitor does, as values of the page's components.

    Args:
        detector (Detector): The model.
        examples (Sequence[Example]): Images to start with; the first one is scored at once.

    Raises:
        ValueError: If the first example cannot be scored.
    """

    def __init__(self, detector: Detector, examples: Sequence[Example]) -> None:
        self.detector = detector
        self.examples = examples
        first = examples[0]
        self.first = Session((detector.examine(first.path, first.class_name),))

    def score(
        self,
        images: list[str] | None,
        class_name: str | None,
        references: list[str] | None,
        image_threshold: float,
        pixel_threshold: float,
        opacity: float,
    ) -> tuple[Any, ...]:
        """Score images."""
        images, references, name = images or [], references or [], (class_name or "").strip()
        found = [self._examine(path, name, references[:MAX_REFERENCES]) for path in images[:MAX_IMAGES]]
        session = Session(tuple(one for one in found if isinstance(one, Finding)))
        messages = [one for one in found if isinstance(one, str)]
        if len(images) > MAX_IMAGES:
            messages.append(f"Only the first {MAX_IMAGES} of {len(images)} images are scored. Use `genclip predict`.")
        if len(references) > MAX_REFERENCES:
            messages.append(f"Only the first {MAX_REFERENCES} of {len(references)} good parts are used.")
        problems = gr.HTML(texts.problems(list(dict.fromkeys(messages))), visible=bool(messages))
        strip = [(_scaled(found.picture, _THUMBNAIL_SIDE), _caption(found)) for found in session.findings]
        several = len(strip) > 1
        gallery = gr.Gallery(strip if several else [], visible=several, selected_index=0 if several else None)
        view = self.view(session, image_threshold, pixel_threshold, opacity)
        return session, problems, gallery, *view, *self.explain(session)

    def _examine(self, path: str, class_name: str, references: list[str]) -> Finding | str:
        """Score an image, or say why it cannot be scored."""
        try:
            return self.detector.examine(path, class_name, references)
        except ValueError as error:
            return str(error)

    def choose(self, event: gr.SelectData) -> tuple[list[str], str, bool]:
        """Give an example to the page's inputs."""
        example = self.examples[event.index]
        return [example.path], example.class_name, True

    def reset(self, references: list[str] | None) -> tuple[float, float]:
        """Return the thresholds to start with."""
        image, pixel = self.detector.thresholds(references=bool(references))
        return round(image, 3), round(pixel, 3)  # what the sliders can show

    def rename(self, class_name: str, is_example: bool) -> tuple[str, bool]:
        """Replace the class name of an example: it does not fit the visitor's own images."""
        return (self.detector.class_name if is_example else class_name), False

    def select(
        self, event: gr.SelectData, session: Session, image_threshold: float, pixel_threshold: float, opacity: float
    ) -> tuple[Any, ...]:
        """Show another image."""
        session = Session(session.findings, event.index)
        view = self.view(session, image_threshold, pixel_threshold, opacity)
        return session, *view, *self.explain(session)

    @staticmethod
    def view(session: Session, image_threshold: float, pixel_threshold: float, opacity: float) -> View:
        """Show the selected image with thresholds and opacity."""
        if not session.findings:
            return View(texts.NOTHING, None, [], [], None, None, None)
        records = [finding.judged(image_threshold, pixel_threshold) for finding in session.findings]
        finding, record = session.findings[session.selected], records[session.selected]
        assert record.anomaly_map is not None
        picture = drawing.outlined(drawing.heat_map(finding.picture, record.anomaly_map, opacity), record)
        saved = _saved(_jpeg(picture), f"{Path(record.name).stem}_anomaly_map.jpg")
        return View(
            texts.verdict(record),
            saved,
            tables.image_rows(records),
            tables.region_rows(record),
            saved,
            _saved(tables.scores_csv(records), "scores.csv"),
            _saved(tables.regions_csv(records), "regions.csv"),
        )

    def explain(self, session: Session) -> Details:
        """Explain the score of the selected image."""
        if not session.findings:
            return Details("", "", [], [])
        finding = session.findings[session.selected]
        layers = finding.decision.layers
        maps = {title: np.mean([grid.numpy() for grid in own.values()], axis=0) for title, own in layers.items()}
        if finding.decision.distance is not None:
            maps["distance to the references"] = finding.decision.distance.numpy()
        maps["anomaly map"] = finding.decision.anomaly_map.numpy()
        return Details(
            texts.class_name(finding.decision, filtering=self.detector.filters_class_names),
            texts.score_parts(finding.decision),
            [_panel(finding, title, values) for title, values in maps.items()],
            [],
        )

    @staticmethod
    def layers(session: Session) -> Pictures:
        """Show the layer-wise maps of the selected image."""
        if not session.findings:
            return []
        finding = session.findings[session.selected]
        branches = finding.decision.layers.items()
        maps = {f"layer {layer}, {title}": grid for title, own in branches for layer, grid in own.items()}
        return [_panel(finding, title, grid.numpy()) for title, grid in maps.items()]


def _caption(finding: Finding) -> str:
    return f"{finding.record.score:.3f} {finding.record.name}"


def _panel(finding: Finding, title: str, values: np.ndarray) -> tuple[Image.Image, str]:
    """Draw one of several maps of an image, with its range."""
    picture = drawing.heat_map(_scaled(finding.picture, _PANEL_SIDE), values, OPACITY)
    return picture, f"{title}, {values.min():.2f} to {values.max():.2f}"


def _scaled(picture: Image.Image, side: int) -> Image.Image:
    """Return a smaller copy of a picture."""
    picture = picture.copy()
    picture.thumbnail((side, side))
    return picture


def _jpeg(picture: Image.Image) -> bytes:
    content = io.BytesIO()
    picture.save(content, format="jpeg", quality=90)
    return content.getvalue()


def _saved(content: bytes, name: str) -> str:
    """Write a file where gradio serves it from, and where it is removed in time."""
    return save_bytes_to_cache(content, name, get_upload_folder())
