# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Defects: each function returns a scene's damaged image ``(S, S, 3)`` and the opacity of the defect ``(S, S)``.

Lengths are shares of the image side, so that a defect looks the same at every render size.
"""

from collections.abc import Callable
from copy import copy

import cv2
import numpy as np
from numpy.random import Generator

from .canvas import Canvas, blend, hsv, perlin, relief, shift

Damage = tuple[np.ndarray, np.ndarray]
# A defect is drawn again until it changes the image by this mean difference and covers this share of it.
LEAST_CHANGE, LEAST_AREA, GREATEST_AREA = 0.06, 0.0015, 0.25
_FADE = 8  # pixels from the border of a window over which a defect fades
_SUBPIXEL = 4  # bits of the fixed-point coordinates that OpenCV draws with


def _site(c: Canvas) -> tuple[float, float]:
    """Choose a pixel ``(column, row)`` of the object, away from its edge where possible."""
    inner = cv2.erode(c.region, np.ones((5, 5), np.uint8), iterations=max(1, c.size // 64)) > 0.9
    row, col = c.rng.choice(np.argwhere(inner if inner.any() else c.region > 0.5))
    return float(col), float(row)


def _edge(c: Canvas) -> np.ndarray:
    """Return row and column of the pixels of the object's edge, ``(n, 2)``; none on a sheet."""
    return np.argwhere(c.region - cv2.erode(c.region, np.ones((3, 3), np.uint8)) > 0.5)


