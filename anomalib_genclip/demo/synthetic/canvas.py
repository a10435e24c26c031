# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Canvas that scenes are painted on: image, object coordinates, and regions that may be damaged.

Everything is float32 in ``[0, 1]``; an image is ``(S, S, 3)``, a mask ``(S, S)``. Object coordinates are rotated,
shifted and scaled relative to the image: an object fills about ``[-1, 1]``.
"""

import colorsys
from dataclasses import dataclass, field
from functools import lru_cache

import cv2
import numpy as np
import torch
from anomalib.data.utils.generators.perlin import generate_perlin_noise

Colour = np.ndarray
_BANK_SIDE = 256


@lru_cache(maxsize=1)
def _perlin_bank() -> dict[int, np.ndarray]:
    """Return Perlin noise by number of cells across, each ``(8, 256, 256)`` in ``[-1, 1]``.

    anomalib's function takes about a millisecond per call and uses torch's global random state; a bank computed once
    per process from a fixed seed keeps rendering fast and that state unchanged.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        bank = {
            cells: np.stack(
                [
                    generate_perlin_noise(_BANK_SIDE, _BANK_SIDE, (cells, cells), torch.device("cpu")).numpy()
                    for _ in range(8)
                ],
            )
            for cells in (2, 4, 8, 16, 32, 64)
        }
    return {
        cells: (noise / np.abs(noise).max((1, 2), keepdims=True)).astype(np.float32) for cells, noise in bank.items()
    }


