# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Reading of images, and checks of images and masks that are not read as their author meant.

What is read is what is stored, as in anomalib: EXIF orientation is not applied, and of several pages the first counts.
Transparent pixels, whose hidden colors anomalib reads, are white here.
"""

import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeAlias

import fsspec
import numpy as np
import torch
from anomalib.data import ImageBatch
from anomalib.data.utils.image import is_image_file
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import to_image

from anomalib_genclip.utils.messages import counted, summarize
from anomalib_genclip.utils.tensors import check_shape

logger = logging.getLogger(__name__)

AnyImage: TypeAlias = str | os.PathLike | Image.Image | np.ndarray | Tensor
_ORIENTATION = 0x0112  # tag of EXIF; 1 is upright
_MOST = 0.95  # of an image that a plausible mask covers
_PAGES = "several pages or frames: only the first is used"
_TURNED = "an EXIF orientation tag, which is not applied: maps and masks lie on the pixels as they are stored"
_ON_WHITE = "transparent pixels, which are put on white"
_DROPPED = "transparency, which is dropped: hidden colors are scored. Save them on a background, or use genclip predict"
_JPEG = "a JPEG mask, in which the noise of the compression counts as anomalous too: draw it again and save it as PNG"
_EMPTY = "an empty mask, as if the image were normal"
_FULL = f"a mask of more than {_MOST:.0%} of the image: is it inverted?"


def read_image(path: str, faults: list[str] | None = None) -> Tensor:
    """Read an image, from a path or a URL: ``(3, H, W)``, uint8, RGB; add to ``faults`` what may be meant otherwise.

    An ``OSError`` says that it cannot be read, a ``ValueError`` that it has more than 8 bits per channel.
    """
    faults = [] if faults is None else faults
    opened = fsspec.open(path, "rb") if "://" in path else open(path, "rb")  # noqa: PTH123, SIM115
    try:
        with opened as file, Image.open(file) as image:
            with suppress(Exception):  # reading the pixels raises the same
                faults.extend(_faults_of(image))
            return pixels_of(image, path, faults)
    except Image.DecompressionBombError as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        msg = f"{path} has more than {most:,} pixels. Scale it down or cut it into several files."
        raise ValueError(msg) from error


def as_pixels(image: AnyImage, faults: list[str]) -> tuple[Tensor, str]:
    """Return an image as ``(3, H, W)``, uint8, or float in [0, 1] as given; and its path or URL, ``""`` without one.

    It may be one of Pillow, an array ``(H, W, 3)`` or a tensor, both RGB; a ``ValueError`` says what it is instead.
    Faults, and errors of files, are as in :func:`read_image`.
    """
    if isinstance(image, str | os.PathLike):
        path = os.fspath(image)
        return read_image(path, faults), path
    if isinstance(image, Image.Image):
        return pixels_of(image, "The image", faults), ""
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


def pixels_of(image: Image.Image, name: str, faults: list[str]) -> Tensor:
    """Convert an image of Pillow to ``(3, H, W)``, uint8, RGB; a ``ValueError`` says ``name``."""
    check_depth(image.mode, name)
    if _is_transparent(image):
        faults.append(_ON_WHITE)
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return to_image(image.convert("RGB")).as_subclass(Tensor)


def check_images(batch: ImageBatch, files: Iterable[str] = ()) -> None:
    """Refuse by name images ``(B, 3, H, W)`` that are not finite, and ``files`` whose pixels anomalib clips."""
    if batch.image is None:  # features instead of images, checked when they were computed
        return
    finite = torch.isfinite(batch.image).flatten(1).all(dim=1).tolist()
    names = batch.image_path or [f"image {i} of the batch" for i in range(len(batch))]
    if bad := [str(name) for name, good in zip(names, finite, strict=True) if not good]:
        msg = f"NaN or infinite pixels in {', '.join(bad)}. Repair the file or remove it from the data."
        raise ValueError(msg)
    for file in files:
        if (header := _read(file)) is not None:
            check_depth(header.mode, file)


def check_mask(image: str, mask: str, header: "_Header | None" = None) -> list[str]:
    """Return a mask's faults; a ``ValueError`` names it and its image if it has another aspect ratio."""
    header, own = header or _read(image), _read(mask)
    if header is not None and own is not None:
        check_shape(f"The mask {mask}", own.size, f"its image {image}", header.size)
    return [_JPEG] * (own is not None and own.format == "JPEG")


