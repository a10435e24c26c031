# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Plot of accuracy against speed."""

import io
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

PANELS = ("image_AUROC", "pixel_AUROC", "pixel_AUPRO")
MARKERS = "osD^vP*X"


def draw_accuracy_against_speed(rows: list[dict[str, Any]]) -> bytes:
    """Draw one panel per metric with one point per model; up and to the right is better.

    Args:
        rows (list[dict[str, Any]]): ``model``, ``images_per_second`` and metrics; models without results are listed in
            the title.

    Returns:
        bytes: PNG image. matplotlib's global state and backend are not changed.
    """
    figure = Figure(figsize=(13, 4.6), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for axes, metric in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
        for index, row in enumerate(rows):
            if row.get("images_per_second") and row.get(metric) is not None:
                colour = f"C{index % 10}"
                point = (row["images_per_second"], 100 * row[metric])
                axes.plot(*point, MARKERS[index % len(MARKERS)], color=colour, markersize=9, label=row["model"])
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("images per second")
        axes.set_title(f"{metric.replace('_', ' ')} in percent", fontsize=10)
        axes.margins(0.15)
        axes.grid(visible=True, which="both", color="#e4e4e4", linewidth=0.6)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    absent = [row["model"] for row in rows if not row.get("images_per_second")]
    title = "Accuracy against speed" + (f" (without a result: {', '.join(absent)})" if absent else "")
    figure.suptitle(title, fontsize=11, parse_math=False)
    handles = {label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels())}  # noqa: B905
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(4, len(handles)))
    buffer = io.BytesIO()
    canvas.figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
