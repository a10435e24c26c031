# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Samples of several datasets and categories as one anomalib dataset."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import pandas as pd
from anomalib import TaskType
from anomalib.data import AnomalibDataset
from anomalib.data.utils import LabelName
from PIL import Image

from anomalib_genclip.data.batch import CategoryBatch, CategoryItem

_COLUMNS = ["image_path", "split", "label", "label_index", "mask_path", "category", "dataset", "part", "row"]
_DISTORTION = 1.1  # tolerance of the aspect ratio, for rounding in small masks


class CategoryPart(NamedTuple):
    """One category of one dataset.

    Args:
        dataset (str): Name of the dataset.
        category (str): Name of the category.
        data (AnomalibDataset): The samples; reads the images and masks.
    """

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
        for part in self.parts:
            part.data.samples.attrs["task"] = task.value
        samples = pd.concat([_rows(index, part) for index, part in enumerate(self.parts)], ignore_index=True)
        samples["split"] = split
        samples.attrs["task"] = task.value
        self.samples = samples

    def __getitem__(self, index: int) -> CategoryItem:
        """Read one image.

        Args:
            index (int): Row of ``samples``.

        Returns:
            CategoryItem: Image ``(3, H, W)``, label, category, dataset and, for segmentation, mask ``(H, W)``.

        Raises:
            ValueError: If mask and image differ in aspect ratio; names both files.
        """
        row = self.samples.iloc[index]
        data = self.parts[row.part].data
        # Set on every access, because datamodule and engine may replace the augmentations at any time.
        data.augmentations = self.augmentations
        item = data[row.row]
        if self.task == TaskType.SEGMENTATION and row.label_index == LabelName.ABNORMAL:
            _check_mask_shape(row.image_path, row.mask_path)
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


def _check_mask_shape(image_path: str, mask_path: object) -> None:
    """Refuse a mask whose aspect ratio differs from that of its image; the resolution may differ.

    The sizes are read from the files' headers, because images may be resized when they are read.
    """
    if not isinstance(mask_path, str):  # several masks for one image
        return
    try:
        with Image.open(image_path) as image, Image.open(mask_path) as mask:
            width, height, mask_width, mask_height = *image.size, *mask.size
    except OSError:  # no image files: the dataset overrides reading
        return
    if not 1 / _DISTORTION < (width * mask_height) / (height * mask_width) < _DISTORTION:
        msg = (
            f"The mask {mask_path} ({mask_width} x {mask_height} pixels) does not have the shape of its image "
            f"{image_path} ({width} x {height}). Draw it on the image as it is stored: orientation tags of cameras "
            "(EXIF) are not applied."
        )
        raise ValueError(msg)


def _rows(index: int, part: CategoryPart) -> pd.DataFrame:
    """Return one part's samples with the columns that all parts share."""
    rows = part.data.samples.assign(category=part.category, dataset=part.dataset, part=index)
    rows["row"] = range(len(rows))
    rows["label_index"] = rows["label_index"].astype(int)
    rows["image_path"] = rows["image_path"].astype(str)
    rows = rows.reindex(columns=_COLUMNS)
    # Attributes of the datasets differ, and concat would compare them.
    rows.attrs.clear()
    return rows
