# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Textures: each function covers a :class:`Canvas` with one material, with this piece's own colour, scale and pose."""

import numpy as np
from numpy.random import Generator

from .canvas import Canvas, Painter, blend, fractal, grey, hsv, perlin, relief, voronoi


def _weave(c: Canvas, rng: Generator) -> None:
    hue, pitch = rng.random(), rng.uniform(14, 22)
    warp, weft = hsv(rng, hue, 0.35, 0.7), hsv(rng, hue + rng.uniform(-0.1, 0.1), 0.3, 0.6)
    wobble = 0.03 * fractal(rng, c.size, 4, 2)
    u, v = (c.x + wobble) * pitch, (c.y + wobble) * pitch
    over = np.sin(u / 2) * np.sin(v / 2) > 0
    c.image = np.where(over[..., None], warp, weft)
    c.shade(np.where(over, 0.14 * np.abs(np.cos(u / 2)), 0.14 * np.abs(np.cos(v / 2))) - 0.1)
    c.grain(0.05, 64)


def _wood(c: Canvas, rng: Generator) -> None:
    bend = 0.35 * fractal(rng, c.size, 2, 2)
    growth = 0.5 + 0.5 * np.sin(rng.uniform(14, 30) * (c.y + bend + 0.1 * c.x) + rng.uniform(0, 6))
    light = hsv(rng, 0.08, 0.5, 0.75, 0.03)
    c.fill(light)
    c.image = blend(c.image, growth**2 * rng.uniform(0.4, 0.8), light * rng.uniform(0.45, 0.7))
    c.shade(0.06 * np.sin(90 * (c.y + bend) + 6 * perlin(rng, c.size, 64)))
    c.grain(0.04)


def _brushed_metal(c: Canvas, rng: Generator) -> None:
    c.fill(grey(rng, 0.4, 0.75) * hsv(rng, rng.random(), 0.06, 0.97))
    lines = np.convolve(rng.normal(0, 1, 512), np.ones(2) / 2, "same")
    c.shade(rng.uniform(0.05, 0.1) * np.interp(np.clip((c.y * 0.25 + 0.5) * 511, 0, 510), np.arange(512), lines))
    c.shade(0.15 * np.exp(-(((c.y - rng.uniform(-1, 1)) / rng.uniform(0.4, 1.2)) ** 2)) - 0.05)
    c.grain(0.03, 32)


def _leather(c: Canvas, rng: Generator) -> None:
    c.fill(hsv(rng, rng.choice([0.06, 0.0, 0.6, 0.09]), 0.5, rng.uniform(0.3, 0.65), 0.03))
    border, _ = voronoi(c, rng.uniform(0.1, 0.16))
    c.shade(relief(np.minimum(border * 16, 1) + 0.3 * perlin(rng, c.size, 32), c.light, 0.06))
    c.shade(0.16 * (np.minimum(border * 20, 1) - 0.8))
    c.grain(0.06, 8)


def _tile(c: Canvas, rng: Generator) -> None:
    pitch, hue = rng.uniform(0.55, 0.8), rng.random()
    i, j = np.floor(c.x / pitch).astype(int), np.floor(c.y / pitch).astype(int)
    tone = rng.uniform(-0.06, 0.06, (32, 32))[i % 32, j % 32]
    c.fill(hsv(rng, hue, 0.3, 0.7))
    c.shade(tone)
    edge = np.minimum(*(np.abs(np.mod(a / pitch, 1) - 0.5) * -pitch + pitch / 2 for a in (c.x, c.y)))
    c.grain(0.05)
    c.shade(relief(np.clip(edge / 0.05, 0, 1) * 2, c.light, 0.04))
    c.paint(edge - 0.025, grey(rng, 0.25, 0.85))


def _grid(c: Canvas, rng: Generator) -> None:
    pitch, half = rng.uniform(0.2, 0.3), rng.uniform(0.022, 0.035)
    c.fill(grey(rng, 0.05, 0.35))
    c.grain(0.05, 8)
    bar = grey(rng, 0.55, 0.9)
    for axis in (c.x, c.y):
        distance = np.abs(np.mod(axis, pitch) - pitch / 2) - half
        c.paint(distance, bar)
        c.bevel(distance, half, 0.7)
    c.grain(0.03, 64)


