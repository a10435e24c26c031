# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Objects: each function paints one thing on a table.

It also marks where the thing is, which parts can be missing and what is printed.
"""

import cv2
import numpy as np

from .canvas import Canvas, blend, fractal, grey, hsv, perlin, relief


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
    u = (c.x - cx) * scale + sheet.shape[1] / 2
    v = (c.y - cy) * scale + sheet.shape[0] / 2
    mask = cv2.remap(sheet, u.astype(np.float32), v.astype(np.float32), cv2.INTER_LINEAR)
    c.print(mask.astype(np.float32) / 255, colour)


def _code(rng: np.random.Generator, length: int) -> str:
    """Draw a short marking such as a lot number."""
    return "".join(rng.choice(list("ABCDEFGHJKLMNPRSTUVXYZ23456789"), length))


def bolt(c: Canvas) -> None:
    """A hexagon-head bolt seen from the side: head, shank, thread."""
    rng = c.rng
    c.backdrop()
    length = rng.uniform(0.55, 0.7)
    head, shank = c.box(0.2, 0.42, -0.65, 0, 0.06), c.box(length, 0.2, -0.45 + length, 0, 0.03)
    whole = np.minimum(head, shank)
    c.shadow(whole)
    _metal(c, shank)
    start = -0.45 + length * rng.uniform(0.4, 0.8)
    thread = c.mask(shank) * (c.x > start)
    c.shade(0.2 * np.sin((c.x + 0.15 * c.y) * rng.uniform(60, 75)), thread)
    c.shade(0.18 * np.cos(c.y / 0.2 * 1.5) - 0.1, c.mask(shank))
    _metal(c, head)
    c.shade(-0.12 * (np.abs(c.y) > 0.2), c.mask(head))
    c.region = c.mask(whole)
    c.parts.append((thread * (c.x > start + rng.uniform(0, 0.2)), c.background))


def washer(c: Canvas) -> None:
    """A flat ring of metal."""
    rng = c.rng
    c.backdrop()
    distance = np.maximum(c.circle(0.85), -c.circle(rng.uniform(0.3, 0.5)))
    c.shadow(distance)
    _metal(c, distance)
    angle = np.arctan2(c.y, c.x)
    c.shade(0.1 * np.cos(2 * angle + rng.uniform(0, 6)), c.mask(distance))
    c.region = c.mask(distance)
    sector = np.abs(np.mod(angle - rng.uniform(0, 6) + np.pi, 2 * np.pi) - np.pi) < rng.uniform(0.15, 0.4)
    c.parts.append((c.region * sector, c.background))


def gear(c: Canvas) -> None:
    """A spur gear with a bore and lightening holes."""
    rng = c.rng
    c.backdrop()
    teeth, angle, r = int(rng.integers(12, 22)), np.arctan2(c.y, c.x), np.hypot(c.x, c.y)
    profile = 0.8 + 0.09 * np.clip(1.8 * np.cos(teeth * angle), -1, 1)
    distance = np.maximum(r - profile, 0.18 - r)
    spokes = int(rng.integers(3, 7))
    for k in range(spokes):
        a = 2 * np.pi * k / spokes
        distance = np.maximum(distance, -c.circle(0.13, 0.45 * np.cos(a), 0.45 * np.sin(a)))
    c.shadow(distance)
    _metal(c, distance, tint=0.2)
    c.region = c.mask(distance)
    k = int(rng.integers(teeth))
    tooth = np.abs(np.mod(angle - 2 * np.pi * k / teeth + np.pi, 2 * np.pi) - np.pi) < np.pi / teeth * rng.choice([
        1,
        3,
    ])
    c.parts.append((c.region * tooth * (r > 0.72), c.background))


def pill(c: Canvas) -> None:
    """A round tablet with a break line and a stamped mark."""
    rng = c.rng
    c.backdrop()
    distance = c.circle(0.78) if rng.random() < 0.5 else c.box(0.85, 0.55, corner=0.5)
    c.shadow(distance)
    mask = c.paint(distance, hsv(rng, rng.random(), rng.uniform(0.02, 0.35), 0.9))
    c.bevel(distance, 0.2, 0.7)
    c.grain(0.03, 64, mask)
    c.shade(-0.14 * np.exp(-((c.y / 0.025) ** 2)), mask)
    _text(c, _code(rng, 2), 0, -0.28, 0.36, np.array(c.image[c.size // 2, c.size // 2] * 0.7))
    c.region = mask


def capsule(c: Canvas) -> None:
    """A two-coloured capsule with a gloss and a printed number."""
    rng = c.rng
    c.backdrop()
    distance = c.box(0.9, 0.36, corner=0.36)
    c.shadow(distance)
    mask = c.paint(distance, hsv(rng, rng.random(), 0.65, 0.75))
    half = c.mask(np.maximum(distance - 0.01, c.x - 0.05))
    c.parts.append((half, c.background))
    c.image = blend(c.image, half, hsv(rng, rng.random(), 0.5, 0.8))
    c.shade(0.2 * np.cos(c.y / 0.36 * 1.4) - 0.14, mask)
    c.shade(0.35 * np.exp(-(((c.y + 0.16) / 0.04) ** 2)), c.mask(c.box(0.7, 0.3)))
    _text(c, _code(rng, 3), 0.4, 0.05, 0.26, grey(rng, 0.1, 0.3) if rng.random() < 0.5 else grey(rng, 0.8, 1))
    c.region = mask


def bottle_cap(c: Canvas) -> None:
    """A crown cork from above: fluted rim, painted top, letters."""
    rng = c.rng
    c.backdrop()
    angle, r, flutes = np.arctan2(c.y, c.x), np.hypot(c.x, c.y), int(rng.integers(18, 24))
    distance = r - 0.82 - 0.05 * np.cos(flutes * angle)
    c.shadow(distance)
    colour = hsv(rng, rng.random(), 0.65, 0.7)
    mask = c.paint(distance, colour)
    c.shade(0.16 * np.cos(flutes * angle) * (r > 0.66), mask)
    c.bevel(c.circle(0.66), 0.1, 0.8)
    c.paint(np.abs(c.circle(0.52)) - 0.025, hsv(rng, rng.random(), 0.2, 0.9))
    _text(c, _code(rng, int(rng.integers(3, 5))), 0, 0, 0.42, hsv(rng, rng.random(), 0.15, 0.95))
    c.grain(0.03, 32, mask)
    c.region = mask


def circuit_board(c: Canvas) -> None:
    """A printed circuit board: traces, pads, chips and small components."""
    rng = c.rng
    c.backdrop()
    board = c.box(0.92, 0.8, corner=0.06)
    c.shadow(board)
    hue = rng.choice([0.38, 0.36, 0.6, 0.02])
    mask = c.paint(board, hsv(rng, hue, 0.7, 0.35, 0.03))
    copper = hsv(rng, hue, 0.55, 0.55, 0.03)
    for _ in range(12):
        x0, y0 = rng.uniform(-0.8, 0.8), rng.uniform(-0.7, 0.7)
        if rng.random() < 0.5:
            c.paint(np.maximum(board + 0.05, c.box(rng.uniform(0.1, 0.5), 0.014, x0, y0)), copper)
        else:
            c.paint(np.maximum(board + 0.05, c.box(0.014, rng.uniform(0.1, 0.5), x0, y0)), copper)
    c.prints.append((mask, c.image))
    for i, j in [(i, j) for i in range(3) for j in range(2)]:
        cx, cy = -0.56 + 0.56 * i + rng.uniform(-0.06, 0.06), -0.38 + 0.76 * j + rng.uniform(-0.05, 0.05)
        _component(c, cx, cy)
    solder = grey(rng, 0.7, 0.9)
    for i in range(10):
        c.paint(c.circle(0.035, -0.8 + 0.178 * i, 0.02), solder)
    c.region = mask


def _component(c: Canvas, cx: float, cy: float) -> None:
    """Put a chip, a resistor or a round capacitor on a board; it can be missing."""
    rng, kind, bare = c.rng, c.rng.integers(3), c.image
    if kind == 0:
        w, h = rng.uniform(0.14, 0.22), rng.uniform(0.12, 0.18)
        pins = np.maximum(c.box(w + 0.05, h, cx, cy), np.abs(np.mod(c.y, 0.08) - 0.04) - 0.02)
        c.paint(pins, grey(rng, 0.65, 0.9))
        c.paint(c.box(w, h, cx, cy), grey(rng, 0.06, 0.2))
        c.paint(c.circle(0.025, cx - w * 0.7, cy - h * 0.6), grey(rng, 0.4, 0.6))
        outline = c.box(w + 0.05, h, cx, cy)
    elif kind == 1:
        c.paint(c.box(0.17, 0.055, cx, cy), grey(rng, 0.7, 0.9))
        c.paint(c.box(0.11, 0.065, cx, cy), hsv(rng, rng.random(), 0.4, 0.55))
        outline = c.box(0.17, 0.065, cx, cy)
    else:
        outline = c.circle(0.15, cx, cy)
        c.paint(outline, hsv(rng, rng.random(), 0.5, 0.4))
        c.paint(c.circle(0.11, cx, cy), grey(rng, 0.65, 0.85))
        c.bevel(outline, 0.05, 0.8)
    c.parts.append((c.mask(outline), bare))


def cable(c: Canvas) -> None:
    """A cut cable seen end on: a sheath around three insulated cores of stranded copper."""
    rng = c.rng
    c.backdrop()
    sheath = c.circle(0.88)
    c.shadow(sheath)
    mask = c.paint(sheath, grey(rng, 0.1, 0.35) if rng.random() < 0.6 else hsv(rng, rng.random(), 0.3, 0.6))
    c.paint(c.circle(0.76), grey(rng, 0.35, 0.75))
    c.grain(0.05, 32, mask)
    hues = rng.permutation([0.0, 0.33, 0.62, 0.14])[:3]
    strand = hsv(rng, 0.07, 0.5, 0.8, 0.02)
    for k, hue in enumerate(hues):
        a = 2 * np.pi * k / 3 + 0.3
        cx, cy = 0.4 * np.cos(a), 0.4 * np.sin(a)
        bare = c.image
        outline = c.circle(0.32, cx, cy)
        c.paint(outline, hsv(rng, hue, 0.65, 0.6, 0.03))
        core = c.mask(c.circle(0.2, cx, cy))
        c.image = blend(c.image, core, strand * 0.55)
        dots = np.cos((c.x - cx) * 45) * np.cos((c.y - cy) * 45)
        c.image = blend(c.image, core * np.clip(dots + 0.6, 0, 1), strand)
        c.parts.append((c.mask(outline), bare))
        c.parts.append((core, blend(bare, core, grey(rng, 0.05, 0.2))))
    c.region = mask


def nut(c: Canvas) -> None:
    """A hexagon nut with a threaded bore."""
    rng = c.rng
    c.backdrop()
    inner = rng.uniform(0.38, 0.46)
    distance = np.maximum(c.polygon(6, 0.75), -c.circle(inner))
    c.shadow(distance)
    _metal(c, distance, tint=0.15)
    c.shade(0.08 * np.sin(60 * np.hypot(c.x, c.y)), c.mask(c.circle(0.68)) * c.mask(distance))
    c.paint(np.abs(c.circle(inner + 0.02)) - 0.02, grey(rng, 0.2, 0.4))
    c.region = c.mask(distance)
    r, angle = np.hypot(c.x, c.y), np.arctan2(c.y, c.x)
    corner = np.abs(np.mod(angle - np.pi / 3 * rng.integers(6) + np.pi, 2 * np.pi) - np.pi) < 0.3
    c.parts.append((c.region * corner * (r > 0.62), c.background))


def button(c: Canvas) -> None:
    """A sewing button with a rim and four holes."""
    rng = c.rng
    c.backdrop()
    distance = c.circle(0.82)
    c.shadow(distance)
    colour = hsv(rng, rng.random(), rng.uniform(0.1, 0.7), rng.uniform(0.4, 0.9))
    mask = c.paint(distance, colour)
    c.bevel(distance, 0.12, 0.8)
    c.bevel(c.circle(0.58), 0.06, -0.7)
    c.grain(rng.uniform(0.02, 0.1), 8, mask)
    for sx, sy in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
        plain = c.image
        hole = c.circle(0.1, 0.19 * sx, 0.19 * sy)
        c.paint(hole, grey(rng, 0.03, 0.2))
        c.parts.append((c.mask(hole - 0.03), plain))
    c.region = mask


def coin(c: Canvas) -> None:
    """A coin: raised rim, a ring of beads, a number."""
    rng = c.rng
    c.backdrop()
    distance, r, angle = c.circle(0.88), np.hypot(c.x, c.y), np.arctan2(c.y, c.x)
    c.shadow(distance)
    metal = hsv(rng, rng.uniform(0.06, 0.14), rng.choice([0.08, 0.4, 0.5]), 0.65, 0.02)
    mask = c.paint(distance, metal)
    c.bevel(distance, 0.06, 1.0)
    c.bevel(c.circle(0.76), 0.04, -0.8)
    beads = np.cos(angle * 40) * np.exp(-(((r - 0.68) / 0.04) ** 2))
    c.shade(relief(np.clip(beads, 0, 1) * 2, c.light, 0.08), mask)
    _text(c, str(rng.integers(1, 99)), 0, 0, 0.7, metal * rng.uniform(0.6, 0.75))
    c.grain(0.06, 8, mask)
    c.region = mask


def bearing(c: Canvas) -> None:
    """A ball bearing: two rings and the balls between them."""
    rng = c.rng
    c.backdrop()
    distance = np.maximum(c.circle(0.9), -c.circle(0.32))
    c.shadow(distance)
    _metal(c, distance, 0.55, 0.85)
    race = np.maximum(c.circle(0.72), -c.circle(0.48))
    c.paint(race, grey(rng, 0.1, 0.3))
    balls, steel = int(rng.integers(8, 12)), grey(rng, 0.6, 0.85)
    for k in range(balls):
        a = 2 * np.pi * k / balls
        cx, cy = 0.6 * np.cos(a), 0.6 * np.sin(a)
        c.paint(c.circle(0.11, cx, cy), steel, part=True)
        c.shade(0.35 * np.exp(-(((c.x - cx + 0.03) ** 2 + (c.y - cy + 0.03) ** 2) / 0.003)))
    c.region = c.mask(distance)


def biscuit(c: Canvas) -> None:
    """A baked biscuit: brown rim, docking holes, sometimes chocolate chips."""
    rng = c.rng
    c.backdrop()
    wobble = 0.05 * np.sin(3 * np.arctan2(c.y, c.x) + rng.uniform(0, 6)) + 0.02 * perlin(rng, c.size, 16)
    distance = (c.circle(0.8) if rng.random() < 0.6 else c.box(0.8, 0.62, corner=0.12)) + wobble
    c.shadow(distance)
    mask = c.paint(distance, hsv(rng, 0.09, 0.5, 0.78, 0.02))
    c.image = blend(c.image, mask * np.clip(1 + distance / 0.25, 0, 1) * 0.6, hsv(rng, 0.07, 0.65, 0.5, 0.02))
    c.shade(relief(fractal(rng, c.size, 32, 2) * 2, c.light, 0.04), mask)
    spot = hsv(rng, 0.06, 0.6, 0.25, 0.02)
    for i, j in [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]:
        c.paint(c.circle(0.05, 0.33 * i, 0.3 * j), spot, 0.85)
    c.region = mask


def battery(c: Canvas) -> None:
    """A round cell from the side: coloured jacket, print, metal pole."""
    rng = c.rng
    c.backdrop()
    body, pole = c.box(0.78, 0.34, -0.05, 0, 0.04), c.box(0.08, 0.13, 0.8, 0, 0.02)
    whole = np.minimum(body, pole)
    c.shadow(whole)
    c.paint(pole, grey(rng, 0.6, 0.85), part=True)
    mask = c.paint(body, hsv(rng, rng.random(), 0.6, 0.55))
    c.image = blend(c.image, mask * (c.x > rng.uniform(0.3, 0.5)), hsv(rng, rng.random(), 0.6, 0.75))
    _text(c, _code(rng, 4), -0.25, 0, 0.36, grey(rng, 0.75, 1))
    c.shade(0.3 * np.cos(c.y / 0.34 * 1.5) - 0.2, c.mask(whole))
    c.region = c.mask(whole)


def fuse(c: Canvas) -> None:
    """A glass fuse: two metal caps, a tube and a wire."""
    rng = c.rng
    c.backdrop()
    tube = c.box(0.62, 0.24)
    caps = np.minimum(c.box(0.2, 0.28, -0.68, 0, 0.03), c.box(0.2, 0.28, 0.68, 0, 0.03))
    whole = np.minimum(tube, caps)
    c.shadow(whole)
    c.paint(tube, grey(rng, 0.75, 0.95), 0.55)
    wire = np.abs(c.y + 0.04 * np.sin(c.x * 4)) - 0.025
    c.paint(np.maximum(wire, tube), grey(rng, 0.25, 0.45))
    gap = rng.uniform(-0.3, 0.3)
    c.parts.append((
        c.mask(np.maximum(np.maximum(wire - 0.03, tube), np.abs(c.x - gap) - 0.14)),
        blend(c.background, c.mask(tube) * 0.55, grey(rng, 0.75, 0.95)),
    ))
    c.shade(0.3 * np.exp(-(((c.y + 0.12) / 0.04) ** 2)), c.mask(tube))
    _metal(c, caps)
    c.shade(0.25 * np.cos(c.y / 0.28 * 1.5) - 0.15, c.mask(caps))
    c.region = c.mask(whole)


def key(c: Canvas) -> None:
    """A flat door key: bow with a hole, blade with cuts."""
    rng = c.rng
    c.backdrop()
    bow = np.maximum(c.circle(0.36, -0.6, 0), -c.circle(0.12, -0.72, 0))
    cuts = 0.06 * np.abs(np.sin(c.x * rng.uniform(10, 16) + rng.uniform(0, 6))) + 0.05
    blade = np.maximum(c.box(0.6, 0.14, 0.32, 0, 0.02), c.y - cuts)
    whole = np.minimum(bow, blade)
    c.shadow(whole)
    _metal(c, whole, tint=0.4)
    c.shade(-0.15 * np.exp(-(((c.y + 0.05) / 0.02) ** 2)), c.mask(c.box(0.55, 0.2, 0.32, 0)) * c.mask(whole))
    _text(c, _code(rng, 2), -0.52, 0.0, 0.26, grey(rng, 0.15, 0.35))
    c.region = c.mask(whole)
    c.parts.append((c.region * (c.x > rng.uniform(0.5, 0.75)), c.background))


def label(c: Canvas) -> None:
    """A printed label with lines of text and a bar code."""
    rng = c.rng
    c.backdrop()
    sheet = c.box(0.9, 0.62, corner=0.05)
    c.shadow(sheet, 0.2)
    mask = c.paint(sheet, hsv(rng, rng.random(), rng.uniform(0, 0.2), 0.92))
    c.paint(c.box(0.82, 0.1, 0, -0.46), hsv(rng, rng.random(), 0.6, 0.6))
    ink = grey(rng, 0.05, 0.25)
    _text(c, _code(rng, 6), 0, -0.18, 0.3, ink)
    bars = np.interp(np.mod(c.x * 30, 64), np.arange(64), rng.integers(0, 2, 64)) > 0.5
    code = c.mask(c.box(0.6, 0.18, -0.1, 0.3)) * bars
    c.print(code, ink)
    c.region = mask


def switch(c: Canvas) -> None:
    """A wall switch: a plate, two screws and a rocker."""
    rng = c.rng
    c.backdrop()
    plate = c.box(0.72, 0.85, corner=0.1)
    c.shadow(plate)
    mask = c.paint(plate, hsv(rng, rng.random(), rng.uniform(0, 0.15), rng.uniform(0.6, 0.95)))
    c.bevel(plate, 0.08, 0.8)
    c.grain(0.02, 32, mask)
    rocker = c.box(0.26, 0.4, corner=0.04)
    bare = c.image
    c.paint(rocker, c.image[c.size // 2, c.size // 2] * rng.uniform(0.8, 0.95))
    c.bevel(rocker, 0.06, rng.choice([-1.0, 1.0]))
    c.parts.append((c.mask(rocker), blend(bare, c.mask(rocker), grey(rng, 0.05, 0.2))))
    for sy in (-1, 1):
        clean = c.image
        c.paint(c.circle(0.09, 0, 0.62 * sy), grey(rng, 0.55, 0.8))
        c.paint(
            np.maximum(c.circle(0.08, 0, 0.62 * sy), np.abs(c.x * 0.8 + (c.y - 0.62 * sy) * 0.6) - 0.018),
            grey(rng, 0.1, 0.3),
        )
        c.parts.append((c.mask(c.circle(0.1, 0, 0.62 * sy)), clean))
    c.region = mask
