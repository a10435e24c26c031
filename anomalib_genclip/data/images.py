# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Reading of images as anomalib does, and checks: pixels that are not finite, and values that anomalib clips."""

import logging
import os
from collections.abc import Iterable

import fsspec
import numpy as np
import torch
from anomalib.data import ImageBatch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import to_image

logger = logging.getLogger(__name__)

AnyImage = str | os.PathLike | Image.Image | np.ndarray | Tensor
_DEEP_MODES = ("I", "F")


def read_image(path: str) -> Tensor:
    """Read an image as anomalib does, from a path or a URL.

    Returns:
        Tensor: ``(3, H, W)``, uint8, RGB.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it has more than 8 bits per channel.
    """
    with fsspec.open(path, "rb") if "://" in path else open(path, "rb") as file, Image.open(file) as image:  # noqa: PTH123
        return pixels_of(image, path)


def as_pixels(image: AnyImage) -> tuple[Tensor, str]:
    """Return an image as a tensor, and where it comes from.

    Args:
        image (AnyImage): A path or URL, an image of Pillow, an array ``(H, W, 3)`` or a tensor ``(3, H, W)``, both RGB.

    Returns:
        tuple[Tensor, str]: ``(3, H, W)``, uint8, or as given float in [0, 1]; and the path, ``""`` if there is none.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If it is no RGB image.
    """
    if isinstance(image, str | os.PathLike):
        path = os.fspath(image)
        return read_image(path), path
    if isinstance(image, Image.Image):
        return pixels_of(image, "The image"), ""
    is_array = isinstance(image, np.ndarray) and image.ndim == 3
    tensor = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1) if is_array else image
    if not isinstance(tensor, Tensor) or tensor.dim() != 3 or tensor.shape[0] != 3:
        what = f"{type(image).__name__} {tuple(getattr(image, 'shape', ()))}"
        msg = f"{what} is no image: give a path, an image of Pillow, an array (H, W, 3) or a tensor (3, H, W), in RGB."
        raise ValueError(msg)
    if tensor.dtype != torch.uint8 and not (tensor.is_floating_point() and 0 <= tensor.min() <= tensor.max() <= 1):
        msg = f"Pixels must be uint8, or floating-point numbers from 0 to 1: this image has {tensor.dtype}."
        raise ValueError(msg)
    return tensor, ""


def pixels_of(image: Image.Image, name: str) -> Tensor:
    """Convert an image of Pillow to ``(3, H, W)``, uint8, RGB.

    Raises:
        ValueError: If it has more than 8 bits per channel; says ``name``.
    """
    check_depth(image.mode, name)
    return to_image(image.convert("RGB")).as_subclass(Tensor)


def check_images(batch: ImageBatch, files: Iterable[str]) -> None:
    """Refuse images whose pixels are not finite, or were clipped when they were read.

    Args:
        batch (ImageBatch): Images ``(B, 3, H, W)`` and, if known, their files.
        files (Iterable[str]): Files whose headers are checked.

    Raises:
        ValueError: If there is such an image; names the file.
    """
    if batch.image is None:  # features instead of images, checked when they were computed
        return
    if not bool(torch.isfinite(batch.image).all()):
        names = batch.image_path or [f"image {i} of the batch" for i in range(len(batch))]
        finite = torch.isfinite(batch.image).flatten(1).all(dim=1).tolist()
        bad = [str(name) for name, good in zip(names, finite, strict=True) if not good]
        msg = f"NaN or infinite pixels in {', '.join(bad)}. Repair the file or remove it from the data."
        raise ValueError(msg)
    for file in files:
        _check_header(file)


def check_depth(mode: str, file: str) -> None:
    """Refuse an image with more than 8 bits.

    Raises:
        ValueError: If it has more than 8 bits; names the file.
    """
    if mode.startswith(_DEEP_MODES):
        msg = (
            f"{file} has more than 8 bits per pixel (mode {mode}), and anomalib clips values above 255 when it "
            "reads the file. Convert it to 8 bits, with a range of values that shows the product."
        )
        raise ValueError(msg)


def _check_header(file: str) -> None:
    """Refuse an image with more than 8 bits, and warn if only its first page is used."""
    try:
        with Image.open(file) as image:
            # MPO files of phones have previews as further frames.
            mode, several = image.mode, getattr(image, "is_animated", False) and image.format != "MPO"
    except (OSError, ValueError):  # the dataset may override reading
        return
    check_depth(mode, file)
    if several:
        logger.warning("%s has several pages or frames: only the first is used.", file)
