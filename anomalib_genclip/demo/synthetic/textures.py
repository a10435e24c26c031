# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Textures: each function covers a :class:`Canvas` with one material, with this piece's own colour, scale and pose."""

import numpy as np

from .canvas import Canvas, blend, fractal, grey, hsv, perlin, relief, voronoi

# Least and greatest zoom of a texture; the pose of the canvas is free.
ZOOM = (0.7, 1.3)


def _fill(c: Canvas, colour: np.ndarray) -> None:
    """Cover the whole sheet with one colour."""
    c.image = np.broadcast_to(colour, c.image.shape).astype(np.float32)


def weave(c: Canvas) -> None:
    """Plain-woven cloth: threads over and under, in one or two colours."""
    rng = c.rng
    hue, pitch = rng.random(), rng.uniform(14, 22)
    warp, weft = hsv(rng, hue, 0.35, 0.7), hsv(rng, hue + rng.uniform(-0.1, 0.1), 0.3, 0.6)
    wobble = 0.03 * fractal(rng, c.size, 4, 2)
    u, v = (c.x + wobble) * pitch, (c.y + wobble) * pitch
    over = np.sin(u / 2) * np.sin(v / 2) > 0
    c.image = np.where(over[..., None], warp, weft).astype(np.float32)
    c.shade(np.where(over, 0.14 * np.abs(np.cos(u / 2)), 0.14 * np.abs(np.cos(v / 2))) - 0.1)
    c.grain(0.05, 64)


def wood(c: Canvas) -> None:
    """Sawn wood: wavy growth rings along one direction, fine pores."""
    rng = c.rng
    bend = 0.35 * fractal(rng, c.size, 2, 2)
    ring = 0.5 + 0.5 * np.sin(rng.uniform(14, 30) * (c.y + bend + 0.1 * c.x) + rng.uniform(0, 6))
    light = hsv(rng, 0.08, 0.5, 0.75, 0.03)
    c.image = blend(
        np.broadcast_to(light, c.image.shape), ring**2 * rng.uniform(0.4, 0.8), light * rng.uniform(0.45, 0.7)
    )
    pores = perlin(rng, c.size, 64)
    c.shade(0.06 * np.sin(90 * (c.y + bend) + 6 * pores))
    c.grain(0.04, 16)


def brushed_metal(c: Canvas) -> None:
    """Metal with fine parallel brush marks and a broad gloss."""
    rng = c.rng
    _fill(c, grey(rng, 0.4, 0.75) * hsv(rng, rng.random(), 0.06, 0.97))
    lines = rng.normal(0, 1, 512)
    lines = np.convolve(lines, np.ones(2) / 2, "same")
    at = np.clip((c.y * 0.25 + 0.5) * 511, 0, 510)
    c.shade(rng.uniform(0.05, 0.1) * np.interp(at, np.arange(512), lines))
    c.shade(0.15 * np.exp(-(((c.y - rng.uniform(-1, 1)) / rng.uniform(0.4, 1.2)) ** 2)) - 0.05)
    c.grain(0.03, 32)


def leather(c: Canvas) -> None:
    """Leather: small irregular pebbles between dark creases."""
    rng = c.rng
    _fill(c, hsv(rng, rng.choice([0.06, 0.0, 0.6, 0.09]), 0.5, rng.uniform(0.3, 0.65), 0.03))
    _, border, _ = voronoi(c, rng.uniform(0.1, 0.16))
    height = np.minimum(border * 16, 1) + 0.3 * perlin(rng, c.size, 32)
    c.shade(relief(height, c.light, 0.06))
    c.shade(0.16 * (np.minimum(border * 20, 1) - 0.8))
    c.grain(0.06, 8)


def tile(c: Canvas) -> None:
    """Square glazed tiles with grout, each slightly different."""
    rng = c.rng
    pitch, hue = rng.uniform(0.55, 0.8), rng.random()
    i, j = np.floor(c.x / pitch), np.floor(c.y / pitch)
    tone = rng.uniform(-0.06, 0.06, (32, 32))[i.astype(int) % 32, j.astype(int) % 32]
    _fill(c, hsv(rng, hue, 0.3, 0.7))
    c.shade(tone)
    edge = np.minimum(*(np.abs(np.mod(a / pitch, 1) - 0.5) * -pitch + pitch / 2 for a in (c.x, c.y)))
    c.grain(0.05, 16)
    c.shade(relief(np.clip(edge / 0.05, 0, 1) * 2, c.light, 0.04))
    c.image = blend(c.image, np.clip((0.025 - edge) / c.px + 0.5, 0, 1), grey(rng, 0.25, 0.85))


