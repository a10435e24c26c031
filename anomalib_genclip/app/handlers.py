# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Event handlers of the page: gradio calls them with the values of components, and they return new ones."""

from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd
from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_upload_folder

from anomalib_genclip.components.anomaly_map import TOP_SHARE
from anomalib_genclip.components.class_names import GENERIC
from anomalib_genclip.pipelines.explain import BRANCH_TITLES, describe
from anomalib_genclip.prediction.image_files import encoded
from anomalib_genclip.prediction.output import COLUMNS, REGION_COLUMNS, region_rows, score_row
from anomalib_genclip.processing.post_processor import NATURAL_THRESHOLD

from . import drawing
from .scoring import ScoredImage, Scorer, with_thresholds
from .uploads import MAX_IMAGES, MAX_REFERENCES

OPACITY = 0.8  # to start with
_COLORS = {True: "#e69f00", False: "#56b4e9"}  # anomalous, normal; color-blind people tell them apart
_SHOWN_COLUMNS = ["path", "score", "label", "regions", "class_name"]
_SHOWN_REGION_COLUMNS = ["path", "region", "score", "x", "y", "width", "height", "area"]
_PART_COLUMNS = ["part", "value", "weight"]


class Handlers:
    """Handlers of the events that need the model. Examples that the weights are not for are left out."""

    def __init__(self, scorer: Scorer, examples: list[tuple[str, str]]) -> None:
        self.scorer = scorer
        known = scorer.products
        self.examples = [(path, name) for path, name in examples if not known or name in known]
        self.class_name = next(filter(None, known), GENERIC)
        self._first = scorer.score([self.examples[0][0]], self.examples[0][1]) if self.examples else ([], [])

    def open(self, *sliders: float) -> tuple[Any, ...]:
        """Show the first example; without one, nothing."""
        return _show(*self._first, *sliders)

    def score(
        self,
        images: list[str] | None,
        class_name: str | None,
        references: list[str] | None,
        ignore_mask: list[str] | None,
        image_threshold: float,
        pixel_threshold: float,
        opacity: float,
    ) -> tuple[Any, ...]:
        """Score images. The names of the arguments are those of the HTTP API."""
        images, references, name = images or [], references or [], (class_name or "").strip()
        if not (images or references) and self.examples and name == self.examples[0][1]:
            images = [self.examples[0][0]]  # is shown when the page opens
        found, problems = self.scorer.score(images[:MAX_IMAGES], name or None, references[:MAX_REFERENCES], ignore_mask)
        if len(images) > MAX_IMAGES:
            problems.append(f"Only the first {MAX_IMAGES} of {len(images)} images are scored. Use `genclip predict`.")
        if len(references) > MAX_REFERENCES:
            problems.append(f"Only the first {MAX_REFERENCES} of {len(references)} good parts are used.")
        return _show(found, problems, image_threshold, pixel_threshold, opacity)

    def choose_example(self, event: gr.SelectData) -> tuple[list[str], str, str]:
        """Return image and class name of an example, and the name again to be recognized later."""
        path, name = self.examples[event.index]
        return [path], name, name

    def replace_class_name(self, class_name: str, of_example: str) -> tuple[str, str]:
        """Replace the class name of an example: it does not fit the visitor's own images."""
        return (self.class_name if class_name == of_example else class_name), ""

    def reset_thresholds(self, references: list[str] | None) -> tuple[float, float, str]:
        """Return the thresholds to start with, as precise as the sliders, and where they come from."""
        known, origin = self.scorer.thresholds, f"⚠ {self.scorer.alarm_level_note}"
        if references:  # scores are others than those that the weights' thresholds belong to
            known, origin = {}, "⚠ The alarm level is 0.5, not that of your product: `genclip calibrate` sets one."
        elif own := known["calibration"]:
            origin = f"The alarm level was calibrated for `{own['class_name']}`, with a rate of false alarms of"
            origin += f" {own['false_alarm_rate']:.3g}; number of normal images: {own['normal_images']}."
        image, pixel = (known.get(f"{name}_threshold", NATURAL_THRESHOLD) for name in ("image", "pixel"))
        return round(image, 3), round(pixel, 3), origin


def _show(images: list[ScoredImage], problems: list[str], *sliders: float) -> tuple[Any, ...]:
    """Show newly scored images, and the first one in full."""
    strip = [(one.picture.reduce(3), f"{one.record.score:.3f} {one.record.path}") for one in images if len(images) > 1]
    return (
        images,
        0,
        gr.Textbox("\n".join(problems), visible=bool(problems)),
        gr.Gallery(strip, visible=bool(strip), selected_index=0),
        *view(images, 0, *sliders),
        *explain(images[:1]),
    )