def check_depth(mode: str, file: str) -> None:
    """Raise a ``ValueError`` that names the file if an image of this mode has more than 8 bits per channel."""
    if mode.startswith(("I", "F")):
        what = f"{file} has more than 8 bits per pixel (mode {mode}), and anomalib clips values above 255"
        msg = f"{what}. Convert it to 8 bits, with a range of values that shows the product."
        raise ValueError(msg)


class _Header(NamedTuple):
    mode: str
    format: str | None
    size: tuple[int, int]  # height, width
    faults: tuple[str, ...]


class FileFaults:
    """Collects the faults of a run's files; reads each header once, and logs each fault once."""

    def __init__(self) -> None:
        self._checked: set[str] = set()
        self._known: set[tuple[str, str]] = set()
        self._new: defaultdict[str, list[str]] = defaultdict(list)

    def check_headers(self, images: Iterable[str], masks: Iterable[object]) -> None:
        """Check images and masks; a ``ValueError`` names those with more than 8 bits or another aspect ratio."""
        for image, mask in zip(images, masks, strict=True):
            if image not in self._checked and (header := _read(image)) is not None:
                check_depth(header.mode, image)
                of_mask = check_mask(image, mask, header) if isinstance(mask, str) else ()  # not several for one image
                self.add(image, [*header.faults, *of_mask])
            self._checked.add(image)

    def check_masks(self, images: Iterable[str], shares: Iterable[float]) -> None:
        """Check the masks of anomalous images by the shares of the images that they cover, from 0 to 1."""
        for image, share in zip(images, shares, strict=True):
            self.add(image, [_EMPTY] * (share == 0) + [_FULL] * (share > _MOST))

    def read(self, image: str) -> Tensor:
        """Read an image with :func:`read_image`, and add its faults."""
        pixels = read_image(image, found := list[str]())
        self.add(image, found)
        return pixels

    def add(self, image: str, faults: Iterable[str]) -> None:
        """Add faults of an image."""
        for fault in faults:
            if (fault, image) not in self._known:
                self._known.add((fault, image))
                self._new[fault].append(image)

    def lines(self) -> dict[str, str]:
        """Return a line for each fault that was found since the last call."""
        new, self._new = self._new, defaultdict(list)
        return {fault: f"{counted(len(own), 'image')} with {fault}: {summarize(own)}." for fault, own in new.items()}

    def report(self, told: set[str] | None = None) -> None:
        """Log what was found since the last call, without the faults ``told``, to which the others are added."""
        told = set() if told is None else told
        for fault, line in self.lines().items():
            if fault not in told:
                logger.warning(line)
                told.add(fault)


def warn_of_others(images: Iterable[str]) -> None:
    """Warn of files in the folders of images that are left out."""
    files = [file for folder in sorted({Path(image).parent for image in images}) for file in sorted(folder.iterdir())]
    if others := [file for file in files if file.name[0] != "." and file.is_file() and not is_image_file(file)]:
        text = "Left out, because anomalib does not read images with these suffixes: %s: %s."
        logger.warning(text, counted(len(others), "file"), summarize(others))


def _is_transparent(image: Image.Image) -> bool:
    """Say whether pixels are transparent; only files that may have such are decoded for it."""
    return image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] != 255


def _faults_of(image: Image.Image) -> Iterator[str]:
    """Yield what the header says that is not used as it may be meant."""
    # MPO files of phones have previews as further frames.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        yield _PAGES
    # Elsewhere, Pillow would decode the image to look for the tag.
    exif = image.getexif() if "exif" in image.info or image.format == "TIFF" else {}
    if exif.get(_ORIENTATION, 1) != 1:
        yield _TURNED


def _read(file: str) -> _Header | None:
    """Read a header, ``None`` if there is none: the dataset may override reading."""
    try:
        with Image.open(file) as image:
            faults = (*_faults_of(image), *[_DROPPED] * _is_transparent(image))
            return _Header(image.mode, image.format, image.size[::-1], faults)
    except Exception:  # noqa: BLE001  # reading the pixels raises the same, with the name of the file
        return None