def _paper(c: Canvas, rng: Generator) -> None:
    c.fill(hsv(rng, 0.12, 0.08, 0.92, 0.03))
    c.grain(0.03, 64)
    pitch = rng.uniform(0.16, 0.24)
    row = np.abs(np.mod(c.y, pitch) - pitch / 2)
    letters = perlin(rng, c.size, 64) + 0.6 * np.sin(c.x * rng.uniform(40, 70)) > rng.uniform(-0.1, 0.15)
    c.prints.append((np.clip((pitch * 0.3 - row) / c.px, 0, 1), c.image))
    ink = c.mask(row - pitch * 0.25) * letters
    c.image = blend(c.image, ink * rng.uniform(0.5, 0.85), hsv(rng, rng.random(), 0.3, 0.2))


def _concrete(c: Canvas, rng: Generator) -> None:
    c.fill(grey(rng, 0.4, 0.75))
    c.grain(rng.uniform(0.06, 0.12), 4)
    c.grain(rng.uniform(0.06, 0.14), 64)
    c.shade(-0.15 * (perlin(rng, c.size, 64) > rng.uniform(0.55, 0.7)))


def _carpet(c: Canvas, rng: Generator) -> None:
    hue = rng.random()
    c.fill(hsv(rng, hue, 0.45, 0.5))
    u = c.x * rng.uniform(24, 32) + 0.5 * perlin(rng, c.size, 32)
    v = c.y * rng.uniform(14, 20) + 0.5 * perlin(rng, c.size, 32)
    c.shade(0.16 * (np.sin(u + 2.0 * np.round(v / np.pi)) * np.cos(v)))
    flecks = (perlin(rng, c.size, 64) > 0.35) * rng.uniform(0.2, 0.6)
    c.image = blend(c.image, flecks, hsv(rng, hue + rng.uniform(0.1, 0.5), 0.4, 0.6))
    c.grain(0.07, 32)


def _knit(c: Canvas, rng: Generator) -> None:
    c.fill(hsv(rng, rng.random(), 0.45, 0.65))
    pitch = rng.uniform(0.17, 0.24)
    across = np.mod(c.x / pitch, 1)
    along = c.y / (pitch * 0.8) + np.abs(across - 0.5) * 2 * 0.8
    c.shade(0.18 * np.cos(2 * np.pi * along) * np.clip(np.sin(np.pi * np.mod(across * 2, 1)) * 1.4, 0, 1))
    c.shade(-0.22 * np.exp(-((np.minimum(across, 1 - across) / 0.09) ** 2)))
    c.grain(0.07, 64)


def _cork(c: Canvas, rng: Generator) -> None:
    border, number = voronoi(c, rng.uniform(0.12, 0.2))
    tones = rng.uniform(0.75, 1.15, 4096)
    c.fill(hsv(rng, 0.085, 0.5, 0.68, 0.02))
    c.image = np.clip(c.image * tones[number][..., None], 0, 1).astype(np.float32)
    c.shade(-0.25 * np.exp(-((border / 0.012) ** 2)))
    c.grain(0.09, 32)


def _marble(c: Canvas, rng: Generator) -> None:
    c.fill(hsv(rng, rng.random(), 0.06, rng.uniform(0.6, 0.9)))
    warp = fractal(rng, c.size, 4, 4)
    vein = 1 - np.abs(np.sin(rng.uniform(3, 6) * c.x + rng.uniform(2, 4) * warp))
    c.image = blend(c.image, np.clip(vein, 0, 1) ** 6 * rng.uniform(0.4, 0.8), hsv(rng, rng.random(), 0.2, 0.35))
    c.grain(0.08, 4)


def _perforated_sheet(c: Canvas, rng: Generator) -> None:
    pitch = rng.uniform(0.28, 0.4)
    radius = pitch * rng.uniform(0.26, 0.36)
    metal, ground = grey(rng, 0.5, 0.85), grey(rng, 0.03, 0.25)
    c.fill(metal)
    c.grain(0.06)
    dx = np.mod(c.x + pitch / 2 * np.mod(np.floor(c.y / (pitch * 0.866)), 2), pitch) - pitch / 2
    distance = np.hypot(dx, np.mod(c.y, pitch * 0.866) - pitch * 0.433) - radius
    plain = c.image
    c.paint(distance, ground)
    c.shade(relief(np.clip(distance / 0.04, 0, 1), c.light, 0.06))
    for n, m in rng.integers(-2, 3, (3, 2)):
        cx, cy = (m + 0.5 - 0.5 * (n % 2)) * pitch, (n + 0.5) * pitch * 0.866
        c.parts.append((c.mask(c.circle(radius * 1.15, cx, cy)), plain))


def _corrugated_cardboard(c: Canvas, rng: Generator) -> None:
    c.fill(hsv(rng, 0.09, 0.4, 0.68, 0.02))
    wave = np.sin(c.x * rng.uniform(16, 26) + 0.3 * perlin(rng, c.size, 4))
    c.shade(rng.uniform(0.06, 0.14) * wave)
    c.grain(0.05, 64)
    c.grain(0.05, 8)


