# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Checks of uploaded images."""

import warnings
from pathlib import Path

from PIL import EpsImagePlugin, Image, UnidentifiedImageError
from torch import Tensor

from anomalib_genclip.data.images import read_image
from anomalib_genclip.utils.files import why_unreadable

MAX_IMAGES = 32  # at a time
MAX_REFERENCES = 16
MAX_FILE_SIZE = "64mb"
MAX_PIXELS = 50_000_000
# Formats are decoded by Pillow itself. Of others, EPS would start Ghostscript, whatever the file is called.
FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
EpsImagePlugin.gs_binary = False  # gradio itself opens what is painted, or sent as if it was, in any format


def read_upload(path: str, faults: list[str] | None = None) -> Tensor:
    """Read an uploaded image as :func:`~anomalib_genclip.data.images.read_image` does.

    Format and size are checked before anything is decoded. A ``ValueError`` names a file without its folder.
    """
    name = Path(path).name
    reason = f"it has more than {MAX_PIXELS // 10**6} million pixels. Scale it down, or use `genclip predict`"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit here is lower
            with Image.open(path, formats=FORMATS) as image:
                pixels = image.width * image.height
        if pixels <= MAX_PIXELS:
            return read_image(path, faults)
    except Image.DecompressionBombError:
        pass
    except UnidentifiedImageError:
        reason = f"it is damaged, or no image in one of the formats {', '.join(FORMATS)}"
    except Exception as error:  # noqa: BLE001  # a broken file can make its reader trip over anything
        reason = why_unreadable(error).replace(path, name)
    msg = f"{name} cannot be used: {reason.rstrip('.')}."
    raise ValueError(msg)
