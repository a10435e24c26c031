# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Explanation of the score of one image, as a figure: its maps, and the decision of Class Name Filtering."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from anomalib.data.utils import read_mask
from matplotlib.figure import Figure
from torch.nn import functional as F  # noqa: N812

from anomalib_genclip.components.class_names import GENERIC
from anomalib_genclip.data.images import FileFaults, check_mask
from anomalib_genclip.evaluation.good_parts import SOURCE_NOTE
from anomalib_genclip.evaluation.report import png
from anomalib_genclip.inferencer import Inferencer
from anomalib_genclip.records import Record
from anomalib_genclip.utils.files import atomic_write

BRANCH_TITLES = {"vision": "vision-enhanced branch", "query": "query-only branch"}


def describe(record: Record) -> str:
    """Describe a record with parts in words."""
    parts = record.parts
    assert parts is not None, "predict with parts=True"
    score = f"image score {record.score:.3f}"
    if record.image_threshold is not None:
        score += f": {record.label} (threshold {record.image_threshold:.3f})"
    name = parts.class_name
    if name == GENERIC:
        return f"{score}\nno class name was given"
    found = f'kept "{name}"' if parts.used_name == name else f'replaced "{name}" by "{parts.used_name}"'
    found = f"Class Name Filtering {found}" if parts.filtering else f'class name "{name}", Class Name Filtering is off'
    return f"{score}\n{found} (cosine {parts.similarity:.3f}, object {parts.generic_similarity:.3f})"


def draw_explanation(record: Record, image: np.ndarray, caption: str, mask: np.ndarray | None = None) -> bytes:
    """Draw what the score of a record with parts is made of, under a caption such as that of :func:`describe`.

    Image ``(h, w, 3)`` and ground truth ``(h, w)``, 1 for anomalous, may have any size.
    """
    size = record.anomaly_map.shape  # type: ignore[union-attr]
    grids: Any = record.parts and record.parts.maps
    maps: dict[str, Any] = {
        BRANCH_TITLES[name]: F.interpolate(torch.from_numpy(grid)[None, None], size, mode="bilinear")[0, 0].numpy()
        for name, grid in grids.items()
    }
    maps = {"anomaly map": record.anomaly_map} | (maps if len(maps) > 1 else {})
    count = 1 + len(maps) + (mask is not None)
    figure = Figure(figsize=(3.1 * count, 4.1), layout="constrained")
    panels = list(figure.subplots(1, count))
    low, high = min(map(np.min, maps.values())), max(map(np.max, maps.values()))
    extent = (0, size[1], size[0], 0)
    _show(panels[0], image, "input", extent=extent)
    for axes, (title, value) in zip(panels[1:], reversed(maps.items()), strict=False):
        _show(axes, image, f"{title}\n{value.min():.2f} to {value.max():.2f}", extent=extent)
        shown = axes.imshow(value, cmap="inferno", vmin=low, vmax=max(high, low + 1e-6), alpha=0.75, extent=extent)
    figure.colorbar(shown, ax=panels, shrink=0.6, pad=0.01, label="abnormal probability")
    if mask is not None:
        _show(panels[-1], mask, "mask (ground truth)", cmap="gray", vmin=0, vmax=1, extent=extent)
    figure.suptitle(caption, fontsize=10, parse_math=False)
    return png(figure, dpi=100)


def _show(axes, image: np.ndarray, title: str, **options) -> None:  # noqa: ANN001  # matplotlib's own
    axes.imshow(image, **options)
    axes.set_title(title, fontsize=9)
    axes.set_axis_off()


def explain(
    weights: str,
    image: str,
    mask: str | None = None,
    class_name: str | None = None,
    out: str = "explanation.png",
    pretrained: str | None = None,
) -> str:
    """Explain the score of one image in a figure; ``ValueError`` for an exported model, or a mask of another shape."""
    inferencer = Inferencer(weights, class_name, precision="float32", pretrained=pretrained)
    if inferencer.model is None:
        msg = f"{weights} is an exported model, which does not tell what its score is made of: give its prompts file."
        raise ValueError(msg)
    faults, truth = FileFaults(), None
    if mask is not None:
        faults.add(image, check_mask(image, mask))
        truth = read_mask(mask, as_tensor=False)
        faults.check_masks([image], [float(np.mean(truth > 0))])
    pixels = faults.read(image)
    faults.report()
    caption = describe(record := inferencer.predict(pixels, parts=True))
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    atomic_write(Path(out), draw_explanation(record, pixels.permute(1, 2, 0).numpy(), caption, truth))
    return f"{caption}\n{SOURCE_NOTE}" if inferencer.alarm_level == "source" else caption
