# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""What the page says, as HTML. File and class names come from users and are escaped."""

from collections.abc import Sequence
from html import escape

from anomalib_genclip.components.anomaly_map import TOP_SHARE
from anomalib_genclip.components.class_names import GENERIC
from anomalib_genclip.pipelines.explain import Decision
from anomalib_genclip.prediction.records import Record
from anomalib_genclip.torch_model import SCORE_WEIGHT

LEGEND = (
    '<div class="genclip-legend"><span>0</span><span class="genclip-scale"></span><span>1</span>'
    "<span>abnormal probability of each pixel</span></div>"
)
NOTHING = '<p class="genclip-hint">Drop an image on the left, or choose an example.</p>'


def header(weights: str, backbone: str) -> str:
    """Say which model it is."""
    name = weights.replace("\\", "/").rsplit("/", 1)[-1]
    note = " &middot; a demonstration, not for photographs of real products" if weights == "tiny-demo" else ""
    model = f"Prompts <b>{escape(name)}</b> on {escape(backbone)}{note}"
    return f'<div class="genclip-header"><h1>GenCLIP</h1><p>{model}</p></div>'


def verdict(record: Record) -> str:
    """Show label, score and threshold of an image."""
    assert record.score is not None
    assert record.image_threshold is not None
    label, mark = ("anomalous", "&#9650;") if record.anomalous else ("normal", "&#10003;")
    count = len(record.regions)
    regions = "no region" if count == 0 else "1 region" if count == 1 else f"{count} regions"
    return f"""
<div class="genclip-verdict genclip-{label}">
  <div class="genclip-line"><span class="genclip-label">{mark} {label}</span>
    <span class="genclip-name">{escape(record.name)}</span></div>
  <div class="genclip-bar" role="img" aria-label="score {record.score:.3f}, threshold {record.image_threshold:.3f}">
    <div class="genclip-fill" style="width: {100 * record.score:.1f}%"></div>
    <div class="genclip-tick" style="left: {100 * record.image_threshold:.1f}%"></div></div>
  <div>Image score <b>{record.score:.3f}</b>, threshold {record.image_threshold:.3f} &middot;
    {regions} above the pixel threshold {record.pixel_threshold:.3f}</div>
</div>"""


def problems(messages: Sequence[str]) -> str:
    """Show what could not be used, ``""`` for nothing."""
    if not messages:
        return ""
    lines = "".join(f"<p>{escape(message)}</p>" for message in messages)
    return f'<div class="genclip-problems" role="alert">{lines}</div>'


def class_name(decision: Decision, *, filtering: bool) -> str:
    """Say what Class Name Filtering decided, and by which margin."""
    given = escape(decision.class_name)
    if decision.class_name == GENERIC:
        return f"<p>No class name was given: the prompts say &ldquo;{GENERIC}&rdquo;.</p>"
    margin = decision.similarity - decision.generic_similarity
    cosines = (
        f"cosine to &ldquo;a photo of a {given}&rdquo; {decision.similarity:.3f}, to &ldquo;a photo of an "
        f"{GENERIC}&rdquo; {decision.generic_similarity:.3f}, margin {margin:+.3f}"
    )
    if not filtering:
        return f"<p>The prompts say &ldquo;{given}&rdquo;. Class Name Filtering is off ({cosines}).</p>"
    if decision.used_name == decision.class_name:
        return f"<p>Class Name Filtering <b>kept</b> &ldquo;{given}&rdquo; ({cosines}).</p>"
    used = escape(decision.used_name)
    return (
        f"<p>Class Name Filtering <b>replaced</b> &ldquo;{given}&rdquo; by &ldquo;{used}&rdquo;, because the image is "
        f"closer to it ({cosines}).</p>"
    )


def score_parts(decision: Decision) -> str:
    """Show how the image score comes about."""
    rows = [
        (f"Highest {TOP_SHARE:.0%} of the anomaly map, mean", decision.top, f"&times; {1 - SCORE_WEIGHT:.2f}"),
        ("Whole image: frozen CLIP with written states", decision.cls, f"&times; {SCORE_WEIGHT:.2f}"),
    ]
    if decision.cls_distance is not None:
        rows.append((
            "Distance to the references, in multiples of the usual one",
            decision.cls_distance,
            "&times; odds",
        ))
    body = "".join(f"<tr><td>{title}</td><td>{value:.3f}</td><td>{share}</td></tr>" for title, value, share in rows)
    return (
        f'<table class="genclip-parts">{body}<tr class="genclip-sum"><td>Image score</td>'
        f"<td>{decision.score:.3f}</td><td></td></tr></table>"
    )
