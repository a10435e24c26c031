# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Bar chart of a test run's metrics."""

import io

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .result import IMAGE_METRICS, METRIC_NAMES, EvaluationResult

IMAGE_COLOURS = ("#8fb4d9", "#1f5a96")  # categories, mean
PIXEL_COLOURS = ("#f0b27a", "#b9560b")
LONGEST_LABEL = 32  # characters
MAX_PIXELS = 20_000  # maximum height of the chart, which grows with the number of categories


def draw_chart(result: EvaluationResult) -> bytes:
    """Draw a bar chart per metric, with a bar per category and one for the mean.

    Args:
        result (EvaluationResult): The result.

    Returns:
        bytes: PNG image. matplotlib's global state and backend are not changed.
    """
    rows = result.rows
    height = 1.3 + 0.28 * len(rows)
    figure = Figure(figsize=(13, height), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for name, axes in zip(METRIC_NAMES, figure.subplots(1, len(METRIC_NAMES), sharey=True), strict=True):
        _draw_metric(axes, name, [row.get(name) for _, row in rows])
    first = figure.axes[0]
    labels = [
        category if len(category) <= LONGEST_LABEL else f"{category[: LONGEST_LABEL - 1]}…" for category, _ in rows
    ]
    first.set_yticks(range(len(rows)), labels, parse_math=False)
    first.get_yticklabels()[-1].set_fontweight("bold")
    first.set_ylim(len(rows) - 0.4, -0.6)
    figure.suptitle(f"Test metrics in percent (pixel metrics: {result.mode})", fontsize=11)
    buffer = io.BytesIO()
    canvas.figure.savefig(buffer, format="png", dpi=min(130, MAX_PIXELS / height))
    return buffer.getvalue()


def _draw_metric(axes, name: str, values: list[float | None]) -> None:  # noqa: ANN001
    """Draw the bars of one metric, the last of them the mean, with their values."""
    colour, mean_colour = IMAGE_COLOURS if name in IMAGE_METRICS else PIXEL_COLOURS
    colours = [colour] * (len(values) - 1) + [mean_colour]
    axes.barh(range(len(values)), [100 * (value or 0) for value in values], height=0.74, color=colours)
    for row, value in enumerate(values):
        last = row == len(values) - 1
        text = "n/a" if value is None else f"{100 * value:.1f}"
        on_bar = last and value is not None and value > 0.2
        axes.text(2, row, text, va="center", fontsize=8, color="white" if on_bar else "black")
    if values[-1] is not None:
        axes.axvline(100 * values[-1], color=mean_colour, linewidth=0.8, linestyle="--")
    axes.set_title(name.replace("_", " "), fontsize=9)
    axes.set_xlim(0, 100)
    axes.set_xticks([0, 50, 100])
    axes.tick_params(labelsize=8, left=False)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
