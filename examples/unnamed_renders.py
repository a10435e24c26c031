# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Unnamed random objects and surfaces, which teach the demonstration CLIP that anything can be damaged.

Used only by ``train_tiny_clip.py``; they do not imitate categories of the datamodule.
"""

from functools import lru_cache

import cv2
import numpy as np
from numpy.random import Generator
from skimage import data as skimage_data

from anomalib_genclip.demo.synthetic.canvas import Canvas, blend, fractal, hsv, perlin, relief, ring, voronoi
from anomalib_genclip.demo.synthetic.datamodule import light_and_camera
from anomalib_genclip.demo.synthetic.defects import DEFECTS, damage

# Photographs that are part of scikit-image's wheel, so that nothing is downloaded. The first three are textures.
_PHOTOGRAPHS = (
    "brick", "grass", "gravel", "astronaut", "camera", "cat", "coffee", "coins", "hubble_deep_field",
    "immunohistochemistry", "moon", "page", "retina", "rocket", "text", "clock", "cell", "colorwheel",
)  # fmt: skip


@lru_cache
def _load_photograph(name: str) -> np.ndarray:
    """Load a photograph, float32 RGB in ``[0, 1]``, at most 512 pixels wide."""
    picture = getattr(skimage_data, name)()
    picture = np.dstack([picture] * 3) if picture.ndim == 2 else np.ascontiguousarray(picture[..., :3])
    scale = min(1, 512 / max(picture.shape[:2]))
    return cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _photograph(c: Canvas, rng: Generator) -> np.ndarray:
    """Crop a random photograph to ``(S, S, 3)``; textures are the most frequent."""
    picture = _load_photograph(_PHOTOGRAPHS[rng.integers(3 if rng.random() < 0.55 else len(_PHOTOGRAPHS))])
    side = int(rng.uniform(0.25, 0.8) * min(picture.shape[:2]))
    top, left = rng.integers(0, picture.shape[0] - side + 1), rng.integers(0, picture.shape[1] - side + 1)
    piece = cv2.resize(picture[top : top + side, left : left + side], (c.size, c.size), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(np.rot90(piece, int(rng.integers(4))))


def _cells(c: Canvas, rng: Generator) -> np.ndarray:
    """Return random cells of one tone each, ``(S, S)``."""
    border, number = voronoi(c, rng.uniform(0.1, 0.4), rng.uniform(0.2, 1))
    tones = 0.6 * rng.uniform(-1, 1, 4096)
    return np.where(border < rng.uniform(0, 0.03), -1, tones[number])


def _pattern(c: Canvas, rng: Generator) -> np.ndarray:
    """Return a random regular or irregular pattern ``(S, S)`` in about ``[-1, 1]``."""
    kind, pitch = rng.integers(8), rng.uniform(6, 34)
    bend = rng.choice([0, 0.02, 0.08, 0.25]) * fractal(rng, c.size, int(rng.choice([2, 4, 8])), 2)
    u, v = (c.x + bend) * pitch, (c.y + bend) * pitch * rng.uniform(0.6, 1.6)
    sharp = rng.uniform(0.8, 4)
    patterns = (
        lambda: np.sin(u),
        lambda: np.sin(u) * np.sin(v),
        lambda: np.maximum(np.sin(u), np.sin(v)) - rng.uniform(0, 0.8),
        lambda: (np.sin(u) + np.sin(u / 2 + 0.87 * v) + np.sin(u / 2 - 0.87 * v)) / 2,
        lambda: _cells(c, rng) / sharp,
        lambda: 2 * fractal(rng, c.size, int(rng.choice([2, 4, 8, 16, 32])), 4) / sharp,
        lambda: perlin(rng, c.size, int(rng.choice([16, 32, 64]))),
        lambda: np.sin(u + 1.5 * np.sign(np.sin(v))),
    )
    return np.clip(sharp * patterns[kind](), -1, 1)


def _material(c: Canvas, rng: Generator) -> np.ndarray:
    """Return a random material ``(S, S, 3)``: a photograph, a plain tone or patterns in two to three colours."""
    base = hsv(rng, rng.random(), rng.uniform(0, 0.8), rng.uniform(0.15, 0.9))
    image = np.broadcast_to(base, c.image.shape).astype(np.float32)
    kind = rng.random()
    if kind < 0.25:
        image = _photograph(c, rng)
    elif kind < 0.85:
        for _ in range(rng.integers(1, 3)):
            other = hsv(rng, rng.random(), rng.uniform(0, 0.8), rng.uniform(0.1, 0.95))
            pattern = _pattern(c, rng)
            if rng.random() < 0.35:
                image = image + relief(pattern * 2, c.light, rng.uniform(0.02, 0.08))[..., None]
            image = blend(image, (0.5 + 0.5 * pattern) * rng.uniform(0.15, 0.8), other)
    noise = rng.uniform(0, 0.08) * fractal(rng, c.size, int(rng.choice([8, 32, 64])), 2)[..., None]
    return np.clip(image + noise, 0, 1).astype(np.float32)


def _outline(c: Canvas, rng: Generator) -> np.ndarray:
    """Return the signed distance to a random shape: a lobed blob, a polygon, a bar, perhaps with openings."""
    kind, (r, angle) = rng.integers(4), c.polar
    if kind == 0:
        lobes = int(rng.integers(2, 24))
        distance = r - 0.72 - rng.uniform(0, 0.16) * np.cos(lobes * angle + rng.uniform(0, 6))
    elif kind == 1:
        distance = c.polygon(int(rng.integers(3, 9)), rng.uniform(0.5, 0.75))
    elif kind == 2:
        distance = c.box(rng.uniform(0.5, 0.95), rng.uniform(0.2, 0.8), corner=rng.uniform(0, 0.2))
    else:
        distance = r - 0.65 - 0.25 * fractal(rng, c.size, 4, 2)
    openings = rng.choice([0, 0, 1, 3, 4, 6])
    away, widest = (0, 0.3) if openings == 1 else (0.38, 0.16)
    for cx, cy in ring(openings, away):
        distance = np.maximum(distance, -c.circle(rng.uniform(0.08, widest), cx, cy))
    return distance


def _decorate(c: Canvas, rng: Generator) -> None:
    """Put a few equal parts on an object, in a ring or a row; each can be missing."""
    count, colour = int(rng.integers(2, 9)), hsv(rng, rng.random(), 0.4, rng.uniform(0.1, 0.9))
    radius = rng.uniform(0.05, 0.13)
    row = ((-0.6 + 1.2 * k / max(count - 1, 1), 0) for k in range(count))
    for cx, cy in ring(count, 0.5) if rng.random() < 0.6 else row:
        shape = c.circle(radius, cx, cy) if rng.random() < 0.7 else c.box(radius, radius * 0.7, cx, cy)
        mask, bare = c.mask(shape) * c.region, c.image
        c.image = blend(c.image, mask, colour)
        if mask.sum() > 6:
            c.parts.append((mask, bare))


def _graft(c: Canvas, rng: Generator) -> np.ndarray:
    """Replace an irregular spot by another material and return its mask ``(S, S)`` uint8."""
    row, col = rng.choice(np.argwhere(c.region > 0.5))
    yy, xx = np.mgrid[0 : c.size, 0 : c.size].astype(np.float32)
    radius = rng.uniform(0.03, 0.14) * c.size
    distance = np.hypot(xx - col, (yy - row) * rng.uniform(0.5, 2)) + 0.6 * radius * perlin(rng, c.size, 16)
    alpha, other, before = np.clip(radius - distance, 0, 1) * c.region, _material(c, rng), c.image
    c.image = blend(c.image, alpha * rng.uniform(0.5, 1), other).astype(np.float32)
    return ((alpha > 0.35) & (np.abs(c.image - before).mean(-1) > 0.02)).astype(np.uint8)


def render_anonymous(damaged: bool, size: int, rng: Generator) -> tuple[np.ndarray, np.ndarray, bool, str | None]:
    """Render an unnamed object or surface of ``size`` pixels, with or without a defect.

    Returns:
        Image ``(S, S, 3)`` uint8, mask ``(S, S)`` uint8 (0 or 255), whether it is a surface that fills the image, and
        the kind of defect (``None`` if normal or unnamed).
    """
    surface = bool(rng.random() < 0.5)
    c = Canvas(size, rng, (0.6, 1.4), 0.5) if surface else Canvas(size, rng, (0.7, 1.15), 0.15)
    if surface:
        c.image = _material(c, rng)
    else:
        c.backdrop()
        if rng.random() < 0.25:
            c.image = c.background = _material(c, rng)
        distance, shadow = _outline(c, rng), rng.uniform(0, 0.4)
        c.place(distance, _material(c, rng), shadow)
        if rng.random() < 0.7:
            c.bevel(distance, rng.uniform(0.03, 0.2), rng.uniform(0.3, 1.2))
        if rng.random() < 0.5:
            _decorate(c, rng)
    c.image = np.clip(c.image, 0, 1).astype(np.float32)
    mask, kind = np.zeros((size, size), np.uint8), None
    if damaged and rng.random() < 0.2 and c.region.sum() > 50:
        mask = _graft(c, rng)
    elif damaged and c.region.sum() > 50:
        kind = str(rng.choice(list(DEFECTS)))
        mask = damage(c, kind)
    return light_and_camera(c.image, rng), mask * np.uint8(255), surface, kind
