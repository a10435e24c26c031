# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Image items and batches with the category and dataset of each image.

anomalib's batches have no category, because its datamodules have only one. Zero-shot protocols have several categories
and datasets in one loader.
"""

from dataclasses import dataclass, fields
from typing import Any, ClassVar

from anomalib.data import ImageBatch, ImageItem, NumpyImageBatch, NumpyImageItem


def _plain(value: Any, cls: type) -> Any:  # noqa: ANN401
    """Convert to a class of anomalib, which has neither category nor dataset."""
    return cls(**{field.name: getattr(value, field.name) for field in fields(cls)})


@dataclass
class CategoryItem(ImageItem):
    """One image with category and dataset.

    Args:
        category (str | None): Category of the image, for example ``"bottle"``. Defaults to ``None``.
        dataset (str | None): Name of the dataset that the category belongs to. Defaults to ``None``.
    """

    category: str | None = None
    dataset: str | None = None

    def to_numpy(self) -> NumpyImageItem:
        """Convert to anomalib's NumPy item; category and dataset are dropped."""
        return _plain(self, ImageItem).to_numpy()


@dataclass
class CategoryBatch(ImageBatch):
    """A batch whose images may belong to several categories.

    Args:
        category (list[str] | None): Category of each image. Defaults to ``None``.
        dataset (list[str] | None): Dataset of each image. Defaults to ``None``.
    """

    category: list[str] | None = None
    dataset: list[str] | None = None

    item_class: ClassVar[type[CategoryItem]] = CategoryItem

    def to_numpy(self) -> NumpyImageBatch:
        """Convert to anomalib's NumPy batch; category and dataset are dropped."""
        return _plain(self, ImageBatch).to_numpy()
