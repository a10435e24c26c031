# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Categories, their possible defects, and their groups."""

from collections.abc import Callable

from numpy.random import Generator

from . import objects, textures
from .canvas import Canvas

# Painter and possible defects of every category. The order within a tuple is the order of the folders.
_TEXTURES: dict[str, tuple[Callable[[Canvas, Generator], None], tuple[str, ...]]] = {
    "weave": (textures.weave, ("hole", "stain", "contamination", "distortion", "misprint")),
    "wood": (textures.wood, ("scratch", "crack", "hole", "stain", "dent")),
    "brushed_metal": (textures.brushed_metal, ("scratch", "dent", "stain", "contamination", "discoloration")),
    "leather": (textures.leather, ("scratch", "hole", "stain", "dent", "discoloration")),
    "tile": (textures.tile, ("crack", "chip", "stain", "scratch", "misprint")),
    "grid": (textures.grid, ("distortion", "contamination", "hole", "misprint", "stain")),
    "paper": (textures.paper, ("stain", "hole", "misprint", "contamination", "crack")),
    "concrete": (textures.concrete, ("crack", "hole", "stain", "chip", "contamination")),
    "carpet": (textures.carpet, ("hole", "stain", "contamination", "discoloration", "distortion")),
    "knit": (textures.knit, ("hole", "stain", "contamination", "distortion", "discoloration")),
    "cork": (textures.cork, ("hole", "crack", "stain", "contamination", "dent")),
    "marble": (textures.marble, ("scratch", "crack", "chip", "stain", "hole")),
    "perforated_sheet": (textures.perforated_sheet, ("missing", "scratch", "dent", "stain", "contamination")),
    "corrugated_cardboard": (textures.corrugated_cardboard, ("crack", "dent", "stain", "hole", "misprint")),
    "rubber_mat": (textures.rubber_mat, ("missing", "scratch", "contamination", "hole", "discoloration")),
    "honeycomb": (textures.honeycomb, ("hole", "distortion", "contamination", "stain", "misprint")),
    "wicker": (textures.wicker, ("crack", "distortion", "stain", "contamination", "misprint")),
}
_OBJECTS: dict[str, tuple[Callable[[Canvas, Generator], None], tuple[str, ...]]] = {
    "bolt": (objects.bolt, ("scratch", "dent", "missing", "chip", "stain")),
    "washer": (objects.washer, ("scratch", "crack", "missing", "dent", "contamination")),
    "gear": (objects.gear, ("missing", "scratch", "crack", "stain", "chip")),
    "pill": (objects.pill, ("chip", "crack", "contamination", "misprint", "discoloration")),
    "capsule": (objects.capsule, ("missing", "dent", "scratch", "misprint", "crack")),
    "bottle_cap": (objects.bottle_cap, ("dent", "scratch", "misprint", "discoloration", "chip")),
    "circuit_board": (objects.circuit_board, ("missing", "scratch", "contamination", "crack", "stain")),
    "cable": (objects.cable, ("missing", "hole", "crack", "contamination", "discoloration")),
    "nut": (objects.nut, ("missing", "scratch", "dent", "crack", "stain")),
    "button": (objects.button, ("missing", "scratch", "chip", "crack", "discoloration")),
    "coin": (objects.coin, ("scratch", "misprint", "stain", "dent", "hole")),
    "bearing": (objects.bearing, ("missing", "scratch", "contamination", "stain", "crack")),
    "biscuit": (objects.biscuit, ("chip", "crack", "hole", "contamination", "discoloration")),
    "battery": (objects.battery, ("missing", "dent", "scratch", "misprint", "stain")),
    "fuse": (objects.fuse, ("missing", "crack", "discoloration", "scratch", "contamination")),
    "key": (objects.key, ("missing", "scratch", "discoloration", "chip", "dent")),
    "label": (objects.label, ("misprint", "scratch", "stain", "hole", "crack")),
    "switch": (objects.switch, ("missing", "crack", "scratch", "stain", "dent")),
}

TEXTURES = tuple(_TEXTURES)
OBJECTS = tuple(_OBJECTS)
CATEGORIES = TEXTURES + OBJECTS
PAINTERS = {name: painter for name, (painter, _) in (_TEXTURES | _OBJECTS).items()}
DEFECTS_OF = {name: kinds for name, (_, kinds) in (_TEXTURES | _OBJECTS).items()}

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
