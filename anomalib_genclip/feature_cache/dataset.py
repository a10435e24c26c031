# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Dataset and batches with features of the frozen vision tower instead of images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from anomalib.data import AnomalibDataset, ImageBatch
from anomalib.data.utils import LabelName
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from anomalib_genclip.clip.frozen_clip import ImageTokens
from anomalib_genclip.data.category_dataset import CategoryBatch
from anomalib_genclip.utils.tensors import digest


@dataclass
class FeatureBatch(CategoryBatch):
    """A batch with features instead of images, which are ``None``; patch tokens are in half precision."""

    tokens: ImageTokens = field(kw_only=True)

    @staticmethod
    def validate_image(image: None) -> None:
        """There is no image to check."""
        return image

    @property
    def batch_size(self) -> int:
        """Number of images."""
        return len(self.tokens.cls)


class FeatureDataset(AnomalibDataset):
    """Reads the features of another dataset's samples from ``files`` of the cache; opens no image or mask."""

    def __init__(self, dataset: AnomalibDataset, files: Sequence[str]) -> None:
        super().__init__()
        self._name = dataset.name
        self._category = dataset.category
        self._samples = dataset.samples.assign(features=list(files))

    @property
    def name(self) -> str:
        """Name of the dataset of images."""
        return self._name

    def __getitem__(self, index: int) -> dict[str, Any]:  # type: ignore[override]
        """Read the fields of one image; those of ``tokens`` have no batch dimension."""
        row = self.samples.iloc[index]
        tensors = read_features(Path(row.features))
        return {
            "gt_label": None if row.label_index == LabelName.UNKNOWN else torch.tensor(int(row.label_index)),
            "gt_mask": tensors.pop("mask", None),
            **{name: row.get(name) for name in ("image_path", "mask_path", "category", "dataset")},
            "tokens": ImageTokens(**tensors),  # patches: (M, N, d_v)
        }

    @property
    def collate_fn(self) -> Callable:
        """Collate into :class:`FeatureBatch`."""
        return _collate


def _collate(items: list[dict[str, Any]]) -> FeatureBatch:
    """Collate images that all have the same fields; fields that are ``None`` in the first one stay ``None``."""
    columns = {name: [item[name] for item in items] for name in items[0]}
    patches, *others = zip(*columns.pop("tokens"), strict=True)
    # One tensor per layer, so that each is contiguous for the product with ψ.
    layers = tuple(map(torch.stack, zip(*patches, strict=True)))
    stacked = {key: torch.stack(values) for key, values in columns.items() if isinstance(values[0], Tensor)}
    lists = {key: None if values[0] is None else values for key, values in columns.items()}
    return FeatureBatch(image=None, tokens=ImageTokens(layers, *map(torch.stack, others)), **lists | stacked)


def read_header(path: Path) -> dict[str, str]:
    """Read key and checksum of a file in the cache; ``{}`` if the file is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError):
        return {}


def read_features(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file in the cache; a ``ValueError`` names one that does not match its checksum."""
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError):
        tensors = {}
    if read_header(path).get("checksum") != digest(tensors, {}):
        msg = f"{path} of the feature cache is damaged. Delete it and start again: it is then rewritten."
        raise ValueError(msg)
    return tensors


def images_of(batch: ImageBatch, dtype: torch.dtype) -> Tensor | ImageTokens:
    """Return a batch's images, which anomalib converts to float32, or features from the cache, in the model's dtype."""
    if not isinstance(batch, FeatureBatch):
        return batch.image.to(dtype)  # type: ignore[union-attr]  # the step of a batch with images
    patches, *others = batch.tokens
    return ImageTokens(tuple(layer.to(dtype) for layer in patches), *(value.to(dtype) for value in others))
