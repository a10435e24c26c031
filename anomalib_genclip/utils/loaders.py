# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The loaders of a trainer, and the dataset and category of a loader."""

from typing import Any, NamedTuple

from anomalib.data import Folder, ImageBatch
from anomalib.data.datamodules.base.image import AnomalibDataModule
from anomalib.data.datasets.base.image import AnomalibDataset
from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import Subset

_SUBSETS = ("train_data", "val_data", "test_data", "predict_data")


class Origin(NamedTuple):
    """Dataset and category of a loader's images.

    Args:
        dataset (str | None): Name of the dataset, ``None`` if unknown.
        category (str | None): Category, for a ``Folder`` its name; ``None`` if unknown.
    """

    dataset: str | None
    category: str | None


def as_list(value: Any) -> list:  # noqa: ANN401
    """Return a list or tuple as a list, and any other value as a list with one element."""
    return list(value) if isinstance(value, list | tuple) else [value]


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
    """Return the trainer's datamodule, ``None`` if the loader does not belong to it.

    Lightning keeps the last datamodule when a later call is given loaders or a folder.
    """
    datamodule, data = getattr(trainer, "datamodule", None), getattr(loader, "dataset", None)
    while isinstance(data, Subset):
        data = data.dataset
    own = any(data is getattr(datamodule, key, None) for key in _SUBSETS)
    another = isinstance(data, AnomalibDataset) and isinstance(datamodule, AnomalibDataModule) and not own
    is_folder = hasattr(data, "image_filenames")  # anomalib's PredictDataset
    return None if another or is_folder else datamodule


def origin_of(trainer: Trainer, loader: object) -> Origin:
    """Return dataset and category of a loader's images: its dataset's attributes, else its datamodule's."""
    datamodule, data = datamodule_of(trainer, loader), getattr(loader, "dataset", None)
    dataset = _word(datamodule, "name") or _word(data, "name")
    category = _word(data, "category") or _word(datamodule, "category")
    return Origin(dataset, dataset if isinstance(datamodule, Folder) else category)


def _word(source: object, attribute: str) -> str | None:
    """Return a string attribute, ``None`` if it is missing or empty."""
    value = getattr(source, attribute, None)
    return value if isinstance(value, str) and value else None


def categories_of(batch: ImageBatch, trainer: Trainer | None, dataloader_idx: int) -> list[str | None]:
    """Look up each image's category: batch, dataset or datamodule of its loader, ``None`` if it is unknown."""
    own = getattr(batch, "category", None) or [None] * len(batch)
    if all(own) or trainer is None:
        return own
    category = origin_of(trainer, running_loaders(trainer)[dataloader_idx]).category
    return [name or category for name in own]