def perlin(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Crop Perlin noise at random.

    Args:
        rng: Source of randomness.
        size: Side of the result in pixels, at most 256.
        cells: Noise cells per 256 pixels: 2, 4, 8, 16, 32 or 64. More cells give finer noise.

    Returns:
        Noise ``(size, size)`` in ``[-1, 1]``.
    """
    stack = _perlin_bank()[cells]
    noise = stack[rng.integers(len(stack))]
    if size > _BANK_SIDE:
        noise = cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
    top, left = rng.integers(0, noise.shape[0] - size + 1, 2)
    noise = noise[top : top + size, left : left + size]
    if rng.random() < 0.5:
        noise = noise.T
    return noise[:: rng.choice([-1, 1]), :: rng.choice([-1, 1])]


def fractal(rng: np.random.Generator, size: int, coarse: int = 4, octaves: int = 4) -> np.ndarray:
    """Sum octaves of Perlin noise.

    Args:
        rng: Source of randomness.
        size: Side in pixels.
        coarse: Cells of the coarsest octave per 256 pixels, a power of two from 2 to 64.
        octaves: Number of octaves; those finer than 64 cells are left out.

    Returns:
        Noise ``(size, size)``, about ``[-1, 1]``.
    """
    layers = [(0.5**i, coarse * 2**i) for i in range(octaves) if coarse * 2**i <= 64]
    total = np.sum([weight * perlin(rng, size, cells) for weight, cells in layers], axis=0)
    return total / sum(weight for weight, _ in layers) * 1.3


def hsv(rng: np.random.Generator, hue: float, saturation: float, value: float, spread: float = 0.05) -> Colour:
    """Draw an RGB colour near the given hue, saturation and value (all in ``[0, 1]``)."""
    h = (hue + rng.uniform(-spread, spread)) % 1
    s = np.clip(saturation + rng.uniform(-2, 2) * spread, 0, 1)
    v = np.clip(value + rng.uniform(-2, 2) * spread, 0.04, 1)
    return np.array(colorsys.hsv_to_rgb(h, s, v), np.float32)


def grey(rng: np.random.Generator, low: float, high: float) -> Colour:
    """Draw an almost neutral colour whose brightness lies between ``low`` and ``high``."""
    return np.clip(rng.uniform(low, high) + rng.normal(0, 0.012, 3), 0, 1).astype(np.float32)


def blend(image: np.ndarray, alpha: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Blend ``colour`` (``(3,)`` or ``(S, S, 3)``) into ``image`` with opacity ``alpha`` ``(S, S)``."""
    return image + alpha[..., None] * (colour - image)


def relief(height: np.ndarray, angle: float, strength: float) -> np.ndarray:
    """Shade a height field lit from ``angle`` (radians).

    Returns:
        Brightness to add, ``(S, S)``, zero where the surface is flat.
    """
    dx = cv2.Sobel(height.astype(np.float32), cv2.CV_32F, 1, 0, ksize=3)
    dy = cv2.Sobel(height.astype(np.float32), cv2.CV_32F, 0, 1, ksize=3)
    return np.clip(strength * (dx * np.cos(angle) + dy * np.sin(angle)), -0.5, 0.5)


@dataclass
class Canvas:
    """A scene under construction.

    Args:
        size: Side ``S`` in pixels.
        rng: Source of randomness.
        turn: Maximum rotation in radians.
        zoom: Minimum and maximum scale of the object coordinates.
        shift: Maximum shift as a share of half the image side.

    Attributes:
        image: The painted image, ``(S, S, 3)``.
        x, y: Object coordinates of every pixel, ``(S, S)``.
        px: Side of a pixel in object coordinates.
        region: Where a defect may lie, ``(S, S)``; all ones until an object sets it.
        parts: Parts that can be missing: mask and image without the part.
        prints: Printed or patterned spots that can be misprinted: mask and image without the print.
        light: Direction of the light in radians; the same for all reliefs of the scene.
    """

    size: int
    rng: np.random.Generator
    turn: float = np.pi
    zoom: tuple[float, float] = (0.85, 1.1)
    shift: float = 0.1
    image: np.ndarray = field(init=False)
    parts: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    prints: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Draw the pose and lay out the coordinates."""
        rng, size = self.rng, self.size
        angle, zoom = rng.uniform(-self.turn, self.turn), rng.uniform(*self.zoom)
        centre = rng.uniform(-self.shift, self.shift, 2)
        rows, cols = np.mgrid[0:size, 0:size].astype(np.float32)
        u, v = (2 * cols + 1) / size - 1 - centre[0], (2 * rows + 1) / size - 1 - centre[1]
        self.x = ((np.cos(angle) * u + np.sin(angle) * v) / zoom).astype(np.float32)
        self.y = ((-np.sin(angle) * u + np.cos(angle) * v) / zoom).astype(np.float32)
        self.px = 2 / size / zoom
        self.light = rng.uniform(-np.pi, np.pi)
        self.image = np.full((size, size, 3), 0.5, np.float32)
        self.region = np.ones((size, size), np.float32)
        self.background = self.image

    # Shapes: signed distances in object coordinates, negative inside -------------------------------------------------

    def circle(self, radius: float, cx: float = 0, cy: float = 0) -> np.ndarray:
        """Signed distance to a disc."""
        return np.hypot(self.x - cx, self.y - cy) - radius

    def box(self, half_w: float, half_h: float, cx: float = 0, cy: float = 0, corner: float = 0) -> np.ndarray:
        """Signed distance to an upright rectangle with rounded corners."""
        qx, qy = np.abs(self.x - cx) - half_w + corner, np.abs(self.y - cy) - half_h + corner
        return np.hypot(np.maximum(qx, 0), np.maximum(qy, 0)) + np.minimum(np.maximum(qx, qy), 0) - corner

    def polygon(self, sides: int, radius: float, cx: float = 0, cy: float = 0, turn: float = 0) -> np.ndarray:
        """Signed distance (exact inside) to a regular polygon with the given inner radius."""
        x, y = self.x - cx, self.y - cy
        step = 2 * np.pi / sides
        angle = np.mod(np.arctan2(y, x) + turn, step) - step / 2
        return np.hypot(x, y) * np.cos(angle) - radius

    def mask(self, distance: np.ndarray) -> np.ndarray:
        """Turn a signed distance into an antialiased mask."""
        return np.clip(0.5 - distance / self.px, 0, 1)

    # Painting -----------------------------------------------------------------------------------------------------

    def paint(self, distance: np.ndarray, colour: np.ndarray, alpha: float = 1, part: bool = False) -> np.ndarray:
        """Fill a shape; with ``part`` remember it as something that can be missing. Return its mask."""
        mask = self.mask(distance)
        if part:
            self.parts.append((mask, self.image))
        self.image = blend(self.image, alpha * mask, colour)
        return mask

    def print(self, mask: np.ndarray, colour: np.ndarray, alpha: float = 0.9) -> None:
        """Lay ink over a mask and remember it as something that can be misprinted."""
        self.prints.append((mask, self.image))
        self.image = blend(self.image, alpha * mask, colour)

    def shade(self, brightness: np.ndarray, mask: np.ndarray | float = 1) -> None:
        """Add brightness ``(S, S)``."""
        self.image = np.clip(self.image + (brightness * mask)[..., None], 0, 1)

    def grain(self, strength: float, coarse: int = 16, mask: np.ndarray | float = 1) -> None:
        """Add uneven brightness in the manner of an unpolished surface."""
        self.shade(strength * fractal(self.rng, self.size, coarse, 3), mask)

    def bevel(self, distance: np.ndarray, width: float, strength: float) -> None:
        """Give a shape a lit edge of the given width in object coordinates."""
        height = np.clip(-distance / width, 0, 1) * width / self.px
        self.shade(relief(height, self.light, strength / 8) * self.mask(distance))

    def shadow(self, distance: np.ndarray, strength: float = 0.35, reach: float = 0.12) -> None:
        """Darken what lies beside a shape, away from the light."""
        pixels = 0.4 * reach / self.px
        move = np.array([[1, 0, np.cos(self.light) * pixels], [0, 1, np.sin(self.light) * pixels]], np.float32)
        moved = cv2.warpAffine(self.mask(distance), move, (self.size, self.size))
        self.shade(-strength * cv2.GaussianBlur(moved, (0, 0), max(pixels, 0.5)))

    def backdrop(self, colour: np.ndarray | None = None) -> None:
        """Paint a table for an object to lie on: plain, cloudy, striped or speckled."""
        rng = self.rng
        colour = hsv(rng, rng.random(), rng.uniform(0, 0.35), rng.uniform(0.15, 0.95)) if colour is None else colour
        self.image = np.broadcast_to(colour, self.image.shape).astype(np.float32)
        kind = rng.integers(4)
        if kind == 1:
            self.grain(rng.uniform(0.03, 0.12), int(rng.choice([2, 4, 8])))
        elif kind == 2:
            angle, pitch = rng.uniform(0, np.pi), rng.uniform(8, 50)
            self.shade(rng.uniform(0.01, 0.05) * np.sin(pitch * (self.x * np.cos(angle) + self.y * np.sin(angle))))
        elif kind == 3:
            self.grain(rng.uniform(0.02, 0.09), 64)
        self.background = self.image


def voronoi(canvas: Canvas, cell: float, jitter: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split the sheet into random cells.

    Args:
        canvas: Gives coordinates and randomness.
        cell: Mean cell side in object coordinates.
        jitter: 0 for a square lattice of centres, 1 for a random one.

    Returns:
        Distance to the nearest centre, distance to the nearest border (both in object coordinates) and the
        number of the nearest centre, each ``(S, S)``.
    """
    gx, gy = np.floor(canvas.x / cell), np.floor(canvas.y / cell)
    offset = canvas.rng.uniform(0.5 - jitter / 2, 0.5 + jitter / 2, (64, 64, 2)).astype(np.float32)
    shape = (*canvas.x.shape, 9)
    distance, number = np.empty(shape, np.float32), np.empty(shape, np.int32)
    for k, (i, j) in enumerate((i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)):
        col, row = (gx + i).astype(np.int32), (gy + j).astype(np.int32)
        shiftxy = offset[row % 64, col % 64]
        distance[..., k] = np.hypot(
            (col + shiftxy[..., 0]) * cell - canvas.x,
            (row + shiftxy[..., 1]) * cell - canvas.y,
        )
        number[..., k] = (row % 64) * 64 + col % 64
    nearest = distance.argmin(-1)[..., None]
    two = np.partition(distance, 1, -1)
    return two[..., 0], (two[..., 1] - two[..., 0]) / 2, np.take_along_axis(number, nearest, -1)[..., 0]
