# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Dataset, items and batches with features of the frozen vision tower instead of images."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from anomalib.data import AnomalibDataset, ImageBatch
from anomalib.data.utils import LabelName
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torchvision.tv_tensors import Mask

from anomalib_genclip.clip.frozen_clip import ImageTokens
from anomalib_genclip.data.batch import CategoryBatch, CategoryItem
from anomalib_genclip.utils.tensors import digest

METADATA = "feature_cache"  # entry in a file's header: its key and the checksum of its tensors


@dataclass
class FeatureItem(CategoryItem):
    """Features of one image; ``image`` is ``None``.

    Args:
        patches (Tensor): Patch tokens of the feature layers, ``(M, N, d_v)``, half precision.
        cls (Tensor): CLS tokens of the feature layers, ``(M, d_v)``.
        pooled (Tensor): CLS token of the last feature layer after CLIP's final norm, ``(d_v,)``.
        embedding (Tensor): CLIP's image embedding, ``(d,)``.
    """

    patches: Tensor = field(kw_only=True)
    cls: Tensor = field(kw_only=True)
    pooled: Tensor = field(kw_only=True)
    embedding: Tensor = field(kw_only=True)

    @staticmethod
    def validate_image(image: None) -> None:
        """There is no image to check."""
        return image


@dataclass
class FeatureBatch(CategoryBatch):
    """A batch of :class:`FeatureItem`: the same fields with the batch as first dimension."""

    patches: Tensor = field(kw_only=True)
    cls: Tensor = field(kw_only=True)
    pooled: Tensor = field(kw_only=True)
    embedding: Tensor = field(kw_only=True)

    item_class: ClassVar[type[FeatureItem]] = FeatureItem

    @staticmethod
    def validate_image(image: None) -> None:
        """There is no image to check."""
        return image

    @property
    def batch_size(self) -> int:
        """Number of images."""
        return len(self.cls)

    @classmethod
    def collate(cls, items: list[FeatureItem]) -> "FeatureBatch":  # type: ignore[override]
        """Collate items that all have the same fields; fields that are ``None`` in the first item stay ``None``."""
        columns = {name: [getattr(item, name) for item in items] for name in items[0].__dict__}
        return cls(**{name: _joined(values) for name, values in columns.items()})

    def tokens(self, dtype: torch.dtype) -> ImageTokens:
        """Return the vision-encoder outputs in the model's dtype."""
        return ImageTokens(
            # One tensor per layer, so that each is contiguous for the product with ψ.
            patches=tuple(layer.to(dtype) for layer in self.patches.unbind(1)),
            cls=self.cls.to(dtype),
            pooled=self.pooled.to(dtype),
            embedding=self.embedding.to(dtype),
        )


class FeatureDataset(AnomalibDataset):
    """Dataset that reads the features of another dataset's samples; it opens no image or mask.

    Args:
        dataset (AnomalibDataset): The dataset of images.
        files (Sequence[Path]): File in the cache for each sample.
    """

    def __init__(self, dataset: AnomalibDataset, files: Sequence[Path]) -> None:
        super().__init__()
        self._name = dataset.name
        self._category = dataset.category
        self._samples = dataset.samples.assign(features=[str(file) for file in files])

    @property
    def name(self) -> str:
        """Name of the dataset of images."""
        return self._name

    def __getitem__(self, index: int) -> FeatureItem:
        """Read one image's features.

        Raises:
            ValueError: If the file is corrupt; names it.
        """
        row = self.samples.iloc[index]
        tensors = read_features(Path(row.features))
        mask = tensors.pop("mask", None)
        return FeatureItem(
            image=None,
            gt_label=None if row.label_index == LabelName.UNKNOWN else torch.tensor(int(row.label_index)),
            gt_mask=None if mask is None else Mask(mask),
            image_path=row.image_path,
            mask_path=row.mask_path,
            category=row.get("category"),
            dataset=row.get("dataset"),
            **tensors,
        )

    @property
    def collate_fn(self) -> Callable:
        """Collate into :class:`FeatureBatch`."""
        return FeatureBatch.collate


def _joined(values: list) -> Any:  # noqa: ANN401  # a tensor, a list or None
    """Collate one field of a batch."""
    if values[0] is None:
        return None
    return torch.stack(values) if isinstance(values[0], Tensor) else values


def read_header(path: Path) -> dict[str, Any]:
    """Read the metadata of a file in the cache; ``{}`` if the file is missing or truncated."""
    try:
        with safe_open(path, framework="pt") as file:
            return _description(file)
    except (SafetensorError, OSError):
        return {}


def read_features(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file in the cache.

    Raises:
        ValueError: If they do not match the checksum; names the file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            checksum = _description(file).get("checksum")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # not a dict
    except (SafetensorError, OSError):
        checksum, tensors = None, {}
    if checksum != digest(tensors, {}):
        msg = f"{path} of the feature cache is damaged. Delete it and start again: it is then rewritten."
        raise ValueError(msg)
    return tensors


def _description(file: safe_open) -> dict[str, Any]:
    """Parse the metadata in the header of an open file."""
    try:
        description = json.loads((file.metadata() or {}).get(METADATA, "{}"))
    except (ValueError, RecursionError):
        return {}
    return description if isinstance(description, dict) else {}


def images_of(batch: ImageBatch, dtype: torch.dtype) -> Tensor | ImageTokens:
    """Return a batch's images, or their features if the cache has replaced them, in the model's dtype.

    anomalib's batches convert images to float32, whatever the trainer's precision is.
    """
    if isinstance(batch, FeatureBatch):
        return batch.tokens(dtype)
    images: Tensor = batch.image
    return images.to(dtype)
