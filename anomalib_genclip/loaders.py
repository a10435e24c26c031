# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Which loaders a trainer is running, and which data set and category they serve."""

from typing import Any, NamedTuple

from anomalib.data import Folder
from anomalib.data.datamodules.base.image import AnomalibDataModule
from lightning.pytorch import Trainer

_SUBSETS = ("train_data", "val_data", "test_data", "predict_data")


class Origin(NamedTuple):
    """Where a loader's images come from, as far as that is known.

    Args:
        dataset (str | None): Name of the data set.
        category (str | None): Category; a ``Folder``'s is its name.
    """

    dataset: str | None
    category: str | None


def as_list(value: Any) -> list:  # noqa: ANN401
    """Return one or several things as a list."""
    return list(value) if isinstance(value, list | tuple) else [value]


def running_loaders(trainer: Trainer) -> list:
    """Return the loaders of the running stage."""
    if trainer.training and trainer.train_dataloader is None:  # the feature cache is being filled
        return [trainer.datamodule.train_dataloader(), trainer.datamodule.val_dataloader()]
    if trainer.training:
        return as_list(trainer.train_dataloader)
    if trainer.validating or trainer.sanity_checking:
        return as_list(trainer.val_dataloaders)
    return as_list(trainer.test_dataloaders if trainer.testing else trainer.predict_dataloaders)


def datamodule_of(trainer: Trainer, loader: object) -> AnomalibDataModule | None:
    """Return the trainer's datamodule if a loader is one of its loaders.

    Lightning keeps the last datamodule when a later call is given loaders or a folder.
    """
    datamodule, data = getattr(trainer, "datamodule", None), getattr(loader, "dataset", None)
    own = data is not None and any(data is getattr(datamodule, key, None) for key in _SUBSETS)
    return datamodule if own else None


def origin_of(trainer: Trainer, loader: object) -> Origin:
    """Say where a loader's images come from: its data's own words, else its datamodule's."""
    datamodule, data = datamodule_of(trainer, loader), getattr(loader, "dataset", None)
    dataset = _word(datamodule, "name") or _word(data, "name")
    category = _word(data, "category") or _word(datamodule, "category")
    return Origin(dataset, dataset if isinstance(datamodule, Folder) else category)


def _word(source: object, attribute: str) -> str | None:
    """Return a text attribute, ``None`` if there is none or it is empty."""
    value = getattr(source, attribute, None)
    return value if isinstance(value, str) and value else None
