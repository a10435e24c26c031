# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Data for zero-shot protocols: source and target datasets in one datamodule.

Names are imported on first access. ``anomalib.data`` is imported first, because its import registers this package's
classes (see ``plugin.py``), which must not happen while one of the modules below is partly executed.
"""

import importlib
from typing import TYPE_CHECKING, Any

import anomalib.data  # noqa: F401

if TYPE_CHECKING:
    from .batch import CategoryBatch, CategoryItem
    from .cross_dataset import CrossDataset

_HOMES = {
    "CategoryBatch": ".batch",
    "CategoryItem": ".batch",
    "CrossDataset": ".cross_dataset",
}

__all__ = ["CategoryBatch", "CategoryItem", "CrossDataset"]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Import a public name on first use (PEP 562)."""
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(importlib.import_module(_HOMES[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})
