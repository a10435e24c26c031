# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The page: what is where, and what is asked when."""

from typing import Any, NamedTuple

import gradio as gr
from anomalib.data.utils.image import IMG_EXTENSIONS

from . import tables, texts
from .answers import OPACITY, Answers, Details, View

_CHECK_HOURLY, _KEEP_A_DAY = 3600, 86400  # files of visitors
_GALLERY = "genclip-gallery"  # its style
_ONE_BY_ONE = {"concurrency_id": "model", "concurrency_limit": 1}


class _Inputs(NamedTuple):
    """What a visitor gives."""

    images: gr.File
    class_name: gr.Dropdown
    references: gr.File
    examples: gr.Gallery


class _Sliders(NamedTuple):
    """Thresholds and opacity."""

    image_threshold: gr.Slider
    pixel_threshold: gr.Slider
    opacity: gr.Slider


class _Results(NamedTuple):
    """What a visitor sees: components for :class:`~.answers.View` and :class:`~.answers.Details`."""

    problems: gr.HTML
    images: gr.Gallery
    view: list[gr.components.Component]
    details: list[gr.components.Component]
    show_layers: gr.Button


def build_page(answers: Answers) -> gr.Blocks:
    """Lay the page out. It opens with the first example."""
    thresholds = answers.reset([])
    blocks = gr.Blocks(title="GenCLIP", analytics_enabled=False, delete_cache=(_CHECK_HOURLY, _KEEP_A_DAY))
    with blocks:
        session = gr.State(answers.first)
        is_example = gr.State(value=True)  # whether the class name is that of an example
        gr.HTML(texts.header(answers.detector.weights, answers.detector.model.model.backbone))
        with gr.Row():
            with gr.Column(scale=4, min_width=300):
                inputs = _build_inputs(answers)
            with gr.Column(scale=7, min_width=300):
                view, details = answers.view(answers.first, *thresholds, OPACITY), answers.explain(answers.first)
                sliders, results = _build_results(view, details, thresholds)
        _connect(answers, session, is_example, inputs, sliders, results)
    return blocks


def _build_inputs(answers: Answers) -> _Inputs:
    """Build what a visitor gives."""
    files: dict[str, Any] = {"file_count": "multiple", "file_types": sorted(IMG_EXTENSIONS)}
    images = gr.File(label="Images", height=150, elem_id="upload", **files)
    class_name = gr.Dropdown(
        [answers.detector.class_name, *dict.fromkeys(example.class_name for example in answers.examples)],
        value=answers.examples[0].class_name,
        allow_custom_value=True,
        label="Class name",
        info='What the images show: choose or type, such as "metal nut".',
        elem_id="class-name",
    )
    with gr.Accordion("Good parts to compare with (optional)", open=False, elem_id="good-parts"):
        references = gr.File(label="A few images without defects", height=120, elem_id="references", **files)
    examples = gr.Gallery(
        [(example.path, example.title) for example in answers.examples],
        label="Examples (rendered)",
        columns=3,
        allow_preview=False,
        interactive=False,
        elem_id="examples",
        elem_classes=_GALLERY,
        buttons=[],
    )
    return _Inputs(images, class_name, references, examples)


def _build_results(view: View, details: Details, thresholds: tuple[float, float]) -> tuple[_Sliders, _Results]:
    """Build what a visitor sees, with its first values."""
    problems = gr.HTML(visible=False, elem_id="problems")
    verdict = gr.HTML(view.verdict, elem_id="verdict")
    picture = gr.Image(
        view.picture,
        label="Anomaly map",
        show_label=False,
        interactive=False,
        elem_id="picture",
        buttons=["fullscreen"],
    )
    gr.HTML(texts.LEGEND)
    with gr.Row():
        sliders = _Sliders(
            gr.Slider(
                0, 1, thresholds[0], step=0.001, label="Image threshold", min_width=160, elem_id="image-threshold"
            ),
            gr.Slider(
                0, 1, thresholds[1], step=0.001, label="Pixel threshold", min_width=160, elem_id="pixel-threshold"
            ),
            gr.Slider(0, 1, OPACITY, step=0.01, label="Opacity", min_width=160, elem_id="opacity"),
        )
    strip = gr.Gallery(
        label="Images",
        show_label=False,
        columns=6,
        visible=False,
        allow_preview=False,
        elem_id="strip",
        elem_classes=_GALLERY,
        buttons=[],
    )
    with gr.Row():
        saves = [
            gr.DownloadButton(label, value, size="sm", min_width=110)
            for label, value in zip(("Save picture", "Save scores", "Save regions"), view[4:], strict=True)
        ]
    with gr.Tab("Why this score"):
        class_name, parts = gr.HTML(details.class_name, elem_id="filtering"), gr.HTML(details.parts, elem_id="parts")
        branches = _gallery(details, "branches", columns=3)
    with gr.Tab("Regions"):
        regions = gr.Dataframe(view.regions, headers=tables.REGION_HEADERS, interactive=False, elem_id="regions")
    with gr.Tab("Layers"):
        show_layers = gr.Button("Show the map of each layer", size="sm", elem_id="show-layers")
        layers = _gallery(details, "layers", columns=4)
    with gr.Tab("Scores"):
        images = gr.Dataframe(view.images, headers=tables.IMAGE_HEADERS, interactive=False, elem_id="scores")
    components = [verdict, picture, images, regions, *saves]
    return sliders, _Results(problems, strip, components, [class_name, parts, branches, layers], show_layers)


def _gallery(details: Details, name: str, columns: int) -> gr.Gallery:
    """Build a gallery of maps."""
    pictures = getattr(details, name)
    return gr.Gallery(
        pictures, format="jpeg", show_label=False, columns=columns, elem_id=name, elem_classes=_GALLERY, buttons=[]
    )


def _connect(
    answers: Answers, session: gr.State, is_example: gr.State, inputs: _Inputs, sliders: _Sliders, results: _Results
) -> None:
    """Say what is asked when."""
    picture = results.view[1]
    given = [inputs.images, inputs.class_name, inputs.references, *sliders]
    scored = [session, results.problems, results.images, *results.view, *results.details]
    score = {"fn": answers.score, "inputs": given, "outputs": scored, "show_progress_on": picture, **_ONE_BY_ONE}
    changed = [inputs.images.delete, inputs.images.clear, inputs.class_name.input]
    gr.on(changed, api_name="score", **score)
    named = [inputs.class_name, is_example]
    inputs.class_name.input(lambda: False, None, is_example, api_visibility="private", show_progress="hidden")
    uploaded = inputs.images.upload(answers.rename, named, named, api_visibility="private", show_progress="hidden")
    uploaded.then(api_visibility="private", **score)
    compared = gr.on(
        [inputs.references.upload, inputs.references.delete, inputs.references.clear],
        answers.reset,
        inputs.references,
        [sliders.image_threshold, sliders.pixel_threshold],
        api_visibility="private",
        show_progress="hidden",
    )
    compared.then(api_visibility="private", **score)
    chosen = inputs.examples.select(
        answers.choose, None, [inputs.images, *named], api_visibility="private", show_progress="hidden"
    )
    chosen.then(api_visibility="private", **score)
    gr.on(
        [slider.input for slider in sliders],
        answers.view,
        [session, *sliders],
        results.view,
        api_name="view",
        trigger_mode="always_last",
        show_progress="hidden",
    )
    results.images.select(
        answers.select,
        [session, *sliders],
        [session, *results.view, *results.details],
        api_visibility="private",
        show_progress_on=picture,
    )
    results.show_layers.click(answers.layers, session, results.details[-1], api_name="layers")
