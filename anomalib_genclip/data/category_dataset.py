# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Samples of several datasets and categories as one anomalib dataset, whose items have the category and the dataset.

anomalib's items have neither, because its datamodules have one category only.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple

import pandas as pd
from anomalib import TaskType
from anomalib.data import AnomalibDataset, ImageBatch, ImageItem, NumpyImageBatch, NumpyImageItem

_COLUMNS = ["image_path", "split", "label", "label_index", "mask_path", "category", "dataset", "part", "row"]


def _plain(value: Any, cls: type) -> Any:  # noqa: ANN401
    """Convert to a class of anomalib, which has neither category nor dataset."""
    return cls(**{field.name: getattr(value, field.name) for field in fields(cls)})


@dataclass
class CategoryItem(ImageItem):
    """One image with its category, for example ``"bottle"``, and the name of its dataset."""

    category: str | None = None
    dataset: str | None = None

    def to_numpy(self) -> NumpyImageItem:
        """Convert to anomalib's NumPy item; category and dataset are dropped."""
        return _plain(self, ImageItem).to_numpy()


@dataclass
class CategoryBatch(ImageBatch):
    """A batch with the category and dataset of each image."""

    category: list[str] | None = None
    dataset: list[str] | None = None

    item_class: ClassVar[type[CategoryItem]] = CategoryItem

    def to_numpy(self) -> NumpyImageBatch:
        """Convert to anomalib's NumPy batch; category and dataset are dropped."""
        return _plain(self, ImageBatch).to_numpy()


class CategoryPart(NamedTuple):
    """One category of one dataset; ``data`` has the samples, and reads images and masks."""

    dataset: str
    category: str
    data: AnomalibDataset


class CategoryDataset(AnomalibDataset):
    """Concatenated samples whose items have category and dataset.

    Each image is read by its original dataset, because some of anomalib's datasets override reading. ``samples`` has
    anomalib's columns and ``category``, ``dataset``, ``part`` (index into ``parts``) and ``row`` (index into that
    part's samples). The last two are columns so that sorting and subsampling preserve them.

    Args:
        parts (Sequence[CategoryPart]): Parts to concatenate, at least one.
        task (TaskType): Segmentation reads masks, classification leaves them out.
        split (str): Value of the ``split`` column.
    """

    def __init__(self, parts: Sequence[CategoryPart], task: TaskType, split: str) -> None:
        super().__init__()
        self.parts = list(parts)
        tables = []
        for index, part in enumerate(self.parts):
            part.data.samples.attrs["task"] = task.value
            rows = range(len(part.data.samples))
            table = part.data.samples.assign(category=part.category, dataset=part.dataset, part=index, row=rows)
            table.attrs.clear()  # those of the datasets differ, and concat would compare them
            tables.append(table.astype({"label_index": int, "image_path": str}).reindex(columns=_COLUMNS))
        samples = pd.concat(tables, ignore_index=True).assign(split=split)
        samples.attrs["task"] = task.value
        self.samples = samples

    def __getitem__(self, index: int) -> CategoryItem:
        """Read one image ``(3, H, W)`` and, for segmentation, its mask ``(H, W)``."""
        row = self.samples.iloc[index]
        data = self.parts[row.part].data
        # Set on every access, because datamodule and engine may replace the augmentations at any time.
        data.augmentations = self.augmentations
        item = data[row.row]
        return CategoryItem(
            image=item.image,
            gt_label=item.gt_label,
            gt_mask=item.gt_mask if self.task == TaskType.SEGMENTATION else None,
            image_path=item.image_path,
            mask_path=item.mask_path,
            category=row.category,
            dataset=row.dataset,
        )

    @property
    def collate_fn(self) -> Callable:
        """Collate into :class:`CategoryBatch`."""
        return CategoryBatch.collate
