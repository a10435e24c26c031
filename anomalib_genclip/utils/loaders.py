# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The loaders of a trainer, their images, and the dataset and category of a loader.

The category of an image is that of its batch, else of its dataset, else of its datamodule. A datamodule without a
category (``Folder``, ``Kolektor``) is one category with its ``name``.
"""

from typing import Any, NamedTuple

from anomalib.data import ImageBatch
from anomalib.data.datamodules.base.image import AnomalibDataModule
from anomalib.data.datasets.base.image import AnomalibDataset
from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import Subset

_SUBSETS = ("train_data", "val_data", "test_data", "predict_data")


class Origin(NamedTuple):
    """Names of a loader's dataset and category, ``None`` if they are unknown."""

    dataset: str | None
    category: str | None


def as_list(value: Any) -> list:  # noqa: ANN401
    """Return a list or tuple as a list, and any other value as a list with one element."""
    return list(value) if isinstance(value, list | tuple) else [value]


def image_paths(loader: object) -> list[str]:
    """Return the images of a loader, if its dataset lists them: anomalib's or ``PredictDataset``."""
    dataset = getattr(loader, "dataset", None)
    samples = getattr(dataset, "samples", None)
    return [*map(str, getattr(dataset, "image_filenames", []) if samples is None else samples["image_path"])]


def running_loaders(trainer: Trainer) -> list:
    """Return the loaders of the trainer's current stage."""
    if trainer.training and trainer.train_dataloader is None:  # the feature cache is being filled
        return [trainer.datamodule.train_dataloader(), trainer.datamodule.val_dataloader()]
    if trainer.training:
        return as_list(trainer.train_dataloader)
    if trainer.validating or trainer.sanity_checking:
        return as_list(trainer.val_dataloaders)
    return as_list(trainer.test_dataloaders if trainer.testing else trainer.predict_dataloaders)


def datamodule_of(trainer: Trainer, loader: object) -> LightningDataModule | None:
    """Return the trainer's datamodule, which Lightning keeps for later loaders; ``None`` if the loader is another's."""
    datamodule, data = getattr(trainer, "datamodule", None), getattr(loader, "dataset", None)
    while isinstance(data, Subset):
        data = data.dataset
    own = any(data is getattr(datamodule, key, None) for key in _SUBSETS)
    another = isinstance(data, AnomalibDataset) and isinstance(datamodule, AnomalibDataModule) and not own
    return None if another or hasattr(data, "image_filenames") else datamodule  # which anomalib's PredictDataset has


def category_of(datamodule: LightningDataModule) -> str:
    """Return the datamodule's category, or its name if it has none."""
    return _word(datamodule, "category") or _word(datamodule, "name") or ""


def origin_of(trainer: Trainer, loader: object) -> Origin:
    """Return dataset and category of a loader's images."""
    datamodule, data = datamodule_of(trainer, loader), getattr(loader, "dataset", None)
    category = _word(data, "category") or ("" if datamodule is None else category_of(datamodule))
    return Origin(_word(datamodule, "name") or _word(data, "name"), category or None)


def _word(source: object, attribute: str) -> str | None:
    """Return a string attribute, ``None`` if it is missing or empty."""
    value = getattr(source, attribute, None)
    return value if isinstance(value, str) and value else None


def categories_of(batch: ImageBatch, trainer: Trainer | None, dataloader_idx: int) -> list[str | None]:
    """Return each image's category, ``None`` if it is unknown."""
    own = getattr(batch, "category", None) or [None] * len(batch)
    if all(own) or trainer is None:
        return own
    category = origin_of(trainer, running_loaders(trainer)[dataloader_idx]).category
    return [name or category for name in own]