def _offsets(c: Canvas, site: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Return every pixel's offset from ``site`` in shares of the side, in a frame turned at random."""
    rows, cols = np.mgrid[0 : c.size, 0 : c.size].astype(np.float32)
    u, v, angle = (cols - site[0]) / c.size, (rows - site[1]) / c.size, c.rng.uniform(0, np.pi)
    return np.cos(angle) * u + np.sin(angle) * v, -np.sin(angle) * u + np.cos(angle) * v


def _blob(c: Canvas, radius: tuple[float, float], ragged: float, soft: float | None = None) -> np.ndarray:
    """Draw the opacity ``(S, S)`` of a spot: an ellipse (``ragged`` 0) to a very uneven one (1), with a soft edge."""
    u, v = _offsets(c, _site(c))
    r, stretch = c.rng.uniform(*radius), c.rng.uniform(1, 1.8)
    distance = np.hypot(u / stretch, v * stretch**0.5) + ragged * r * 0.7 * perlin(c.rng, c.size, 16)
    return np.clip((r - distance) / (soft or 1.2 / c.size) + 0.5, 0, 1).astype(np.float32)


def _colour_under(c: Canvas, mask: np.ndarray) -> np.ndarray:
    """Return the mean colour of the image under a mask, ``(3,)``."""
    return (c.image * mask[..., None]).sum((0, 1)) / max(mask.sum(), 1e-6)


def _contrast(c: Canvas, mask: np.ndarray, least: float, most: float) -> np.ndarray:
    """Draw a colour that differs in brightness from what lies under ``mask``."""
    under, step = _colour_under(c, mask), c.rng.uniform(least, most)
    colour = under - step if c.rng.random() < np.clip(under.mean(), 0.15, 0.85) else under + step
    return np.clip(colour + c.rng.normal(0, 0.03, 3), 0, 1).astype(np.float32)


def _stroke(c: Canvas, points: np.ndarray, width: float) -> np.ndarray:
    """Draw an antialiased line through ``points`` ``(n, 2)`` (pixels), ``width`` pixels wide; widths below 1 fade."""
    sheet, fixed = np.zeros((c.size, c.size), np.uint8), np.round(points * 2**_SUBPIXEL).astype(np.int32)
    thick = max(1, round(width))
    cv2.polylines(sheet, [fixed], color=255, isClosed=False, thickness=thick, lineType=cv2.LINE_AA, shift=_SUBPIXEL)
    return sheet.astype(np.float32) / 255 * min(1, 0.4 + 0.6 * width)


def _path(c: Canvas, length: float, jag: float, bend: float, steps: int = 12) -> np.ndarray:
    """Walk from a site: ``steps`` points ``(steps, 2)`` in pixels; ``jag`` turns at random, ``bend`` curves."""
    rng = c.rng
    turns = rng.normal(0, jag, steps) + np.linspace(0, rng.uniform(-bend, bend), steps)
    heading = rng.uniform(0, 2 * np.pi) + turns
    walk = np.cumsum(length * c.size / steps * np.stack([np.cos(heading), np.sin(heading)], 1), 0)
    return walk - walk[steps // 2] + np.array(_site(c))


def _warp(image: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Fetch every pixel of the result from column and row ``(x, y)``, each ``(S, S)``."""
    return cv2.remap(image, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def scratch(c: Canvas, rng: Generator) -> Damage:
    """One to three thin, smooth, pale or dark lines."""
    path = _path(c, rng.uniform(0.15, 0.6), 0.03, 0.8)
    width, count = rng.uniform(0.7, 2.4) * c.size / 128, rng.choice([1, 1, 2, 3])
    alpha = np.max([_stroke(c, path + k * rng.uniform(2, 5, 2) * c.size / 128, width) for k in range(count)], 0)
    alpha *= c.region
    return blend(c.image, alpha * rng.uniform(0.6, 1), _contrast(c, alpha, 0.18, 0.6)), alpha


def crack(c: Canvas, rng: Generator) -> Damage:
    """A jagged dark line with branches."""
    path = _path(c, rng.uniform(0.2, 0.7), 0.5, 0.5, 16)
    width = rng.uniform(0.8, 2.6) * c.size / 128
    alpha = _stroke(c, path, width)
    for _ in range(rng.integers(0, 4)):
        start = path[rng.integers(2, len(path) - 1)]
        branch = np.cumsum(rng.normal(0, 0.02 * c.size, (5, 2)) + rng.normal(0, 0.025 * c.size, 2), 0)
        alpha = np.maximum(alpha, _stroke(c, np.vstack([start, start + branch]), width * 0.6))
    alpha *= c.region
    opacity, dark = alpha * rng.uniform(0.65, 1), _colour_under(c, alpha) * rng.uniform(0.05, 0.5)
    lip = relief(cv2.GaussianBlur(alpha, (0, 0), 1.0), c.light, 0.06) * c.region
    return blend(c.image, opacity, dark.astype(np.float32)) + lip[..., None], alpha


def stain(c: Canvas, rng: Generator) -> Damage:
    """A soft-edged spot of another liquid, sometimes with a darker rim."""
    alpha = _blob(c, (0.04, 0.17), rng.uniform(0.3, 1), rng.uniform(0.01, 0.05)) * c.region
    tint = hsv(rng, rng.random(), rng.uniform(0.2, 0.8), rng.uniform(0.25, 0.8))
    wet = c.image * (1 - rng.uniform(0.4, 0.95) * (1 - tint))
    if rng.random() < 0.3:  # a bright film instead, such as dried lime or flour
        wet = c.image + rng.uniform(0.25, 0.7) * (np.float32(0.95) - c.image)
    image = blend(c.image, alpha, wet)
    if rng.random() < 0.4:
        image = image * (1 - 0.35 * (4 * alpha * (1 - alpha)))[..., None]
    return image, alpha


def hole(c: Canvas, rng: Generator) -> Damage:
    """A pit or puncture: dark or showing what lies below, with a lit rim."""
    alpha = _blob(c, (0.02, 0.085), rng.uniform(0, 0.6)) * c.region
    through = np.asarray(c.background if rng.random() < 0.4 else rng.uniform(0.02, 0.22), np.float32)
    rim = relief(cv2.GaussianBlur(alpha, (0, 0), 0.012 * c.size), c.light, 0.1) * c.region
    return blend(c.image, alpha * rng.uniform(0.8, 1), through) + rim[..., None], alpha


def dent(c: Canvas, rng: Generator) -> Damage:
    """A smooth hollow or bump: only its shading and a slight bend of the pattern show it."""
    u, v = _offsets(c, _site(c))
    r, stretch = rng.uniform(0.05, 0.14), rng.uniform(1, 2)
    bump = np.exp(-(((u / stretch) ** 2 + (v * stretch**0.5) ** 2) / r**2) * 1.6).astype(np.float32)
    depth = rng.choice([-1, 1]) * rng.uniform(0.5, 1.3)
    rows, cols = np.mgrid[0 : c.size, 0 : c.size].astype(np.float32)
    push = (depth * bump * r * 0.35 * c.size).astype(np.float32)
    warped = _warp(c.image, cols + push * np.cos(c.light), rows + push * np.sin(c.light))
    slope = relief(bump, c.light, 1)
    shading = np.clip(slope / max(np.abs(slope).max(), 1e-6), -1, 1)
    alpha = np.clip(bump * 3 - 0.4, 0, 1) * c.region
    return blend(c.image, alpha, np.clip(warped + depth * 0.32 * shading[..., None] - 0.05, 0, 1)), alpha


def missing(c: Canvas, rng: Generator) -> Damage:
    """A part is not there, or a piece has broken off."""
    if not c.parts:
        return chip(c, rng)
    mask, under = c.parts[rng.integers(len(c.parts))]
    return blend(c.image, mask, under), mask.astype(np.float32)


def chip(c: Canvas, rng: Generator) -> Damage:
    """A bite out of the object's edge; on a sheet, a flake off its surface."""
    edge = _edge(c)
    if not len(edge):
        alpha = _blob(c, (0.03, 0.09), 0.9) * c.region
        return blend(c.image, alpha, _contrast(c, alpha, 0.15, 0.4)), alpha
    u, v = _offsets(c, rng.choice(edge)[::-1])
    r = rng.uniform(0.04, 0.11)
    distance = np.hypot(u, v * rng.uniform(0.8, 1.6)) + 0.5 * r * perlin(rng, c.size, 32)
    alpha = np.clip((r - distance) * c.size / 1.2 + 0.5, 0, 1) * c.region
    return blend(c.image, alpha, c.background), alpha.astype(np.float32)


def contamination(c: Canvas, rng: Generator) -> Damage:
    """Foreign matter on top: a speck cluster, a fibre or a crumb, with a little shadow."""
    kind, alpha = rng.integers(3), np.zeros((c.size, c.size), np.float32)
    if kind == 0:
        site = np.array(_site(c))
        for _ in range(rng.integers(4, 14)):
            x, y = np.round((site + rng.normal(0, 0.06 * c.size, 2)) * 2**_SUBPIXEL).astype(int).tolist()
            sheet, radius = np.zeros((c.size, c.size), np.uint8), rng.uniform(0.008, 0.022) * c.size
            cv2.circle(sheet, (x, y), int(radius * 2**_SUBPIXEL), 255, -1, cv2.LINE_AA, _SUBPIXEL)
            alpha = np.maximum(alpha, sheet.astype(np.float32) / 255)
    elif kind == 1:
        alpha = _stroke(c, _path(c, rng.uniform(0.2, 0.5), 0.25, 4, 20), rng.uniform(1, 2.2) * c.size / 128)
    else:
        alpha = _blob(c, (0.025, 0.07), 0.7)
    alpha = alpha * c.region
    colour = hsv(rng, rng.random(), rng.uniform(0, 0.9), rng.uniform(0.05, 1))
    image = c.image * (1 - 0.35 * shift(alpha, 1.5 * np.cos(c.light), 1.5 * np.sin(c.light)) * c.region)[..., None]
    ground = np.clip(colour * (1 + 0.25 * perlin(rng, c.size, 64))[..., None], 0, 1)
    return blend(image, alpha * rng.uniform(0.8, 1), ground), alpha


def misprint(c: Canvas, rng: Generator) -> Damage:
    """Print or pattern in the wrong place: smeared, doubled, shifted or cut off."""
    far = rng.uniform(0.04, 0.12) * c.size
    shifted = shift(c.image, far * np.cos(c.light), far * np.sin(c.light), cv2.BORDER_REFLECT)
    if c.prints and rng.random() < 0.6:
        mask, clean = c.prints[rng.integers(len(c.prints))]
        near = _blob(c, (0.12, 0.3), 0.2, 0.015)
        area = cv2.dilate(mask, np.ones((3, 3), np.uint8), iterations=max(1, c.size // 64)) * near
        replaced = clean if rng.random() < 0.5 else np.minimum(clean, cv2.blur(shifted, (5, 1)))
        return blend(c.image, area, replaced), area
    u, v = _offsets(c, _site(c))
    half = rng.uniform(0.06, 0.16, 2)
    area = np.clip((half[0] - np.abs(u)) * c.size, 0, 1) * np.clip((half[1] - np.abs(v)) * c.size, 0, 1) * c.region
    wrong = cv2.flip(shifted, int(rng.integers(-1, 2))) if rng.random() < 0.4 else shifted
    return blend(c.image, area, wrong), area.astype(np.float32)


def discoloration(c: Canvas, rng: Generator) -> Damage:
    """The surface keeps its pattern but has another hue or is bleached or burnt."""
    alpha = _blob(c, (0.05, 0.2), 0.5, rng.uniform(0.02, 0.08)) * c.region
    if rng.random() < 0.5:
        change = rng.uniform(0.3, 1) * (hsv(rng, rng.random(), 0.7, 0.9) / 0.55 - 1)
        other = c.image.mean(-1, keepdims=True) * (1 + change)
    else:
        other = c.image * rng.choice([rng.uniform(0.35, 0.7), rng.uniform(1.3, 1.8)])
    return blend(c.image, alpha, np.clip(other, 0, 1).astype(np.float32)), alpha


def distortion(c: Canvas, rng: Generator) -> Damage:
    """The pattern is pulled or twisted locally."""
    (col, row), (rows, cols) = _site(c), np.mgrid[0 : c.size, 0 : c.size].astype(np.float32)
    dx, dy, r = cols - col, rows - row, rng.uniform(0.09, 0.2) * c.size
    fade = np.clip(1 - np.hypot(dx, dy) / r, 0, 1)
    if rng.random() < 0.5:
        angle = rng.choice([-1, 1]) * rng.uniform(1.0, 3.0) * fade
        cols = col + np.cos(angle) * dx - np.sin(angle) * dy
        rows = row + np.sin(angle) * dx + np.cos(angle) * dy
    else:
        pull, heading = rng.uniform(0.4, 0.9) * r * fade**0.7, rng.uniform(0, 2 * np.pi)
        cols, rows = cols + pull * np.cos(heading), rows + pull * np.sin(heading)
    alpha = np.clip(fade * 4, 0, 1) * cv2.dilate(c.region, np.ones((3, 3), np.uint8))
    return blend(c.image, alpha, _warp(c.image, cols, rows)), alpha


_ALL = (scratch, crack, stain, hole, dent, missing, chip, contamination, misprint, discoloration, distortion)
DEFECTS: dict[str, Callable[[Canvas, Generator], Damage]] = {function.__name__: function for function in _ALL}
# Defects whose mask is restricted to changed pixels: moving equal parts of a pattern is not a visible defect.
_BY_CHANGE = {"missing", "misprint", "distortion"}


def _outline(name: str, before: np.ndarray, after: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Convert an opacity to a binary mask ``(S, S)`` uint8 of visible damage."""
    mask = alpha > 0.35
    if name in _BY_CHANGE:
        change = np.abs(after - before).mean(-1) > 0.025
        reach = max(3, before.shape[0] // 32) | 1
        closed = cv2.morphologyEx(change.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((reach, reach), np.uint8))
        mask &= cv2.morphologyEx(closed, cv2.MORPH_OPEN, np.ones((2, 2), np.uint8)) > 0
    return mask.astype(np.uint8)


def damage(c: Canvas, name: str) -> np.ndarray:
    """Damage the scene in place with the most visible of up to eight tries; return the binary mask ``(S, S)`` uint8."""
    best, best_change = None, -1.0
    for _ in range(8):
        image, alpha = DEFECTS[name](c, c.rng)
        image = np.clip(image, 0, 1).astype(np.float32)
        mask = _outline(name, c.image, image, alpha)
        change = float(np.abs(image - c.image).mean(-1)[mask > 0].mean()) if mask.any() else 0.0
        if LEAST_AREA <= mask.mean() <= GREATEST_AREA and change > best_change:
            best, best_change = (image, mask), change
        if best_change >= LEAST_CHANGE:
            break
    if best is None:
        return damage(c, "stain")
    c.image = best[0]
    return best[1]


def damage_window(c: Canvas, name: str, side: int) -> np.ndarray:
    """Damage a window of ``side`` pixels as :func:`damage` would a whole image: a small defect in a large image."""
    edge = _edge(c) if name in {"chip", "missing"} else ()
    centre = c.rng.choice(edge)[::-1] if len(edge) else _site(c)
    left, top = (int(np.clip(at - side / 2, 0, c.size - side)) for at in centre)
    place = np.s_[top : top + side, left : left + side]
    line = np.clip((np.minimum(np.arange(side), np.arange(side)[::-1]) + 0.5) / _FADE, 0, 1).astype(np.float32)
    fade = line[:, None] * line
    window = copy(c)
    window.size, window.image, window.background = side, c.image[place], c.background[place]
    window.region = c.region[place] * fade
    window.parts = [(part[place], under[place]) for part, under in c.parts if part[place].sum() == part.sum()]
    window.prints = [(ink[place] * fade, clean[place]) for ink, clean in c.prints]
    mask = np.zeros((c.size, c.size), np.uint8)
    mask[place] = damage(window, name)
    c.image = c.image.copy()  # scenes keep views of earlier states
    c.image[place] = window.image
    return mask
