# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Rendered images of objects and textures, with and without defects, for tests and first steps without a download."""

from .categories import CATEGORIES, DEFECTS_OF, OBJECTS, SOURCE, TARGET, TEXTURES, TUNING, UNSEEN_BY_TINY
from .datamodule import SyntheticDefects
from .defects import DEFECTS
from .render import render

__all__ = [
    "CATEGORIES",
    "DEFECTS",
    "DEFECTS_OF",
    "OBJECTS",
    "SOURCE",
    "TARGET",
    "TEXTURES",
    "TUNING",
    "UNSEEN_BY_TINY",
    "SyntheticDefects",
    "render",
]
