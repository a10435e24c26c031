# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Input checks: messages that name the files of images and masks that cannot be used, or are not as they were meant."""

import errno
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from anomalib.data import ImageBatch
from anomalib.data.utils.image import read_image
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image
from torch import Tensor

from anomalib_genclip.data.images import FileFaults, check_images, warn_of_others
from anomalib_genclip.utils.files import why_unreadable
from anomalib_genclip.utils.loaders import as_list, image_paths, running_loaders

_WRITE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
_READ_ERRORS = (OSError, SyntaxError, Image.DecompressionBombError)  # raised by Pillow for a damaged file


class InputChecks(Callback):
    """Stop at images that cannot be used, and warn of those that are not used as they were meant, with their files.

    anomalib's datasets pass on Pillow's exceptions, often without the name of the file. This callback searches for the
    file after reading has failed. It must come before the pre-processor.
    """

    def __init__(self) -> None:
        self._faults = FileFaults()
        self._batch: ImageBatch | None = None  # of the training step
        self._masks: list[tuple[list[str], Tensor]] = []  # images, and the shares that their masks cover

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the headers of all files that labelled datasets list."""
        for loader in running_loaders(trainer):
            samples = getattr(getattr(loader, "dataset", None), "samples", None)
            if samples is not None and "mask_path" in samples:
                self._faults.check_headers(image_paths(loader), samples["mask_path"])
        self._faults.report()

    on_validation_start = on_test_start = on_train_start

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check headers, and warn about files of the folder that are left out."""
        self.on_train_start(trainer, pl_module)
        for loader in running_loaders(trainer):
            images = getattr(getattr(loader, "dataset", None), "image_filenames", [])
            warn_of_others(images if len(images) > 1 else [])

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: ImageBatch, *args: Any) -> None:  # noqa: ANN401
        """Check the files. The pixels are checked if the loss is not finite: each check waits for the device."""
        self._batch = batch
        self._check_files(batch)

    def on_test_batch_start(self, trainer: Trainer, pl_module: Any, batch: ImageBatch, *args: Any) -> None:  # noqa: ANN401
        """Check files, pixels, and the shape of the ignore mask."""
        check_images(batch)
        self._check_files(batch)
        own = pl_module.model.ignore_mask
        for path in [] if own.mask is None or not own.applies else batch.image_path or []:
            with suppress(OSError):
                own.of(str(path), None, own.mask.shape)

    on_validation_batch_start = on_predict_batch_start = on_test_batch_start

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn about the files of the epoch."""
        for images, shares in self._masks:
            self._faults.check_masks(images, shares.tolist())
        self._masks.clear()
        self._faults.report()

    on_validation_epoch_end = on_test_epoch_end = on_predict_epoch_end = on_train_epoch_end

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Name the file if reading it has failed, or if its pixels are the reason why the loss is not finite."""
        if isinstance(exception, ValueError) and self._batch is not None:
            try:
                check_images(self._batch)
            except ValueError as error:
                _rewrite(exception, str(error))
        is_reading = isinstance(exception, _READ_ERRORS) and getattr(exception, "errno", None) not in _WRITE_ERRORS
        if is_reading and (found := _first_unreadable(running_loaders(trainer))):
            _rewrite(exception, f"{found}. Repair the file or remove it from the data.")

    def _check_files(self, batch: ImageBatch) -> None:
        """Check the headers of files that have not been checked, and note the areas of the masks."""
        if not batch.image_path:
            return
        paths = [*map(str, batch.image_path)]
        self._faults.check_headers(paths, batch.mask_path or [None] * len(paths))
        if batch.gt_mask is not None and batch.gt_label is not None:
            shares = (batch.gt_mask == 1).flatten(1).float().mean(dim=1)
            self._masks.append((paths, torch.where(batch.gt_label.bool(), shares, torch.nan)))  # normal images: neither


def _rewrite(exception: BaseException, message: str) -> None:
    """Change the message of an exception; raising another one here would skip Lightning's own cleanup."""
    exception.args = (message,)
    if isinstance(exception, OSError):  # whose message consists of these
        del exception.errno, exception.strerror, exception.filename


def _first_unreadable(loaders: Iterable[Any]) -> str:
    """Say which is the first file of the loaders that cannot be read, and why; ``""`` if all can be read."""
    for loader in loaders:
        dataset: Any = getattr(loader, "dataset", None)
        for index in range(len(dataset)) if hasattr(dataset, "__len__") else ():
            if reason := _failure(dataset.__getitem__, index):
                files = _files(dataset, index)
                broken = [file for file in files if _failure(read_image, file)] or files
                name = " or ".join(broken) or f"Image {index} of {type(dataset).__name__}"
                return f"{name} cannot be read: {reason}"
    return ""


def _failure(read: Callable[[Any], Any], what: int | str) -> str:
    """Return why a sample or file cannot be read, "" if it can be."""
    try:
        read(what)
    except Exception as error:  # noqa: BLE001  # a dataset that overrides reading may raise any type
        return why_unreadable(error)
    return ""


def _files(dataset: Any, index: int) -> list[str]:  # noqa: ANN401
    """Return the image and mask files of a sample, if the dataset lists them."""
    if hasattr(dataset, "image_filenames"):
        return [str(dataset.image_filenames[index])]
    samples = getattr(dataset, "samples", None)
    row = {} if samples is None else samples.iloc[index]
    values = [row.get("image_path"), *as_list(row.get("mask_path"))]
    return [str(value) for value in values if isinstance(value, str | Path) and str(value)]
