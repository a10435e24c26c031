# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The page: its components, and which handler follows which event."""

from pathlib import Path
from typing import Any

import gradio as gr
from anomalib.data.utils.image import IMG_EXTENSIONS

from . import drawing, handlers
from .handlers import Handlers

_FILES: dict[str, Any] = {"file_count": "multiple", "file_types": sorted(IMG_EXTENSIONS)}
_MASKS: dict[str, Any] = {"file_count": "multiple", "file_types": [".png"], "interactive": True}
_MAPS: dict[str, Any] = {"interactive": False, "format": "jpeg", "buttons": [], "elem_classes": "genclip-gallery"}
_CHOICE: dict[str, Any] = {**_MAPS, "allow_preview": False}
_QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


class Page:
    """The page below a title in Markdown, with handlers of its events; gradio serves its ``blocks``."""

    def __init__(self, title: str, does: Handlers) -> None:
        # Files of visitors are checked every hour and kept for a day.
        self.blocks = gr.Blocks(title="GenCLIP", analytics_enabled=False, delete_cache=(3600, 86400))
        with self.blocks:
            gr.Markdown(title)
            image_threshold, pixel_threshold, origin = does.reset_thresholds([])
            self.alarm_level = gr.Markdown(origin, elem_id="alarm-level")
            with gr.Row():
                with gr.Column(scale=4, min_width=300):
                    self._add_inputs(does)
                with gr.Column(scale=7, min_width=300):
                    self._add_outputs(image_threshold, pixel_threshold)
            self._connect(does)

    def _add_inputs(self, does: Handlers) -> None:
        """Add what a visitor gives."""
        names = [name for _, name in does.examples]
        captions = [(path, Path(path).stem.replace("_", " ")) for path, _ in does.examples]
        self.images = gr.File(label="Images", height=150, elem_id="upload", **_FILES)
        self.class_name = gr.Dropdown(
            list(dict.fromkeys([does.class_name, *names])),
            value=next(iter(names), does.class_name),
            allow_custom_value=True,
            label="Class name",
            info='What the images show: choose or type, such as "metal nut".',
            elem_id="class-name",
        )
        self.of_example = gr.State("".join(names[:1]))  # class name that was not given by the visitor
        with gr.Accordion("Good parts to compare with (optional)", open=False, elem_id="good-parts"):
            self.references = gr.File(label="A few images without defects", height=120, elem_id="references", **_FILES)
        self.examples = gr.Gallery(
            captions, label="Examples", columns=3, visible=bool(names), elem_id="examples", **_CHOICE
        )

    def _add_outputs(self, image_threshold: float, pixel_threshold: float) -> None:
        """Add what a visitor sees, and the sliders."""
        self.problems = gr.Textbox(label="Notes", visible=False, interactive=False, elem_id="problems")
        label, summary = gr.Label(elem_id="label"), gr.Markdown(elem_id="summary")
        picture = gr.Image(show_label=False, interactive=False, elem_id="picture", buttons=["download", "fullscreen"])
        gr.HTML('<div class="genclip-legend">0<span></span>1 &ensp; abnormal probability of each pixel</div>')
        starts = {"Image threshold": image_threshold, "Pixel threshold": pixel_threshold, "Opacity": handlers.OPACITY}
        with gr.Row():
            self.sliders = [
                gr.Slider(0, 1, value, step=0.001, label=title, min_width=160, elem_id=title.lower().replace(" ", "-"))
                for title, value in starts.items()
            ]
        self.strip = gr.Gallery(label="Images", columns=6, visible=False, elem_id="strip", **_CHOICE)
        with gr.Tab("Why this score"):
            filtering = gr.Textbox(label="Class name", interactive=False, elem_id="filtering")
            parts = gr.Dataframe(interactive=False, wrap=True, elem_id="parts")
            maps = gr.Gallery(label="Maps", columns=4, elem_id="maps", **_MAPS)
        with gr.Tab("Regions"):
            regions = gr.Dataframe(interactive=False, elem_id="regions")
            saved_regions = gr.DownloadButton("Save regions.csv", size="sm")
        with gr.Tab("Scores"):
            scores = gr.Dataframe(interactive=False, elem_id="scores")
            saved_scores = gr.DownloadButton("Save scores.csv", size="sm")
        with gr.Tab("Leave out") as self.painting:
            gr.Markdown("Paint what does not count, or drop masks: one for all images, or one of each image's name.")
            self.editor = gr.ImageEditor(
                show_label=False,
                elem_id="editor",
                type="pil",
                sources=(),
                transforms=(),
                layers=False,
                height=480,
                brush=gr.Brush(default_size=48, colors=[drawing.BRUSH], color_mode="fixed"),
                buttons=["fullscreen"],
            )
            self.paint = gr.Button("Leave out what is painted", size="sm")
            self.ignore_mask = gr.File(label="Masks: white does not count", height=120, elem_id="ignore-mask", **_MASKS)
        self.view = [label, summary, picture, scores, regions, saved_scores, saved_regions]
        self.explanation = [filtering, parts, maps]

    def _connect(self, does: Handlers) -> None:
        """Connect events with handlers."""
        shown, selected, named = gr.State([]), gr.State(0), [self.class_name, self.of_example]
        outputs = [shown, selected, self.problems, self.strip, *self.view, *self.explanation]
        given = [self.images, self.class_name, self.references, self.ignore_mask, *self.sliders]
        score: dict[str, Any] = {"fn": does.score, "inputs": given, "outputs": outputs}
        score |= {"show_progress_on": self.view[2], "concurrency_id": "model", "concurrency_limit": 1}
        self.blocks.load(does.open, self.sliders, outputs, **_QUIET)
        gr.on([self.images.delete, self.images.clear, self.class_name.input], api_name="score", **score)
        size = gr.State((0, 0))  # of the image in the editor
        canvas: dict[str, Any] = {"fn": handlers.canvas, "inputs": [shown, selected], "outputs": [self.editor, size]}
        canvas |= _QUIET
        self.painting.select(**canvas)
        compared = [self.references.upload, self.references.delete, self.references.clear]
        for event in (
            self.images.upload(does.replace_class_name, named, named, **_QUIET),
            self.examples.select(does.choose_example, None, [self.images, *named], **_QUIET),
            self.paint.click(handlers.paint, [self.editor, size], self.ignore_mask, **_QUIET),
            gr.on(compared, does.reset_thresholds, self.references, [*self.sliders[:2], self.alarm_level], **_QUIET),
        ):
            event.then(api_visibility="private", **score)
        given_mask = [self.ignore_mask.upload, self.ignore_mask.delete, self.ignore_mask.clear]
        gr.on(given_mask, api_visibility="private", **score).then(**canvas)
        moved, latest = [slider.input for slider in self.sliders], {"trigger_mode": "always_last"}
        inputs = [shown, selected, *self.sliders]
        gr.on(moved, handlers.view, inputs, self.view, api_name="view", show_progress="hidden", **latest)
        self.strip.select(handlers.select, [shown, *self.sliders], outputs[1:2] + outputs[4:], **_QUIET).then(**canvas)
