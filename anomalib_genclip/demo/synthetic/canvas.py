# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Canvas that scenes are painted on: image ``(S, S, 3)`` and masks ``(S, S)``, float32 in ``[0, 1]``.

Object coordinates are rotated, shifted and scaled relative to the image: an object fills about ``[-1, 1]``.
"""

import colorsys
from collections.abc import Callable, Iterator
from functools import lru_cache

import cv2
import numpy as np
import torch
from anomalib.data.utils.generators.perlin import generate_perlin_noise
from numpy.random import Generator


@lru_cache(maxsize=1)
def _perlin_bank() -> dict[int, np.ndarray]:
    """Return Perlin noise by cells across, ``(8, 256, 256)`` in ``[-1, 1]``: once, and without torch's random state."""
    bank, side, cpu = {}, 256, torch.device("cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for cells in (2, 4, 8, 16, 32, 64):
            noise = np.stack([generate_perlin_noise(side, side, (cells, cells), cpu).numpy() for _ in range(8)])
            bank[cells] = (noise / np.abs(noise).max((1, 2), keepdims=True)).astype(np.float32)
    return bank


def perlin(rng: Generator, size: int, cells: int) -> np.ndarray:
    """Crop Perlin noise ``(size, size)`` in ``[-1, 1]`` at random; ``cells`` is one of the bank's, per 256 pixels."""
    stack = _perlin_bank()[cells]
    noise = stack[rng.integers(len(stack))]
    if size > noise.shape[0]:
        noise = cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
    top, left = rng.integers(0, noise.shape[0] - size + 1, 2)
    noise = noise[top : top + size, left : left + size]
    if rng.random() < 0.5:
        noise = noise.T
    return noise[:: rng.choice([-1, 1]), :: rng.choice([-1, 1])]


def fractal(rng: Generator, size: int, coarse: int = 4, octaves: int = 4) -> np.ndarray:
    """Sum octaves of Perlin noise from ``coarse`` to at most 64 cells: ``(size, size)``, about ``[-1, 1]``."""
    layers = [(0.5**i, coarse * 2**i) for i in range(octaves) if coarse * 2**i <= 64]
    total = np.sum([weight * perlin(rng, size, cells) for weight, cells in layers], axis=0)
    return total / sum(weight for weight, _ in layers) * 1.3


def hsv(rng: Generator, hue: float, saturation: float, value: float, spread: float = 0.05) -> np.ndarray:
    """Draw an RGB colour near the given hue, saturation and value (all in ``[0, 1]``)."""
    h = (hue + rng.uniform(-spread, spread)) % 1
    s = np.clip(saturation + rng.uniform(-2, 2) * spread, 0, 1)
    return np.array(colorsys.hsv_to_rgb(h, s, np.clip(value + rng.uniform(-2, 2) * spread, 0.04, 1)), np.float32)


def grey(rng: Generator, low: float, high: float) -> np.ndarray:
    """Draw an almost neutral RGB colour whose brightness lies between ``low`` and ``high``."""
    return np.clip(rng.uniform(low, high) + rng.normal(0, 0.012, 3), 0, 1).astype(np.float32)


def blend(image: np.ndarray, alpha: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Blend ``colour`` (``(3,)`` or ``(S, S, 3)``) into ``image`` with opacity ``alpha`` ``(S, S)``."""
    return image + alpha[..., None] * (colour - image)


def shift(image: np.ndarray, dx: float, dy: float, border: int = cv2.BORDER_CONSTANT) -> np.ndarray:
    """Move an image or mask by so many pixels; ``border`` is OpenCV's border mode."""
    return cv2.warpAffine(image, np.array([[1, 0, dx], [0, 1, dy]], np.float32), image.shape[1::-1], borderMode=border)


def relief(height: np.ndarray, angle: float, strength: float) -> np.ndarray:
    """Return the brightness ``(S, S)`` to add to a height field lit from ``angle`` (radians); zero where it is flat."""
    dx = cv2.Sobel(height.astype(np.float32), cv2.CV_32F, 1, 0, ksize=3)
    dy = cv2.Sobel(height.astype(np.float32), cv2.CV_32F, 0, 1, ksize=3)
    return np.clip(strength * (dx * np.cos(angle) + dy * np.sin(angle)), -0.5, 0.5)


def ring(count: int, radius: float, turn: float = 0) -> Iterator[tuple[float, float]]:
    """Yield ``count`` evenly spaced points on a circle around the origin."""
    for k in range(count):
        angle = 2 * np.pi * k / count + turn
        yield radius * np.cos(angle), radius * np.sin(angle)


class Canvas:
    """A scene under construction: ``size`` pixels wide, its coordinates scaled by ``zoom`` (minimum and maximum)."""

    def __init__(self, size: int, rng: Generator, zoom: tuple[float, float] = (0.85, 1.1), shift: float = 0.1) -> None:
        self.size, self.rng = size, rng
        angle, scale = rng.uniform(-np.pi, np.pi), rng.uniform(*zoom)
        centre = rng.uniform(-shift, shift, 2)
        rows, cols = np.mgrid[0:size, 0:size].astype(np.float32)
        u, v = (2 * cols + 1) / size - 1 - centre[0], (2 * rows + 1) / size - 1 - centre[1]
        self.x = ((np.cos(angle) * u + np.sin(angle) * v) / scale).astype(np.float32)  # object coordinates, (S, S)
        self.y = ((-np.sin(angle) * u + np.cos(angle) * v) / scale).astype(np.float32)
        self.px = 2 / size / scale  # side of a pixel in them
        self.light = rng.uniform(-np.pi, np.pi)  # its direction, the same for all reliefs
        self.image = self.background = np.full((size, size, 3), 0.5, np.float32)
        self.region = np.ones((size, size), np.float32)  # where a defect may lie
        # What can be missing and what can be misprinted: mask, and image without it.
        self.parts: list[tuple[np.ndarray, np.ndarray]] = []
        self.prints: list[tuple[np.ndarray, np.ndarray]] = []

    def circle(self, radius: float, cx: float = 0, cy: float = 0) -> np.ndarray:
        """Signed distance to a disc in object coordinates, negative inside, ``(S, S)``."""
        return np.hypot(self.x - cx, self.y - cy) - radius

    def box(self, half_w: float, half_h: float, cx: float = 0, cy: float = 0, corner: float = 0) -> np.ndarray:
        """Signed distance to an upright rectangle with rounded corners."""
        qx, qy = np.abs(self.x - cx) - half_w + corner, np.abs(self.y - cy) - half_h + corner
        return np.hypot(np.maximum(qx, 0), np.maximum(qy, 0)) + np.minimum(np.maximum(qx, qy), 0) - corner

    def polygon(self, sides: int, radius: float) -> np.ndarray:
        """Signed distance (exact inside) to a regular polygon with the given inner radius."""
        (r, angle), step = self.polar, 2 * np.pi / sides
        return r * np.cos(np.mod(angle, step) - step / 2) - radius

    @property
    def polar(self) -> tuple[np.ndarray, np.ndarray]:
        """Distance from the origin and angle (radians) of every pixel, ``(S, S)``."""
        return np.hypot(self.x, self.y), np.arctan2(self.y, self.x)

    def sector(self, at: float, half: float) -> np.ndarray:
        """Whether a pixel lies at most ``half`` radians from the direction ``at``, ``(S, S)`` bool."""
        return np.abs(np.mod(self.polar[1] - at + np.pi, 2 * np.pi) - np.pi) < half

    def mask(self, distance: np.ndarray) -> np.ndarray:
        """Turn a signed distance into an antialiased mask."""
        return np.clip(0.5 - distance / self.px, 0, 1)

    def fill(self, colour: np.ndarray) -> None:
        """Cover the whole image with one colour."""
        self.image = np.broadcast_to(colour, self.image.shape).astype(np.float32)

    def paint(self, distance: np.ndarray, colour: np.ndarray, alpha: float = 1, part: bool = False) -> np.ndarray:
        """Fill a shape; with ``part`` remember it as something that can be missing. Return its mask."""
        mask = self.mask(distance)
        if part:
            self.parts.append((mask, self.image))
        self.image = blend(self.image, alpha * mask, colour)
        return mask

    def place(self, distance: np.ndarray, colour: np.ndarray | None = None, shadow: float = 0.35) -> np.ndarray:
        """Make a shape the object: it casts a shadow and is what may be damaged. Return its mask."""
        pixels = 0.4 * 0.12 / self.px
        self.region = self.mask(distance)
        moved = shift(self.region, np.cos(self.light) * pixels, np.sin(self.light) * pixels)
        self.shade(-shadow * cv2.GaussianBlur(moved, (0, 0), max(pixels, 0.5)))
        return self.region if colour is None else self.paint(distance, colour)

    def print(self, mask: np.ndarray, colour: np.ndarray) -> None:
        """Lay ink over a mask and remember it as something that can be misprinted."""
        self.prints.append((mask, self.image))
        self.image = blend(self.image, 0.9 * mask, colour)

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

    def backdrop(self) -> None:
        """Paint a table for an object to lie on: plain, cloudy, striped or speckled."""
        rng = self.rng
        self.fill(hsv(rng, rng.random(), rng.uniform(0, 0.35), rng.uniform(0.15, 0.95)))
        kind = rng.integers(4)
        if kind == 1:
            self.grain(rng.uniform(0.03, 0.12), int(rng.choice([2, 4, 8])))
        elif kind == 2:
            angle, pitch = rng.uniform(0, np.pi), rng.uniform(8, 50)
            self.shade(rng.uniform(0.01, 0.05) * np.sin(pitch * (self.x * np.cos(angle) + self.y * np.sin(angle))))
        elif kind == 3:
            self.grain(rng.uniform(0.02, 0.09), 64)
        self.background = self.image


Painter = Callable[[Canvas, Generator], None]


def voronoi(c: Canvas, cell: float) -> tuple[np.ndarray, np.ndarray]:
    """Split the sheet into cells of a mean side: distance to the nearest border and number, each ``(S, S)``."""
    gx, gy = np.floor(c.x / cell), np.floor(c.y / cell)
    offset = c.rng.uniform(0, 1, (64, 64, 2)).astype(np.float32)
    i, j = np.mgrid[-1:2, -1:2].reshape(2, 9, 1, 1)  # the cell of a pixel and its neighbours
    col, row = (gx + i).astype(np.int32), (gy + j).astype(np.int32)
    dx, dy = np.moveaxis(offset[row % 64, col % 64], -1, 0)
    distance = np.hypot((col + dx) * cell - c.x, (row + dy) * cell - c.y).astype(np.float32)
    nearest, second = np.partition(distance, 1, 0)[:2]
    return (second - nearest) / 2, np.choose(distance.argmin(0), row % 64 * 64 + col % 64)
