# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Rendered images of objects and textures, with and without defects, for tests and first steps without a download."""

from .datamodule import CATEGORIES, DEFECTS_OF, SOURCE, TARGET, TUNING, UNSEEN_BY_TINY, SyntheticDefects, render
from .textures import TEXTURES

__all__ = [
    "CATEGORIES",
    "DEFECTS_OF",
    "SOURCE",
    "TARGET",
    "TEXTURES",
    "TUNING",
    "UNSEEN_BY_TINY",
    "SyntheticDefects",
    "render",
]
