# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Objects: each function paints one thing on a table, and marks which parts can be missing and what is printed."""

import cv2
import numpy as np
from numpy.random import Generator

from .canvas import Canvas, Painter, blend, fractal, grey, hsv, perlin, relief, ring


def _metal(c: Canvas, distance: np.ndarray, low: float = 0.45, high: float = 0.8, tint: float = 0.05) -> None:
    """Paint a shape in metal: grey with a hint of colour, faint grain and a lit edge."""
    mask = c.paint(distance, grey(c.rng, low, high) * hsv(c.rng, c.rng.random(), tint, 0.97))
    c.grain(0.05, 16, mask)
    c.bevel(distance, 0.06, 1.0)


def _text(c: Canvas, text: str, cx: float, cy: float, height: float, colour: np.ndarray) -> None:
    """Print letters centred at ``(cx, cy)`` with the given height, in object coordinates."""
    sheet = np.zeros((48, 28 * len(text) + 8), np.uint8)
    cv2.putText(sheet, text, (4, 38), cv2.FONT_HERSHEY_DUPLEX, 1.3, 255, 3, cv2.LINE_AA)
    scale = sheet.shape[0] / height
    u = ((c.x - cx) * scale + sheet.shape[1] / 2).astype(np.float32)
    v = ((c.y - cy) * scale + sheet.shape[0] / 2).astype(np.float32)
    c.print(cv2.remap(sheet, u, v, cv2.INTER_LINEAR).astype(np.float32) / 255, colour)


def _code(rng: Generator, length: int) -> str:
    """Draw a short marking such as a lot number."""
    return "".join(rng.choice(list("ABCDEFGHJKLMNPRSTUVXYZ23456789"), length))


def _bolt(c: Canvas, rng: Generator) -> None:
    length = rng.uniform(0.55, 0.7)
    head, shank = c.box(0.2, 0.42, -0.65, 0, 0.06), c.box(length, 0.2, -0.45 + length, 0, 0.03)
    c.place(np.minimum(head, shank))
    _metal(c, shank)
    start = -0.45 + length * rng.uniform(0.4, 0.8)
    thread = c.mask(shank) * (c.x > start)
    c.shade(0.2 * np.sin((c.x + 0.15 * c.y) * rng.uniform(60, 75)), thread)
    c.shade(0.18 * np.cos(c.y / 0.2 * 1.5) - 0.1, c.mask(shank))
    _metal(c, head)
    c.shade(-0.12 * (np.abs(c.y) > 0.2), c.mask(head))
    c.parts.append((thread * (c.x > start + rng.uniform(0, 0.2)), c.background))


def _washer(c: Canvas, rng: Generator) -> None:
    distance = np.maximum(c.circle(0.85), -c.circle(rng.uniform(0.3, 0.5)))
    mask = c.place(distance)
    _metal(c, distance)
    c.shade(0.1 * np.cos(2 * c.polar[1] + rng.uniform(0, 6)), mask)
    c.parts.append((mask * c.sector(rng.uniform(0, 6), rng.uniform(0.15, 0.4)), c.background))


def _gear(c: Canvas, rng: Generator) -> None:
    teeth, (r, angle) = int(rng.integers(12, 22)), c.polar
    distance = np.maximum(r - (0.8 + 0.09 * np.clip(1.8 * np.cos(teeth * angle), -1, 1)), 0.18 - r)
    for cx, cy in ring(int(rng.integers(3, 7)), 0.45):
        distance = np.maximum(distance, -c.circle(0.13, cx, cy))
    mask = c.place(distance)
    _metal(c, distance, tint=0.2)
    tooth = c.sector(2 * np.pi * int(rng.integers(teeth)) / teeth, np.pi / teeth * rng.choice([1, 3]))
    c.parts.append((mask * tooth * (r > 0.72), c.background))


