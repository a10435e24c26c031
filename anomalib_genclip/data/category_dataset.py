# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Samples of several datasets and categories as one anomalib dataset, whose items have both, unlike anomalib's."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pandas as pd
import torch
from anomalib import TaskType
from anomalib.data import AnomalibDataset, ImageBatch, ImageItem
from anomalib.data.utils import read_mask
from torch import Tensor
from torchvision.transforms.v2.functional import resize
from torchvision.tv_tensors import Mask

from anomalib_genclip.utils.tensors import IGNORED

from .images import check_mask

_COLUMNS = ["image_path", "split", "label", "label_index", "mask_path"]  # anomalib's
_COLUMNS += ["category", "dataset", "part", "row", "ignore_path"]


class _Marked:
    """Keeps masks of whole numbers, which :data:`~anomalib_genclip.utils.tensors.IGNORED` needs, as they are."""

    @classmethod
    def validate_gt_mask(cls, gt_mask: Tensor | None) -> Mask | None:
        """Check a mask."""
        is_marked = gt_mask is not None and gt_mask.dtype == torch.uint8
        return Mask(gt_mask) if is_marked else super().validate_gt_mask(gt_mask)  # type: ignore[misc]  # anomalib's

    def to_numpy(self) -> Any:  # noqa: ANN401
        """Convert to anomalib's NumPy item or batch; category and dataset are dropped."""
        plain: Any = ImageBatch if isinstance(self, ImageBatch) else ImageItem
        return plain(**{field.name: getattr(self, field.name) for field in fields(plain)}).to_numpy()


@dataclass
class CategoryItem(_Marked, ImageItem):
    """One image with its category, for example ``"bottle"``, and the name of its dataset."""

    category: str | None = None
    dataset: str | None = None


@dataclass
class CategoryBatch(_Marked, ImageBatch):
    """A batch with the category and dataset of each image."""

    category: list[str] | None = None
    dataset: list[str] | None = None

    item_class: ClassVar[type[CategoryItem]] = CategoryItem


class CategoryPart(NamedTuple):
    """One category of one dataset; ``data`` has the samples, and reads images and masks.

    White pixels of ``<root>/ignore/<path of the image in root>.png`` do not count in training; ``None`` for none.
    """

    dataset: str
    category: str
    data: AnomalibDataset
    root: Path | None = None

    def ignore_file(self, image: str) -> str:
        """Return the file of the pixels of an image that do not count, ``""`` for none; its shape is checked."""
        path = Path(image).absolute()
        for root in [] if self.root is None else [self.root.absolute(), self.root.resolve()]:
            if path.is_relative_to(root):
                file = root / "ignore" / path.relative_to(root).with_suffix(".png")
                if file.is_file():
                    check_mask(image, str(file))
                    return str(file)
        return ""


class CategoryDataset(AnomalibDataset):
    """Concatenated samples whose items have category and dataset.

    Each image is read by its original dataset, because some of anomalib's datasets override reading. ``samples`` has
    anomalib's columns and ``category``, ``dataset``, ``part`` (index into ``parts``) and ``row`` (index into that
    part's samples). The last two are columns so that sorting and subsampling preserve them.

    The task segmentation reads masks, classification leaves them out.
    """

    def __init__(self, parts: Sequence[CategoryPart], task: TaskType, split: str) -> None:
        super().__init__()
        self.parts = list(parts)
        tables = []
        for index, part in enumerate(self.parts):
            part.data.samples.attrs["task"] = task.value
            rows = range(len(part.data.samples))
            table = part.data.samples.assign(category=part.category, dataset=part.dataset, part=index, row=rows)
            table["ignore_path"] = [*map(part.ignore_file, table.image_path)]
            table.attrs.clear()  # those of the datasets differ, and concat would compare them
            tables.append(table.astype({"label_index": int, "image_path": str}).reindex(columns=_COLUMNS))
        samples = pd.concat(tables, ignore_index=True).assign(split=split)
        samples.attrs["task"] = task.value
        self.samples = samples
        self.ignores = bool(samples.ignore_path.any())  # then masks have 2 where pixels do not count

    def __getitem__(self, index: int) -> CategoryItem:
        """Read one image ``(3, H, W)`` and, for segmentation, its mask ``(H, W)``."""
        row = self.samples.iloc[index]
        data = self.parts[row.part].data
        # Set on every access, because datamodule and engine may replace the augmentations at any time.
        data.augmentations = None if self.ignores else self.augmentations
        item = data[row.row]
        image, mask = self._marked(item, row.ignore_path) if self.ignores else (item.image, item.gt_mask)
        return CategoryItem(
            image=image,
            gt_label=item.gt_label,
            gt_mask=mask if self.task == TaskType.SEGMENTATION else None,
            image_path=item.image_path,
            mask_path=item.mask_path,
            category=row.category,
            dataset=row.dataset,
        )

    def _marked(self, item: ImageItem, file: str) -> tuple[Tensor, Tensor]:
        """Return image and mask after augmentation, the mask with ``IGNORED`` where ``file`` is white."""
        mask = Mask(item.gt_mask, dtype=torch.uint8)
        if file:
            mask[resize(read_mask(file, as_tensor=True), list(mask.shape)) > 0] = IGNORED
        return self.augmentations(item.image, mask) if self.augmentations else (item.image, mask)

    @property
    def collate_fn(self) -> Callable:
        """Collate into :class:`CategoryBatch`."""
        return CategoryBatch.collate
