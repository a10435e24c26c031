# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Samples of several data sets and categories as one anomalib data set."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import pandas as pd
from anomalib import TaskType
from anomalib.data import AnomalibDataset
from anomalib.data.utils import LabelName
from PIL import Image

from anomalib_genclip.data.batch import CategoryBatch, CategoryItem

_COLUMNS = ["image_path", "split", "label", "label_index", "mask_path", "category", "dataset", "part", "row"]
_DISTORTION = 1.1  # what rounding can do to the sides of small masks


class CategoryPart(NamedTuple):
    """One category of one data set.

    Args:
        dataset (str): Name of the data set.
        category (str): Name of the category.
        data (AnomalibDataset): The samples; reads the images and masks.
    """

    dataset: str
    category: str
    data: AnomalibDataset


class CategoryDataset(AnomalibDataset):
    """Concatenated samples whose items say their category and data set.

    Each image is read by the data set that it came from, because some of anomalib's have their own way of reading.
    ``samples`` has anomalib's columns and ``category``, ``dataset``, ``part`` (index into ``parts``) and ``row``
    (index into that part's samples). The last two travel with the rows, so sorting and subsampling cannot mix them up.

    Args:
        parts (Sequence[CategoryPart]): What to concatenate, at least one.
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
            CategoryItem: Image ``(3, H, W)``, label, category, data set and, for segmentation, mask ``(H, W)``.

        Raises:
            ValueError: If the mask does not have the shape of its image; names both files.
        """
        row = self.samples.iloc[index]
        data = self.parts[row.part].data
        # Set on every access: the datamodule and the engine replace ours at any time.
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
    """Refuse a mask that would have to be distorted to lie on its image; one of another resolution is fine.

    Images are resized when they are read, so the sizes are taken from the files' headers.
    """
    if not isinstance(mask_path, str):  # several masks for one image
        return
    try:
        with Image.open(image_path) as image, Image.open(mask_path) as mask:
            width, height, mask_width, mask_height = *image.size, *mask.size
    except OSError:  # no pictures: the data set has its own way of reading
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
    # Attributes of different data sets differ, and concat would compare them.
    rows.attrs.clear()
    return rows
