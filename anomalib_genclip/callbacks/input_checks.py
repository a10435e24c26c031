# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Input checks: errors that name the file of an image that cannot be used."""

import errno
import logging
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import Any

from anomalib.data import ImageBatch
from anomalib.data.utils.image import is_image_file, read_image
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image

from anomalib_genclip.data.images import check_images
from anomalib_genclip.utils.loaders import running_loaders
from anomalib_genclip.utils.text import summarize

logger = logging.getLogger(__name__)

_WRITE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
_READ_ERRORS = (OSError, SyntaxError, Image.DecompressionBombError)  # raised by Pillow for a damaged file


class InputChecks(Callback):
    """Stop at images that cannot be used, with an error that names the file.

    anomalib's datasets pass on Pillow's exceptions, often without the name of the file. This callback searches for the
    file after reading has failed. It must come before the pre-processor.
    """

    def __init__(self) -> None:
        self._checked: set[str] = set()  # files whose headers have been checked

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: ImageBatch, *args: Any) -> None:  # noqa: ANN401
        """Check the images."""
        del trainer, pl_module, args
        self._check(batch)

    on_validation_batch_start = on_train_batch_start
    on_test_batch_start = on_train_batch_start
    on_predict_batch_start = on_train_batch_start

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn about files of the folder that are left out."""
        del pl_module
        for loader in running_loaders(trainer):
            _warn_of_files_left_out(getattr(getattr(loader, "dataset", None), "image_filenames", []))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Name the file if reading it has failed."""
        del pl_module
        if not isinstance(exception, _READ_ERRORS) or getattr(exception, "errno", None) in _WRITE_ERRORS:
            return
        if found := _first_unreadable(running_loaders(trainer)):
            file, error = found
            _rewrite(exception, f"{file} cannot be read: {error}. Repair the file or remove it from the data.")

    def _check(self, batch: ImageBatch) -> None:
        """Check images, and the headers of files that have not been checked before."""
        files = {str(path) for path in batch.image_path or []}
        check_images(batch, files - self._checked)
        self._checked |= files


def _rewrite(exception: Exception, message: str) -> None:
    """Change the message of an exception; raising another one here would skip Lightning's own cleanup."""
    exception.args = (message,)
    if isinstance(exception, OSError):  # whose message consists of these
        del exception.errno, exception.strerror, exception.filename


def _first_unreadable(loaders: Iterable[Any]) -> tuple[str, Exception] | None:
    """Return the first file of the loaders that cannot be read and the error, ``None`` if all can be read."""
    for loader in loaders:
        dataset: Any = getattr(loader, "dataset", None)
        for index in range(len(dataset)) if hasattr(dataset, "__len__") else ():
            if error := _failure(dataset.__getitem__, index):
                return _broken_file(dataset, index), error
    return None


def _broken_file(dataset: Any, index: int) -> str:  # noqa: ANN401
    """Return the damaged file of a sample, or all of its files if each can be read."""
    files = _files(dataset, index)
    broken = [file for file in files if _failure(read_image, file)]
    return " or ".join(broken or files) or f"Image {index} of {type(dataset).__name__}"


def _failure(read: Callable[[Any], Any], what: int | str) -> Exception | None:
    """Return the exception of reading a sample or file, ``None`` if it can be read."""
    try:
        read(what)
    except Exception as error:  # noqa: BLE001  # a dataset that overrides reading may raise any type
        return error
    return None


def _files(dataset: Any, index: int) -> list[str]:  # noqa: ANN401
    """Return the image and mask files of a sample, if the dataset lists them."""
    if hasattr(dataset, "image_filenames"):
        return [str(dataset.image_filenames[index])]
    samples = getattr(dataset, "samples", None)
    row = {} if samples is None else samples.iloc[index]
    values = chain.from_iterable(
        value if isinstance(value, list) else [value] for value in (row.get("image_path"), row.get("mask_path"))
    )
    return [str(value) for value in values if isinstance(value, str | Path) and str(value)]


def _warn_of_files_left_out(images: list[Path]) -> None:
    """Warn about files in the images' folders that anomalib ignores because of their suffixes."""
    if len(images) < 2:
        return
    folders = sorted({Path(image).parent for image in images})
    others = [
        file
        for folder in folders
        for file in sorted(folder.iterdir())
        if file.is_file() and not file.name.startswith(".") and not is_image_file(file)
    ]
    if others:
        text = "%d file(s) are left out, because anomalib does not read images with these suffixes: %s."
        logger.warning(text, len(others), summarize(others))
