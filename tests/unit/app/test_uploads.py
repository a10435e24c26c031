# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Checks of uploaded images."""

import struct
import zlib

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from anomalib_genclip.app.uploads import FORMATS, read_upload


def png_of(width: int, height: int) -> bytes:
    chunks = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(9)))
    packed = (
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def reason(path):
    with pytest.raises(ValueError, match=f"^{path.name} cannot be used: ") as raised:
        read_upload(str(path))
    message = str(raised.value)
    assert str(path.parent) not in message
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize("kind", FORMATS)
def test_images_of_all_formats_are_read(kind, tmp_path):
    pixels = np.full((6, 9, 3), 77, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image", format=kind)
    assert read_upload(str(tmp_path / "image")).shape == (3, 6, 9)


@pytest.mark.parametrize("size", [(30_000, 30_000), (8_000, 8_000)])
def test_image_bombs_are_refused_before_they_are_decoded(size, tmp_path):
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(png_of(*size))
    assert "more than 50 million pixels" in reason(bomb)


def test_postscript_is_not_run():
    assert not EpsImagePlugin.has_ghostscript()


GIF = b"GIF89a\1\0\1\0\0\0\0,\0\0\0\0\1\0\1\0\0\2\1D\0;"


@pytest.mark.parametrize(
    "content", [b"", b"no image", GIF, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"<svg/>"]
)
def test_files_of_other_formats_are_named(content, tmp_path):
    file = tmp_path / "broken.png"
    file.write_bytes(content)
    assert "no image in one of the formats BMP, JPEG" in reason(file)


def test_damaged_and_deep_images_are_named(tmp_path):
    cut = tmp_path / "cut.png"
    cut.write_bytes(png_of(9, 6))
    reason(cut)
    deep = tmp_path / "deep.png"
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(deep)
    assert "more than 8 bits" in reason(deep)
    reason(tmp_path / "gone.png")