def select(event: gr.SelectData, images: list[ScoredImage], *sliders: float) -> tuple[Any, ...]:
    """Show another image."""
    return event.index, *view(images, event.index, *sliders), *explain(images[event.index :])


def view(
    images: list[ScoredImage], selected: int, image_threshold: float, pixel_threshold: float, opacity: float
) -> tuple[Any, ...]:
    """Show what depends on the sliders: label, summary, picture, tables of scores and regions, and their files."""
    records = [with_thresholds(image.record, image_threshold, pixel_threshold) for image in images]
    scores = pd.DataFrame([score_row(record) for record in records], columns=list(COLUMNS))
    regions = pd.DataFrame([row for record in records for row in region_rows(record)], columns=list(REGION_COLUMNS))
    tables = scores[_SHOWN_COLUMNS].round(3), regions[_SHOWN_REGION_COLUMNS].round(3)
    if not records:
        return gr.Label("Drop an image", label="", color=None), "", None, *tables, None, None
    record, picture = records[selected], images[selected].picture
    assert record.anomaly_map is not None
    drawn = drawing.draw_regions(drawing.heat_map(picture, record.anomaly_map, opacity), record)
    drawn = drawn if record.ignored is None else drawing.hatch(drawn, record.ignored)
    count = len(record.regions)
    summary = f"Image score **{record.score:.3f}**, threshold {image_threshold:.3f}"
    summary += f"; {count or 'no'} region{'' if count == 1 else 's'} above {pixel_threshold:.3f}"
    if record.p_value is not None:
        summary += f"; share of good parts with such a score: {record.p_value:.3f}"
    return (
        gr.Label(record.label, label=record.path, color=_COLORS[bool(record.anomalous)]),
        summary,
        _saved(encoded(drawn, "jpeg"), f"{Path(record.path).stem}_anomaly_map.jpg"),
        *tables,
        _saved(scores.to_csv(index=False).encode(), "scores.csv"),
        _saved(regions.to_csv(index=False).encode(), "regions.csv"),
    )


def explain(images: list[ScoredImage]) -> tuple[Any, ...]:
    """Explain the score of the first image: class name, parts of the score, maps."""
    if not images:
        return "", pd.DataFrame(columns=_PART_COLUMNS), []
    record, picture = images[0]
    parts: Any = record.parts
    rows = [
        (f"mean of the highest {TOP_SHARE:.0%} of the anomaly map", parts.top, f"{1 - parts.score_weight:.2f}"),
        ("whole image: CLS token with the learned prompts", parts.cls, f"{parts.score_weight:.2f}"),
        ("distance to the references, in multiples of the usual one", parts.cls_distance, "its root times the odds"),
        ("image score", record.score, ""),
    ]
    maps: dict[str, Any] = {BRANCH_TITLES[name]: grid for name, grid in parts.maps.items()}
    maps |= {"distance to the references": parts.distance, "anomaly map": record.anomaly_map}
    for name, layers in parts.layers.items():
        maps |= {f"layer {layer}, {BRANCH_TITLES[name]}": grid for layer, grid in layers.items()}
    small = picture.reduce(3)
    panels = [
        (drawing.heat_map(small, grid, OPACITY), f"{title}, {grid.min():.2f} to {grid.max():.2f}")
        for title, grid in maps.items()
        if grid is not None
    ]
    return describe(record).splitlines()[-1], pd.DataFrame(rows, columns=_PART_COLUMNS).dropna().round(3), panels


def canvas(images: list[ScoredImage], selected: int) -> tuple[dict[str, Any] | None, tuple[int, int]]:
    """Return what the editor shows, the picture and what does not count, and width and height of the image."""
    if not images:
        return None, (0, 0)
    record, picture = images[selected]
    layers = [] if record.ignored is None else [drawing.layer_of(picture, record.ignored)]
    return {"background": picture, "layers": layers, "composite": None}, (record.size[1], record.size[0])


def paint(painted: dict[str, Any] | None, size: tuple[int, int]) -> list[str] | None:
    """Save what is painted as a mask of the image's size; nothing if nothing is."""
    layers = painted and [layer.getchannel("A") for layer in painted["layers"]]
    if not layers or not all(size) or not layers[0].getbbox():
        return None
    mask = layers[0].resize(size).point(lambda alpha: 255 * (alpha > 127)).convert("1")
    return [_saved(encoded(mask), "ignore_mask.png")]


def _saved(content: bytes, name: str) -> str:
    """Write a file where gradio serves it from, and where it is removed in time."""
    return save_bytes_to_cache(content, name, get_upload_folder())