def grid(c: Canvas) -> None:
    """A wire mesh over a plain ground."""
    rng = c.rng
    pitch, half = rng.uniform(0.2, 0.3), rng.uniform(0.022, 0.035)
    _fill(c, grey(rng, 0.05, 0.35))
    c.grain(0.05, 8)
    bar = grey(rng, 0.55, 0.9)
    for axis in (c.x, c.y):
        distance = np.abs(np.mod(axis, pitch) - pitch / 2) - half
        c.paint(distance, bar)
        c.bevel(distance, half, 0.7)
    c.grain(0.03, 64)


def paper(c: Canvas) -> None:
    """Paper with fine fibres and rows of small printed letters or lines."""
    rng = c.rng
    _fill(c, hsv(rng, 0.12, 0.08, 0.92, 0.03))
    c.grain(0.03, 64)
    pitch = rng.uniform(0.16, 0.24)
    row = np.abs(np.mod(c.y, pitch) - pitch / 2)
    letters = perlin(rng, c.size, 64) + 0.6 * np.sin(c.x * rng.uniform(40, 70)) > rng.uniform(-0.1, 0.15)
    ink = np.clip((pitch * 0.25 - row) / c.px + 0.5, 0, 1) * letters
    clean = c.image
    c.image = blend(c.image, ink * rng.uniform(0.5, 0.85), hsv(rng, rng.random(), 0.3, 0.2))
    c.prints.append((np.clip((pitch * 0.3 - row) / c.px, 0, 1), clean))


def concrete(c: Canvas) -> None:
    """Concrete: cloudy grey with pores and sand grains."""
    rng = c.rng
    _fill(c, grey(rng, 0.4, 0.75))
    c.grain(rng.uniform(0.06, 0.12), 4)
    c.grain(rng.uniform(0.06, 0.14), 64)
    pores = perlin(rng, c.size, 64)
    c.shade(-0.15 * (pores > rng.uniform(0.55, 0.7)))


def carpet(c: Canvas) -> None:
    """Looped pile: tufts in slanting rows, flecked with a second colour."""
    rng = c.rng
    hue = rng.random()
    _fill(c, hsv(rng, hue, 0.45, 0.5))
    u = c.x * rng.uniform(24, 32) + 0.5 * perlin(rng, c.size, 32)
    v = c.y * rng.uniform(14, 20) + 0.5 * perlin(rng, c.size, 32)
    tuft = np.sin(u + 2.0 * np.round(v / np.pi)) * np.cos(v)
    c.shade(0.16 * tuft)
    flecks = (perlin(rng, c.size, 64) > 0.35) * rng.uniform(0.2, 0.6)
    c.image = blend(c.image, flecks, hsv(rng, hue + rng.uniform(0.1, 0.5), 0.4, 0.6))
    c.grain(0.07, 32)


def knit(c: Canvas) -> None:
    """Knitted wool: columns of V-shaped stitches."""
    rng = c.rng
    _fill(c, hsv(rng, rng.random(), 0.45, 0.65))
    pitch = rng.uniform(0.17, 0.24)
    across = np.mod(c.x / pitch, 1)
    slant = np.abs(across - 0.5) * 2
    along = c.y / (pitch * 0.8) + slant * 0.8
    c.shade(0.18 * np.cos(2 * np.pi * along) * np.clip(np.sin(np.pi * np.mod(across * 2, 1)) * 1.4, 0, 1))
    c.shade(-0.22 * np.exp(-((np.minimum(across, 1 - across) / 0.09) ** 2)))
    c.grain(0.07, 64)


def cork(c: Canvas) -> None:
    """Pressed cork granules of several browns."""
    rng = c.rng
    _, border, number = voronoi(c, rng.uniform(0.12, 0.2))
    tones = rng.uniform(0.75, 1.15, 4096)
    _fill(c, hsv(rng, 0.085, 0.5, 0.68, 0.02))
    c.image = np.clip(c.image * tones[number][..., None], 0, 1).astype(np.float32)
    c.shade(-0.25 * np.exp(-((border / 0.012) ** 2)))
    c.grain(0.09, 32)


def marble(c: Canvas) -> None:
    """Polished marble: pale stone with drawn-out veins."""
    rng = c.rng
    _fill(c, hsv(rng, rng.random(), 0.06, rng.uniform(0.6, 0.9)))
    warp = fractal(rng, c.size, 4, 4)
    vein = 1 - np.abs(np.sin(rng.uniform(3, 6) * c.x + rng.uniform(2, 4) * warp))
    c.image = blend(c.image, np.clip(vein, 0, 1) ** 6 * rng.uniform(0.4, 0.8), hsv(rng, rng.random(), 0.2, 0.35))
    c.grain(0.08, 4)


