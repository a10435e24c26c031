# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""One image of all categories of SyntheticDefects: ``python examples/contact_sheet.py sheet.png``."""

import sys
from pathlib import Path

import cv2
import numpy as np

from anomalib_genclip.demo.synthetic import CATEGORIES, DEFECTS_OF, render

_CAPTION, _GAP, _OUTLINE = 14, 6, (255, 0, 200)


def _outlined(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Draw the mask's outline onto a copy of the image."""
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(image.copy(), contours, -1, _OUTLINE, 1)


def _panel(category: str, size: int, defects: int, rng: np.random.Generator) -> np.ndarray:
    """Return one category's strip: its name, a normal image and some damaged ones, outlined."""
    kinds = [None, *DEFECTS_OF[category][:defects]]
    tiles = [_outlined(*render(category, kind, size, rng)) for kind in kinds]
    head = np.full((_CAPTION, size * len(tiles), 3), 255, np.uint8)
    for k, kind in enumerate(kinds):
        words = category.replace("_", " ") if kind is None else kind
        ink = (0, 0, 0) if kind is None else (110, 110, 110)
        (width, _), _ = cv2.getTextSize(words, cv2.FONT_HERSHEY_SIMPLEX, 0.32, 1)
        scale = 0.32 * min(1, (size - 4) / width)
        cv2.putText(head, words, (k * size + 2, 10), cv2.FONT_HERSHEY_SIMPLEX, scale, ink, 1, cv2.LINE_AA)
    return np.vstack([head, np.hstack(tiles)])


def contact_sheet(
    path: Path | str,
    categories: tuple[str, ...] = CATEGORIES,
    size: int = 80,
    defects: int = 3,
    columns: int = 3,
    seed: int = 0,
) -> Path:
    """Write an image with a normal and a few damaged renders of every category.

    Args:
        path: Path of the PNG.
        categories: Categories to show.
        size: Side of a render in pixels.
        defects: Damaged renders per category, at most five.
        columns: Number of categories per row.
        seed: Seed of the renders.

    Returns:
        The path.
    """
    rng = np.random.default_rng(seed)
    panels = [_panel(name, size, defects, rng) for name in categories]
    panels += [np.full_like(panels[0], 255)] * (-len(panels) % columns)
    gap = np.full((panels[0].shape[0], _GAP, 3), 255, np.uint8)
    rows = [
        np.hstack([part for p in panels[k : k + columns] for part in (p, gap)]) for k in range(0, len(panels), columns)
    ]
    cv2.imwrite(str(path), np.vstack(rows)[..., ::-1])
    return Path(path)


if __name__ == "__main__":
    print(contact_sheet(sys.argv[1]))