def _pill(c: Canvas, rng: Generator) -> None:
    distance = c.circle(0.78) if rng.random() < 0.5 else c.box(0.85, 0.55, corner=0.5)
    mask = c.place(distance, hsv(rng, rng.random(), rng.uniform(0.02, 0.35), 0.9))
    c.bevel(distance, 0.2, 0.7)
    c.grain(0.03, 64, mask)
    c.shade(-0.14 * np.exp(-((c.y / 0.025) ** 2)), mask)
    _text(c, _code(rng, 2), 0, -0.28, 0.36, c.image[c.size // 2, c.size // 2] * 0.7)


def _capsule(c: Canvas, rng: Generator) -> None:
    distance = c.box(0.9, 0.36, corner=0.36)
    mask = c.place(distance, hsv(rng, rng.random(), 0.65, 0.75))
    half = c.mask(np.maximum(distance - 0.01, c.x - 0.05))
    c.parts.append((half, c.background))
    c.image = blend(c.image, half, hsv(rng, rng.random(), 0.5, 0.8))
    c.shade(0.2 * np.cos(c.y / 0.36 * 1.4) - 0.14, mask)
    c.shade(0.35 * np.exp(-(((c.y + 0.16) / 0.04) ** 2)), c.mask(c.box(0.7, 0.3)))
    _text(c, _code(rng, 3), 0.4, 0.05, 0.26, grey(rng, 0.1, 0.3) if rng.random() < 0.5 else grey(rng, 0.8, 1))


def _bottle_cap(c: Canvas, rng: Generator) -> None:
    (r, angle), flutes = c.polar, int(rng.integers(18, 24))
    mask = c.place(r - 0.82 - 0.05 * np.cos(flutes * angle), hsv(rng, rng.random(), 0.65, 0.7))
    c.shade(0.16 * np.cos(flutes * angle) * (r > 0.66), mask)
    c.bevel(c.circle(0.66), 0.1, 0.8)
    c.paint(np.abs(c.circle(0.52)) - 0.025, hsv(rng, rng.random(), 0.2, 0.9))
    _text(c, _code(rng, int(rng.integers(3, 5))), 0, 0, 0.42, hsv(rng, rng.random(), 0.15, 0.95))
    c.grain(0.03, 32, mask)


def _circuit_board(c: Canvas, rng: Generator) -> None:
    board = c.box(0.92, 0.8, corner=0.06)
    hue = rng.choice([0.38, 0.36, 0.6, 0.02])
    mask = c.place(board, hsv(rng, hue, 0.7, 0.35, 0.03))
    copper = hsv(rng, hue, 0.55, 0.55, 0.03)
    for _ in range(12):
        at = rng.uniform(-0.8, 0.8), rng.uniform(-0.7, 0.7)
        along, length = rng.random() < 0.5, rng.uniform(0.1, 0.5)
        trace = c.box(length, 0.014, *at) if along else c.box(0.014, length, *at)
        c.paint(np.maximum(board + 0.05, trace), copper)
    c.prints.append((mask, c.image))
    for i, j in np.ndindex(3, 2):
        _component(c, rng, -0.56 + 0.56 * i + rng.uniform(-0.06, 0.06), -0.38 + 0.76 * j + rng.uniform(-0.05, 0.05))
    solder = grey(rng, 0.7, 0.9)
    for i in range(10):
        c.paint(c.circle(0.035, -0.8 + 0.178 * i, 0.02), solder)


def _component(c: Canvas, rng: Generator, cx: float, cy: float) -> None:
    """Put a chip, a resistor or a round capacitor on a board; it can be missing."""
    kind, bare = rng.integers(3), c.image
    if kind == 0:
        w, h = rng.uniform(0.14, 0.22), rng.uniform(0.12, 0.18)
        outline = c.box(w + 0.05, h, cx, cy)
        c.paint(np.maximum(outline, np.abs(np.mod(c.y, 0.08) - 0.04) - 0.02), grey(rng, 0.65, 0.9))
        c.paint(c.box(w, h, cx, cy), grey(rng, 0.06, 0.2))
        c.paint(c.circle(0.025, cx - w * 0.7, cy - h * 0.6), grey(rng, 0.4, 0.6))
    elif kind == 1:
        outline = c.box(0.17, 0.065, cx, cy)
        c.paint(c.box(0.17, 0.055, cx, cy), grey(rng, 0.7, 0.9))
        c.paint(c.box(0.11, 0.065, cx, cy), hsv(rng, rng.random(), 0.4, 0.55))
    else:
        outline = c.circle(0.15, cx, cy)
        c.paint(outline, hsv(rng, rng.random(), 0.5, 0.4))
        c.paint(c.circle(0.11, cx, cy), grey(rng, 0.65, 0.85))
        c.bevel(outline, 0.05, 0.8)
    c.parts.append((c.mask(outline), bare))


def _cable(c: Canvas, rng: Generator) -> None:
    mask = c.place(c.circle(0.88), grey(rng, 0.1, 0.35) if rng.random() < 0.6 else hsv(rng, rng.random(), 0.3, 0.6))
    c.paint(c.circle(0.76), grey(rng, 0.35, 0.75))
    c.grain(0.05, 32, mask)
    hues = rng.permutation([0.0, 0.33, 0.62, 0.14])[:3]
    strand = hsv(rng, 0.07, 0.5, 0.8, 0.02)
    for hue, (cx, cy) in zip(hues, ring(3, 0.4, 0.3), strict=True):
        bare = c.image
        c.paint(c.circle(0.32, cx, cy), hsv(rng, hue, 0.65, 0.6, 0.03), part=True)
        core = c.paint(c.circle(0.2, cx, cy), strand * 0.55)
        dots = np.cos((c.x - cx) * 45) * np.cos((c.y - cy) * 45)
        c.image = blend(c.image, core * np.clip(dots + 0.6, 0, 1), strand)
        c.parts.append((core, blend(bare, core, grey(rng, 0.05, 0.2))))


def _nut(c: Canvas, rng: Generator) -> None:
    inner = rng.uniform(0.38, 0.46)
    distance, r = np.maximum(c.polygon(6, 0.75), -c.circle(inner)), c.polar[0]
    mask = c.place(distance)
    _metal(c, distance, tint=0.15)
    c.shade(0.08 * np.sin(60 * r), c.mask(c.circle(0.68)) * mask)
    c.paint(np.abs(c.circle(inner + 0.02)) - 0.02, grey(rng, 0.2, 0.4))
    c.parts.append((mask * c.sector(np.pi / 3 * rng.integers(6), 0.3) * (r > 0.62), c.background))


def _button(c: Canvas, rng: Generator) -> None:
    distance = c.circle(0.82)
    mask = c.place(distance, hsv(rng, rng.random(), rng.uniform(0.1, 0.7), rng.uniform(0.4, 0.9)))
    c.bevel(distance, 0.12, 0.8)
    c.bevel(c.circle(0.58), 0.06, -0.7)
    c.grain(rng.uniform(0.02, 0.1), 8, mask)
    for cx, cy in ((-0.19, -0.19), (-0.19, 0.19), (0.19, -0.19), (0.19, 0.19)):
        hole = c.circle(0.1, cx, cy)
        c.parts.append((c.mask(hole - 0.03), c.image))
        c.paint(hole, grey(rng, 0.03, 0.2))


def _coin(c: Canvas, rng: Generator) -> None:
    distance, (r, angle) = c.circle(0.88), c.polar
    metal = hsv(rng, rng.uniform(0.06, 0.14), rng.choice([0.08, 0.4, 0.5]), 0.65, 0.02)
    mask = c.place(distance, metal)
    c.bevel(distance, 0.06, 1.0)
    c.bevel(c.circle(0.76), 0.04, -0.8)
    c.shade(relief(np.clip(np.cos(angle * 40) * np.exp(-(((r - 0.68) / 0.04) ** 2)), 0, 1) * 2, c.light, 0.08), mask)
    _text(c, str(rng.integers(1, 99)), 0, 0, 0.7, metal * rng.uniform(0.6, 0.75))
    c.grain(0.06, 8, mask)


def _bearing(c: Canvas, rng: Generator) -> None:
    distance = np.maximum(c.circle(0.9), -c.circle(0.32))
    c.place(distance)
    _metal(c, distance, 0.55, 0.85)
    c.paint(np.maximum(c.circle(0.72), -c.circle(0.48)), grey(rng, 0.1, 0.3))
    balls, steel = int(rng.integers(8, 12)), grey(rng, 0.6, 0.85)
    for cx, cy in ring(balls, 0.6):
        c.paint(c.circle(0.11, cx, cy), steel, part=True)
        c.shade(0.35 * np.exp(-(((c.x - cx + 0.03) ** 2 + (c.y - cy + 0.03) ** 2) / 0.003)))


def _biscuit(c: Canvas, rng: Generator) -> None:
    wobble = 0.05 * np.sin(3 * c.polar[1] + rng.uniform(0, 6)) + 0.02 * perlin(rng, c.size, 16)
    distance = (c.circle(0.8) if rng.random() < 0.6 else c.box(0.8, 0.62, corner=0.12)) + wobble
    mask = c.place(distance, hsv(rng, 0.09, 0.5, 0.78, 0.02))
    c.image = blend(c.image, mask * np.clip(1 + distance / 0.25, 0, 1) * 0.6, hsv(rng, 0.07, 0.65, 0.5, 0.02))
    c.shade(relief(fractal(rng, c.size, 32, 2) * 2, c.light, 0.04), mask)
    spot = hsv(rng, 0.06, 0.6, 0.25, 0.02)
    for i, j in np.ndindex(3, 3):
        c.paint(c.circle(0.05, 0.33 * (i - 1), 0.3 * (j - 1)), spot, 0.85)


def _battery(c: Canvas, rng: Generator) -> None:
    body, pole = c.box(0.78, 0.34, -0.05, 0, 0.04), c.box(0.08, 0.13, 0.8, 0, 0.02)
    whole = c.place(np.minimum(body, pole))
    c.paint(pole, grey(rng, 0.6, 0.85), part=True)
    mask = c.paint(body, hsv(rng, rng.random(), 0.6, 0.55))
    c.image = blend(c.image, mask * (c.x > rng.uniform(0.3, 0.5)), hsv(rng, rng.random(), 0.6, 0.75))
    _text(c, _code(rng, 4), -0.25, 0, 0.36, grey(rng, 0.75, 1))
    c.shade(0.3 * np.cos(c.y / 0.34 * 1.5) - 0.2, whole)


def _fuse(c: Canvas, rng: Generator) -> None:
    tube = c.box(0.62, 0.24)
    caps = np.minimum(c.box(0.2, 0.28, -0.68, 0, 0.03), c.box(0.2, 0.28, 0.68, 0, 0.03))
    c.place(np.minimum(tube, caps))
    glass = c.paint(tube, grey(rng, 0.75, 0.95), 0.55)
    wire = np.abs(c.y + 0.04 * np.sin(c.x * 4)) - 0.025
    c.paint(np.maximum(wire, tube), grey(rng, 0.25, 0.45))
    gap = np.maximum(np.maximum(wire - 0.03, tube), np.abs(c.x - rng.uniform(-0.3, 0.3)) - 0.14)
    c.parts.append((c.mask(gap), blend(c.background, glass * 0.55, grey(rng, 0.75, 0.95))))
    c.shade(0.3 * np.exp(-(((c.y + 0.12) / 0.04) ** 2)), glass)
    _metal(c, caps)
    c.shade(0.25 * np.cos(c.y / 0.28 * 1.5) - 0.15, c.mask(caps))


def _key(c: Canvas, rng: Generator) -> None:
    bow = np.maximum(c.circle(0.36, -0.6, 0), -c.circle(0.12, -0.72, 0))
    cuts = 0.06 * np.abs(np.sin(c.x * rng.uniform(10, 16) + rng.uniform(0, 6))) + 0.05
    whole = np.minimum(bow, np.maximum(c.box(0.6, 0.14, 0.32, 0, 0.02), c.y - cuts))
    mask = c.place(whole)
    _metal(c, whole, tint=0.4)
    c.shade(-0.15 * np.exp(-(((c.y + 0.05) / 0.02) ** 2)), c.mask(c.box(0.55, 0.2, 0.32, 0)) * mask)
    _text(c, _code(rng, 2), -0.52, 0.0, 0.26, grey(rng, 0.15, 0.35))
    c.parts.append((mask * (c.x > rng.uniform(0.5, 0.75)), c.background))


def _label(c: Canvas, rng: Generator) -> None:
    c.place(c.box(0.9, 0.62, corner=0.05), hsv(rng, rng.random(), rng.uniform(0, 0.2), 0.92), 0.2)
    c.paint(c.box(0.82, 0.1, 0, -0.46), hsv(rng, rng.random(), 0.6, 0.6))
    ink = grey(rng, 0.05, 0.25)
    _text(c, _code(rng, 6), 0, -0.18, 0.3, ink)
    bars = np.interp(np.mod(c.x * 30, 64), np.arange(64), rng.integers(0, 2, 64)) > 0.5
    c.print(c.mask(c.box(0.6, 0.18, -0.1, 0.3)) * bars, ink)


def _switch(c: Canvas, rng: Generator) -> None:
    plate = c.box(0.72, 0.85, corner=0.1)
    mask = c.place(plate, hsv(rng, rng.random(), rng.uniform(0, 0.15), rng.uniform(0.6, 0.95)))
    c.bevel(plate, 0.08, 0.8)
    c.grain(0.02, 32, mask)
    rocker, bare = c.box(0.26, 0.4, corner=0.04), c.image
    opening = c.paint(rocker, c.image[c.size // 2, c.size // 2] * rng.uniform(0.8, 0.95))
    c.bevel(rocker, 0.06, rng.choice([-1.0, 1.0]))
    c.parts.append((opening, blend(bare, opening, grey(rng, 0.05, 0.2))))
    for cy in (-0.62, 0.62):
        c.parts.append((c.mask(c.circle(0.1, 0, cy)), c.image))
        c.paint(c.circle(0.09, 0, cy), grey(rng, 0.55, 0.8))
        slot = np.abs(c.x * 0.8 + (c.y - cy) * 0.6) - 0.018
        c.paint(np.maximum(c.circle(0.08, 0, cy), slot), grey(rng, 0.1, 0.3))


# Painter and possible defects; the order of the defects is that of the folders.
OBJECTS: dict[str, tuple[Painter, tuple[str, ...]]] = {
    "bolt": (_bolt, ("scratch", "dent", "missing", "chip", "stain")),
    "washer": (_washer, ("scratch", "crack", "missing", "dent", "contamination")),
    "gear": (_gear, ("missing", "scratch", "crack", "stain", "chip")),
    "pill": (_pill, ("chip", "crack", "contamination", "misprint", "discoloration")),
    "capsule": (_capsule, ("missing", "dent", "scratch", "misprint", "crack")),
    "bottle_cap": (_bottle_cap, ("dent", "scratch", "misprint", "discoloration", "chip")),
    "circuit_board": (_circuit_board, ("missing", "scratch", "contamination", "crack", "stain")),
    "cable": (_cable, ("missing", "hole", "crack", "contamination", "discoloration")),
    "nut": (_nut, ("missing", "scratch", "dent", "crack", "stain")),
    "button": (_button, ("missing", "scratch", "chip", "crack", "discoloration")),
    "coin": (_coin, ("scratch", "misprint", "stain", "dent", "hole")),
    "bearing": (_bearing, ("missing", "scratch", "contamination", "stain", "crack")),
    "biscuit": (_biscuit, ("chip", "crack", "hole", "contamination", "discoloration")),
    "battery": (_battery, ("missing", "dent", "scratch", "misprint", "stain")),
    "fuse": (_fuse, ("missing", "crack", "discoloration", "scratch", "contamination")),
    "key": (_key, ("missing", "scratch", "discoloration", "chip", "dent")),
    "label": (_label, ("misprint", "scratch", "stain", "hole", "crack")),
    "switch": (_switch, ("missing", "crack", "scratch", "stain", "dent")),
}
