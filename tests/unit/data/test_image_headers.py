# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Headers of images and masks; in runs in ``callbacks/test_input_checks.py``."""

import logging

import pytest
from PIL import Image

from anomalib_genclip.data.images import FileFaults


@pytest.fixture
def image(tmp_path) -> str:
    Image.new("RGB", (40, 30)).save(tmp_path / "image.png")
    return str(tmp_path / "image.png")


@pytest.mark.parametrize(
    "mask", [None, "", float("nan"), "absent.png", ["a.png", "b.png"], (80, 60), (20, 15), (13, 10)]
)
def test_masks_of_any_resolution_or_none_are_no_fault(tmp_path, caplog, image, mask):
    if isinstance(mask, tuple):
        Image.new("L", mask).save(tmp_path / "mask.png")
        mask = str(tmp_path / "mask.png")
    faults = FileFaults()
    faults.check_headers([image], [mask])
    faults.report()
    assert not caplog.messages


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_orientation_is_found_without_reading_pixels(tmp_path, caplog, monkeypatch, suffix):
    exif = Image.Exif()
    for name, orientation in (("upright", 1), ("turned", 6)):
        exif[0x0112] = orientation
        Image.new("RGB", (40, 30)).save(tmp_path / f"{name}.{suffix}", exif=exif)
    Image.new("RGB", (40, 30)).save(tmp_path / f"plain.{suffix}")
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("pixels were read"))
    faults, files = FileFaults(), sorted(map(str, tmp_path.iterdir()))
    for _ in range(2):
        faults.check_headers(files, [None] * 3)
        with caplog.at_level(logging.WARNING):
            faults.report()
    (message,) = caplog.messages
    assert message.startswith("1 image with an EXIF orientation tag")
    assert message.endswith(f": {tmp_path / 'turned'}.{suffix}.")
