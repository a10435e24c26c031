# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Images and masks that are read without an error, but not as their author meant."""

import logging
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from PIL import Image

from anomalib_genclip.utils.text import counted, summarize

from .images import check_depth

logger = logging.getLogger(__name__)

_ORIENTATION = 0x0112  # tag of EXIF; 1 is upright
_DISTORTION = 1.1  # tolerance of the aspect ratio, for rounding in small masks
_MOST = 0.95  # of an image that a plausible mask covers
_PAGES = "several pages or frames: only the first is used"
_TURNED = "an EXIF orientation tag, which is not applied: maps and masks lie on the pixels as they are stored"
_JPEG = "a JPEG mask, in which the noise of the compression counts as anomalous too: draw it again and save it as PNG"
_EMPTY = "the label anomalous and an empty mask"
_FULL = f"a mask of more than {_MOST:.0%} of the image: is it inverted?"


class _Header(NamedTuple):
    mode: str
    format: str | None
    width: int
    height: int
    turned: bool
    several: bool


class FileFaults:
    """Collects the faults of a run's files; the header of each file is read once, and each fault is logged once."""

    def __init__(self) -> None:
        self._checked: set[str] = set()
        self._known: set[tuple[str, str]] = set()
        self._new: defaultdict[str, list[str]] = defaultdict(list)

    def check_headers(self, images: Iterable[str], masks: Iterable[object]) -> None:
        """Check images and, where there is one, the mask of each.

        Raises:
            ValueError: If an image has more than 8 bits, or another aspect ratio than its mask; names the files.
        """
        for image, mask in zip(images, masks, strict=True):
            if image in self._checked:
                continue
            self._checked.add(image)
            if (header := _read(image)) is None:
                continue
            check_depth(header.mode, image)
            self._add(_PAGES, image, present=header.several)
            self._add(_TURNED, image, present=header.turned)
            if isinstance(mask, str) and (shape := _read(mask)) is not None:  # not several masks for one image
                self._add(_JPEG, image, present=shape.format == "JPEG")
                _check_shape(image, header, mask, shape)

    def check_masks(self, images: Iterable[str], shares: Iterable[float]) -> None:
        """Check the masks of anomalous images by the shares of the images that they cover, from 0 to 1."""
        for image, share in zip(images, shares, strict=True):
            self._add(_EMPTY, image, present=share == 0)
            self._add(_FULL, image, present=share > _MOST)

    def report(self) -> None:
        """Log what was found since the last call."""
        for fault, images in self._new.items():
            logger.warning("%s with %s: %s.", counted(len(images), "image"), fault, summarize(images))
        self._new.clear()

    def _add(self, fault: str, image: str, *, present: bool) -> None:
        if present and (fault, image) not in self._known:
            self._known.add((fault, image))
            self._new[fault].append(image)


def _read(file: str) -> _Header | None:
    """Read a header, ``None`` if there is none: the dataset may override reading."""
    try:
        with Image.open(file) as image:
            # Elsewhere, Pillow would decode the image to look for the tag.
            exif = image.getexif() if "exif" in image.info or image.format == "TIFF" else {}
            # MPO files of phones have previews as further frames.
            several = getattr(image, "is_animated", False) and image.format != "MPO"
            return _Header(image.mode, image.format, *image.size, exif.get(_ORIENTATION, 1) != 1, several)
    except Exception:  # noqa: BLE001  # reading the pixels raises the same, with the name of the file
        return None


def _check_shape(image: str, header: _Header, mask: str, shape: _Header) -> None:
    """Refuse a mask whose aspect ratio differs from that of its image; the resolution may differ."""
    ratio = (header.width * shape.height) / (header.height * shape.width)
    if not 1 / _DISTORTION < ratio < _DISTORTION:
        msg = (
            f"The mask {mask} ({shape.width} x {shape.height} pixels) does not have the shape of its image {image} "
            f"({header.width} x {header.height}). Draw it on the image as it is stored: orientation tags of cameras "
            "(EXIF) are not applied."
        )
        raise ValueError(msg)
