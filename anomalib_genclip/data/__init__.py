# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Data for zero-shot protocols: source and target datasets in one datamodule."""

from .category_dataset import CategoryBatch, CategoryItem
from .cross_dataset import CrossDataset

__all__ = ["CategoryBatch", "CategoryItem", "CrossDataset"]
