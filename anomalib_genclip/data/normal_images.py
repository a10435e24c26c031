# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Normal images for references and calibration: which there are, read one by one."""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

from anomalib.data import AnomalibDataset, ImageBatch, PredictDataset
from anomalib.data.utils import LabelName
from lightning.pytorch import LightningDataModule
from torch import Tensor

from anomalib_genclip.data.images import FileFaults, check_images, warn_of_others
from anomalib_genclip.utils.files import why_unreadable
from anomalib_genclip.utils.loaders import category_of


class NormalImages(NamedTuple):
    """Normal images of one category: their paths, and a function that reads one by its index, and checks it."""

    files: list[str]
    read_row: Callable[[int, FileFaults], Tensor]

    def read(self, row: int, faults: FileFaults) -> Tensor:
        """Read an image: ``(3, H, W)``, float32, in [0, 1]; a ``ValueError`` names one that cannot be used."""
        try:
            image = self.read_row(row, faults)
        except Exception as error:
            msg = f"{self.files[row]} cannot be read: {why_unreadable(error)}. Repair or remove the file."
            raise ValueError(msg) from error
        check_images(ImageBatch(image=image[None], image_path=[self.files[row]]))
        return image


def images_of_folder(folder: str, setting: str) -> NormalImages:
    """Return all images of a folder; a ``ValueError`` names the ``setting`` that has none."""
    try:
        dataset = PredictDataset(folder)
    except (OSError, ValueError) as error:
        msg = f"{setting}={folder} has no images: {why_unreadable(error)}."
        raise ValueError(msg) from error
    files = [str(file) for file in dataset.image_filenames]
    warn_of_others(files)
    return NormalImages(files, lambda row, faults: faults.read(files[row]).float() / 255)


def images_of_datamodule(datamodule: LightningDataModule | None) -> list[tuple[str, NormalImages]]:
    """Return a datamodule's normal training images, for ``CrossDataset`` the target's."""
    parts: Any = getattr(datamodule, "normal_images", None)  # CrossDataset's
    if parts is None and datamodule is not None:
        parts = [(category_of(datamodule), getattr(datamodule, "train_data", None))]
    return [(category, _images_of_dataset(dataset)) for category, dataset in parts or []]


def _images_of_dataset(dataset: AnomalibDataset | None) -> NormalImages:
    """Return the normal images of a training set; they are read without its augmentations."""
    if dataset is None:
        return NormalImages([], lambda *_: Tensor())
    plain = copy.copy(dataset)
    plain.augmentations = None
    samples = dataset.samples.reset_index(drop=True)
    rows = samples.index[samples.label_index == LabelName.NORMAL].tolist()
    files = [str(samples.image_path[row]) for row in rows]

    def read_row(row: int, faults: FileFaults) -> Tensor:
        faults.check_headers([files[row]], [None])
        return plain[rows[row]].image

    return NormalImages(files, read_row)
