# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Groups of categories, and rendering of one image: scene, defect, lighting and camera."""

import cv2
import numpy as np
from numpy.random import Generator

from .canvas import Canvas, fractal
from .defects import damage, damage_window
from .objects import OBJECTS
from .textures import TEXTURES

CATEGORIES = (*TEXTURES, *OBJECTS)
DEFECTS_OF = {name: kinds for name, (_, kinds) in (TEXTURES | OBJECTS).items()}

# Prompts are trained on the first group and tested on the second. The third is for choosing settings and is not part of
# reported results.
SOURCE = (
    "weave", "wood", "brushed_metal", "tile", "paper", "cork", "knit",
    "bolt", "washer", "pill", "circuit_board", "button", "battery", "label", "switch",
)  # fmt: skip
TARGET = (
    "leather", "grid", "concrete", "carpet", "perforated_sheet", "corrugated_cardboard", "honeycomb",
    "gear", "bottle_cap", "cable", "coin", "bearing", "biscuit", "capsule", "key",
)  # fmt: skip
TUNING = ("marble", "rubber_mat", "wicker", "nut", "fuse")

# The bundled demonstration CLIP was trained without images and names of these.
UNSEEN_BY_TINY = ("leather", "grid", "honeycomb", "gear", "cable", "biscuit", "marble", "fuse")


def light_and_camera(image: np.ndarray, rng: Generator, sharp_at: int | None = None) -> np.ndarray:
    """Apply uneven light, tint, gamma, blur and noise to an image ``(S, S, 3)`` in ``[0, 1]``; return it in uint8.

    ``sharp_at`` is the side of an image that would be blurred by as many pixels; ``None`` for ``S``.
    """
    size = image.shape[0]
    line = np.linspace(-1, 1, size, dtype=np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    slope = rng.uniform(0, 0.28) * (np.cos(angle) * line[None] + np.sin(angle) * line[:, None])
    vignette = rng.uniform(-0.05, 0.2) * (line[None] ** 2 + line[:, None] ** 2) / 2
    clouds = rng.uniform(0, 0.06) * fractal(rng, size, 2, 1)
    light = rng.uniform(0.75, 1.2) * (1 + slope - vignette + clouds)
    image = image * light[..., None] * rng.uniform(0.93, 1.07, 3).astype(np.float32)
    image = np.clip(image, 0, 1) ** rng.uniform(0.8, 1.25)
    sigma = rng.uniform(0, 0.8) * (sharp_at or size) / 128
    if sigma > 0.25:
        image = cv2.GaussianBlur(image, (0, 0), sigma)
    noise = rng.standard_normal((size, size, 3), dtype=np.float32) * rng.uniform(0.003, 0.03)
    return (np.clip(image + noise, 0, 1) * 255 + 0.5).astype(np.uint8)


def scene(category: str, size: int, rng: Generator) -> Canvas:
    """Paint an undamaged scene of a category in a random pose."""
    if category not in CATEGORIES:
        msg = f"There is no synthetic category {category!r}. There are: {', '.join(CATEGORIES)}."
        raise ValueError(msg)
    canvas = Canvas(size, rng, (0.7, 1.3), 0.5) if category in TEXTURES else Canvas(size, rng)
    if category in OBJECTS:
        canvas.backdrop()
    (TEXTURES | OBJECTS)[category][0](canvas, rng)
    canvas.image = np.clip(canvas.image, 0, 1).astype(np.float32)
    return canvas


def render(
    category: str, defect: str | None, size: int, rng: Generator, defect_size: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Render one image.

    Returns:
        The image ``(S, S, 3)`` uint8 RGB and the mask ``(S, S)`` uint8, 255 where it is anomalous.
    """
    canvas = scene(category, size, rng)
    mask = np.zeros((size, size), np.uint8)
    if defect is not None:
        mask = damage(canvas, defect) if defect_size is None else damage_window(canvas, defect, defect_size)
    return light_and_camera(canvas.image, rng, defect_size), mask * np.uint8(255)