def perforated_sheet(c: Canvas) -> None:
    """Sheet metal punched with staggered round holes."""
    rng = c.rng
    pitch = rng.uniform(0.28, 0.4)
    radius = pitch * rng.uniform(0.26, 0.36)
    metal, ground = grey(rng, 0.5, 0.85), grey(rng, 0.03, 0.25)
    _fill(c, metal)
    c.grain(0.06, 16)
    row = np.floor(c.y / (pitch * 0.866))
    dx = np.mod(c.x + pitch / 2 * np.mod(row, 2), pitch) - pitch / 2
    dy = np.mod(c.y, pitch * 0.866) - pitch * 0.433
    distance = np.hypot(dx, dy) - radius
    plain = c.image
    c.image = blend(c.image, c.mask(distance), ground)
    c.shade(relief(np.clip(distance / 0.04, 0, 1), c.light, 0.06))
    for _ in range(3):  # a hole that was not punched
        n, m = rng.integers(-2, 3, 2)
        cx, cy = (m + 0.5 - 0.5 * (n % 2)) * pitch, (n + 0.5) * pitch * 0.866
        c.parts.append((c.mask(c.circle(radius * 1.15, cx, cy)), plain))


def corrugated_cardboard(c: Canvas) -> None:
    """Cardboard with straight soft flutes."""
    rng = c.rng
    _fill(c, hsv(rng, 0.09, 0.4, 0.68, 0.02))
    wave = np.sin(c.x * rng.uniform(16, 26) + 0.3 * perlin(rng, c.size, 4))
    c.shade(rng.uniform(0.06, 0.14) * wave)
    c.grain(0.05, 64)
    c.grain(0.05, 8)


def rubber_mat(c: Canvas) -> None:
    """Dark rubber with a lattice of raised studs."""
    rng = c.rng
    pitch = rng.uniform(0.3, 0.42)
    radius = pitch * rng.uniform(0.24, 0.34)
    _fill(c, hsv(rng, rng.random(), rng.uniform(0, 0.4), 0.25))
    c.grain(0.05, 64)
    flat = c.image
    distance = np.hypot(np.mod(c.x, pitch) - pitch / 2, np.mod(c.y, pitch) - pitch / 2) - radius
    c.shade(0.1 * c.mask(distance))
    c.bevel(distance, radius * 0.5, 1.0)
    for _ in range(3):
        n, m = rng.integers(-3, 3, 2) + 0.5
        c.parts.append((c.mask(c.circle(radius * 1.2, n * pitch, m * pitch)), flat))


def honeycomb(c: Canvas) -> None:
    """Hexagonal cells with thin bright walls."""
    rng = c.rng
    size = rng.uniform(0.26, 0.38)
    ax, ay = size * 0.866 * 2 / 2, size * 1.5
    best = np.full(c.x.shape, np.inf, np.float32)
    second = best.copy()
    for sx, sy in ((0, 0), (ax / 1, ay / 1)):  # two rectangular lattices make the hexagonal one
        dx = np.mod(c.x + sx + ax, 2 * ax) - ax
        dy = np.mod(c.y + sy + ay, 2 * ay) - ay
        for ox in (-2 * ax, 0, 2 * ax):
            distance = np.hypot(dx - ox, dy)
            second = np.minimum(second, np.maximum(best, distance))
            best = np.minimum(best, distance)
    wall = (second - best) / 2
    hue = rng.uniform(0.08, 0.14) if rng.random() < 0.6 else rng.random()
    _fill(c, hsv(rng, hue, 0.6, 0.4, 0.03))
    c.shade(0.2 * (wall / size) - 0.05)
    c.image = blend(c.image, np.clip((0.035 - wall) / c.px + 0.5, 0, 1), hsv(rng, hue, 0.45, 0.85, 0.03))
    c.grain(0.06, 16)


def woven_wicker(c: Canvas) -> None:
    """Broad flat strips plaited over and under."""
    rng = c.rng
    pitch = rng.uniform(0.22, 0.34)
    i, j = np.floor(c.x / pitch), np.floor(c.y / pitch)
    fx, fy = np.mod(c.x / pitch, 1) - 0.5, np.mod(c.y / pitch, 1) - 0.5
    over = np.mod(i + j, 2) == 0
    _fill(c, hsv(rng, 0.1, 0.5, 0.72, 0.03))
    across, along = np.where(over, fx, fy), np.where(over, fy, fx)
    c.shade(0.12 * np.cos(np.pi * along) - 0.08)
    c.shade(-0.4 * np.clip((np.abs(across) - 0.42) * 12, 0, 1))
    c.shade(0.05 * np.sin(across * 40))
    c.grain(0.06, 32)