def _rubber_mat(c: Canvas, rng: Generator) -> None:
    pitch = rng.uniform(0.3, 0.42)
    radius = pitch * rng.uniform(0.24, 0.34)
    c.fill(hsv(rng, rng.random(), rng.uniform(0, 0.4), 0.25))
    c.grain(0.05, 64)
    flat = c.image
    distance = np.hypot(np.mod(c.x, pitch) - pitch / 2, np.mod(c.y, pitch) - pitch / 2) - radius
    c.shade(0.1 * c.mask(distance))
    c.bevel(distance, radius * 0.5, 1.0)
    for n, m in rng.integers(-3, 3, (3, 2)) + 0.5:
        c.parts.append((c.mask(c.circle(radius * 1.2, n * pitch, m * pitch)), flat))


def _honeycomb(c: Canvas, rng: Generator) -> None:
    size = rng.uniform(0.26, 0.38)
    ax, ay = size * 0.866, size * 1.5
    near = []
    for sx, sy in ((0, 0), (ax, ay)):  # two rectangular lattices make the hexagonal one
        dx, dy = np.mod(c.x + sx + ax, 2 * ax) - ax, np.mod(c.y + sy + ay, 2 * ay) - ay
        near += [np.hypot(dx - ox, dy) for ox in (-2 * ax, 0, 2 * ax)]
    nearest, second = np.partition(near, 1, 0)[:2]
    wall = (second - nearest) / 2
    hue = rng.uniform(0.08, 0.14) if rng.random() < 0.6 else rng.random()
    c.fill(hsv(rng, hue, 0.6, 0.4, 0.03))
    c.shade(0.2 * (wall / size) - 0.05)
    c.paint(wall - 0.035, hsv(rng, hue, 0.45, 0.85, 0.03))
    c.grain(0.06)


def _wicker(c: Canvas, rng: Generator) -> None:
    pitch = rng.uniform(0.22, 0.34)
    fx, fy = np.mod(c.x / pitch, 1) - 0.5, np.mod(c.y / pitch, 1) - 0.5
    over = np.mod(np.floor(c.x / pitch) + np.floor(c.y / pitch), 2) == 0
    c.fill(hsv(rng, 0.1, 0.5, 0.72, 0.03))
    across, along = np.where(over, fx, fy), np.where(over, fy, fx)
    c.shade(0.12 * np.cos(np.pi * along) - 0.08)
    c.shade(-0.4 * np.clip((np.abs(across) - 0.42) * 12, 0, 1))
    c.shade(0.05 * np.sin(across * 40))
    c.grain(0.06, 32)


# Painter and possible defects; the order of the defects is that of the folders.
TEXTURES: dict[str, tuple[Painter, tuple[str, ...]]] = {
    "weave": (_weave, ("hole", "stain", "contamination", "distortion", "misprint")),
    "wood": (_wood, ("scratch", "crack", "hole", "stain", "dent")),
    "brushed_metal": (_brushed_metal, ("scratch", "dent", "stain", "contamination", "discoloration")),
    "leather": (_leather, ("scratch", "hole", "stain", "dent", "discoloration")),
    "tile": (_tile, ("crack", "chip", "stain", "scratch", "misprint")),
    "grid": (_grid, ("distortion", "contamination", "hole", "misprint", "stain")),
    "paper": (_paper, ("stain", "hole", "misprint", "contamination", "crack")),
    "concrete": (_concrete, ("crack", "hole", "stain", "chip", "contamination")),
    "carpet": (_carpet, ("hole", "stain", "contamination", "discoloration", "distortion")),
    "knit": (_knit, ("hole", "stain", "contamination", "distortion", "discoloration")),
    "cork": (_cork, ("hole", "crack", "stain", "contamination", "dent")),
    "marble": (_marble, ("scratch", "crack", "chip", "stain", "hole")),
    "perforated_sheet": (_perforated_sheet, ("missing", "scratch", "dent", "stain", "contamination")),
    "corrugated_cardboard": (_corrugated_cardboard, ("crack", "dent", "stain", "hole", "misprint")),
    "rubber_mat": (_rubber_mat, ("missing", "scratch", "contamination", "hole", "discoloration")),
    "honeycomb": (_honeycomb, ("hole", "distortion", "contamination", "stain", "misprint")),
    "wicker": (_wicker, ("crack", "distortion", "stain", "contamination", "misprint")),
}
