# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Unnamed random objects and surfaces, which teach the demonstration CLIP that anything can be damaged.

Used only by ``examples/train_tiny_clip.py``; they do not imitate categories of the datamodule.
"""

from functools import lru_cache

import cv2
import numpy as np
from skimage import data as skimage_data

from .canvas import Canvas, blend, fractal, hsv, perlin, relief, voronoi
from .defects import DEFECTS, damage
from .render import light_and_camera

# Photographs that are part of scikit-image's wheel, so that nothing is downloaded.
_PHOTOGRAPHS = (
    "brick", "grass", "gravel", "astronaut", "camera", "cat", "coffee", "coins", "hubble_deep_field",
    "immunohistochemistry", "moon", "page", "retina", "rocket", "text", "clock", "cell", "colorwheel",
)  # fmt: skip


@lru_cache(maxsize=1)
def _photographs() -> list[np.ndarray]:
    """Load the photographs once, float32 RGB in ``[0, 1]``, at most 512 pixels wide."""
    pictures = []
    for name in _PHOTOGRAPHS:
        picture = getattr(skimage_data, name)()
        picture = np.dstack([picture] * 3) if picture.ndim == 2 else picture[..., :3]
        scale = min(1, 512 / max(picture.shape[:2]))
        picture = cv2.resize(np.ascontiguousarray(picture), None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        pictures.append(picture.astype(np.float32) / 255)
    return pictures


def _photograph(c: Canvas) -> np.ndarray:
    """Crop a random photograph to ``(S, S, 3)``; the first three are textures and the most frequent."""
    rng, pictures = c.rng, _photographs()
    picture = pictures[rng.integers(3) if rng.random() < 0.55 else rng.integers(len(pictures))]
    side = int(rng.uniform(0.25, 0.8) * min(picture.shape[:2]))
    top, left = rng.integers(0, picture.shape[0] - side + 1), rng.integers(0, picture.shape[1] - side + 1)
    piece = cv2.resize(picture[top : top + side, left : left + side], (c.size, c.size), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(np.rot90(piece, int(rng.integers(4))))


def _pattern(c: Canvas) -> np.ndarray:
    """Return a random regular or irregular pattern ``(S, S)`` in about ``[-1, 1]``."""
    rng, kind = c.rng, c.rng.integers(8)
    pitch = rng.uniform(6, 34)
    bend = rng.choice([0, 0.02, 0.08, 0.25]) * fractal(rng, c.size, int(rng.choice([2, 4, 8])), 2)
    u, v = (c.x + bend) * pitch, (c.y + bend) * pitch * rng.uniform(0.6, 1.6)
    sharp = rng.uniform(0.8, 4)
    if kind == 0:
        pattern = np.sin(u)
    elif kind == 1:
        pattern = np.sin(u) * np.sin(v)
    elif kind == 2:
        pattern = np.maximum(np.sin(u), np.sin(v)) - rng.uniform(0, 0.8)
    elif kind == 3:
        pattern = (np.sin(u) + np.sin(u / 2 + 0.87 * v) + np.sin(u / 2 - 0.87 * v)) / 2
    elif kind == 4:
        _, border, number = voronoi(c, rng.uniform(0.1, 0.4), rng.uniform(0.2, 1))
        tones = rng.uniform(-1, 1, 4096)
        pattern = np.where(border < rng.uniform(0, 0.03), -1, 0.6 * tones[number]) / sharp
    elif kind == 5:
        pattern = 2 * fractal(rng, c.size, int(rng.choice([2, 4, 8, 16, 32])), 4) / sharp
    elif kind == 6:
        pattern = perlin(rng, c.size, int(rng.choice([16, 32, 64])))
    else:
        pattern = np.sin(u + 1.5 * np.sign(np.sin(v)))
    return np.clip(sharp * pattern, -1, 1)


def _material(c: Canvas) -> np.ndarray:
    """Return a random material ``(S, S, 3)``: a photograph, a plain tone or patterns in two to three colours."""
    rng = c.rng
    base = hsv(rng, rng.random(), rng.uniform(0, 0.8), rng.uniform(0.15, 0.9))
    image = np.broadcast_to(base, c.image.shape).astype(np.float32)
    kind = rng.random()
    if kind < 0.25:
        image = _photograph(c)
    elif kind < 0.85:
        for _ in range(rng.integers(1, 3)):
            other = hsv(rng, rng.random(), rng.uniform(0, 0.8), rng.uniform(0.1, 0.95))
            pattern = _pattern(c)
            if rng.random() < 0.35:
                image = image + relief(pattern * 2, c.light, rng.uniform(0.02, 0.08))[..., None]
            image = blend(image, (0.5 + 0.5 * pattern) * rng.uniform(0.15, 0.8), other)
    noise = rng.uniform(0, 0.08) * fractal(rng, c.size, int(rng.choice([8, 32, 64])), 2)[..., None]
    return np.clip(image + noise, 0, 1).astype(np.float32)


def _outline(c: Canvas) -> np.ndarray:
    """Return the signed distance to a random shape: a lobed blob, a polygon, a bar, perhaps with openings."""
    rng, kind = c.rng, c.rng.integers(4)
    angle, r = np.arctan2(c.y, c.x), np.hypot(c.x, c.y)
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
    for k in range(openings):
        turn, away = 2 * np.pi * k / max(openings, 1), 0 if openings == 1 else 0.38
        distance = np.maximum(
            distance,
            -c.circle(rng.uniform(0.08, 0.3 if openings == 1 else 0.16), away * np.cos(turn), away * np.sin(turn)),
        )
    return distance


def _decorate(c: Canvas, inside: np.ndarray) -> None:
    """Put a few equal parts on an object, in a ring or a row; each can be missing."""
    rng = c.rng
    count, colour, radius = (
        int(rng.integers(2, 9)),
        hsv(rng, rng.random(), 0.4, rng.uniform(0.1, 0.9)),
        rng.uniform(0.05, 0.13),
    )
    ring = rng.random() < 0.6
    for k in range(count):
        turn = 2 * np.pi * k / count
        cx, cy = (0.5 * np.cos(turn), 0.5 * np.sin(turn)) if ring else (-0.6 + 1.2 * k / max(count - 1, 1), 0)
        shape = c.circle(radius, cx, cy) if rng.random() < 0.7 else c.box(radius, radius * 0.7, cx, cy)
        bare = c.image
        mask = c.mask(shape) * inside
        c.image = blend(c.image, mask, colour)
        if mask.sum() > 6:
            c.parts.append((mask, bare))


def _graft(c: Canvas) -> np.ndarray:
    """Replace an irregular spot by another material and return its mask ``(S, S)`` uint8."""
    rng = c.rng
    rows, cols = np.nonzero(c.region > 0.5)
    k = rng.integers(len(rows))
    yy, xx = np.mgrid[0 : c.size, 0 : c.size].astype(np.float32)
    radius = rng.uniform(0.03, 0.14) * c.size
    distance = np.hypot(xx - cols[k], (yy - rows[k]) * rng.uniform(0.5, 2)) + 0.6 * radius * perlin(rng, c.size, 16)
    alpha = np.clip(radius - distance, 0, 1) * c.region
    other = _material(c)
    before = c.image
    c.image = blend(c.image, alpha * rng.uniform(0.5, 1), other).astype(np.float32)
    return ((alpha > 0.35) & (np.abs(c.image - before).mean(-1) > 0.02)).astype(np.uint8)


def render_anonymous(
    damaged: bool, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, bool, str | None]:
    """Render an unnamed object or surface.

    Args:
        damaged: Whether it has a defect.
        size: Side ``S`` in pixels.
        rng: Source of all randomness.

    Returns:
        Image ``(S, S, 3)`` uint8, mask ``(S, S)`` uint8 (0 or 255), whether it is a surface that fills the image, and
        the kind of defect (``None`` if normal or unnamed).
    """
    surface = bool(rng.random() < 0.5)
    c = Canvas(size, rng, zoom=(0.6, 1.4), shift=0.5) if surface else Canvas(size, rng, zoom=(0.7, 1.15), shift=0.15)
    if surface:
        c.image = _material(c)
    else:
        c.backdrop()
        if rng.random() < 0.25:
            c.image = c.background = _material(c)
        distance = _outline(c)
        c.shadow(distance, rng.uniform(0, 0.4))
        c.region = c.paint(distance, _material(c))
        if rng.random() < 0.7:
            c.bevel(distance, rng.uniform(0.03, 0.2), rng.uniform(0.3, 1.2))
        if rng.random() < 0.5:
            _decorate(c, c.region)
    c.image = np.clip(c.image, 0, 1).astype(np.float32)
    mask, kind = np.zeros((size, size), np.uint8), None
    if damaged and rng.random() < 0.2 and c.region.sum() > 50:
        mask = _graft(c)
    elif damaged and c.region.sum() > 50:
        kind = str(rng.choice(list(DEFECTS)))
        mask = damage(c, kind)
    return light_and_camera(c.image, rng), mask * np.uint8(255), surface, kind
