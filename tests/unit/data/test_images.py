# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Images that cannot be used are named; through the engine in ``callbacks/test_input_checks.py``."""

import logging

import cv2
import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from PIL import Image

from anomalib_genclip.data.images import check_images


@pytest.mark.parametrize(("paths", "named"), [(["a.png", "b.png"], r"b\.png\."), (None, r"image 1 of the batch\.")])
def test_pixels_that_are_not_finite_are_refused_by_name(paths, named):
    images = torch.rand(2, 3, 8, 8)
    check_images(ImageBatch(image=images, image_path=paths), [])
    images[1, 2, 3, 4] = float("inf")
    with pytest.raises(ValueError, match=rf"^NaN or infinite pixels in {named}"):
        check_images(ImageBatch(image=images, image_path=paths), [])


def test_more_than_8_bits_of_colour_are_read_and_of_grey_refused(tmp_path):
    batch, grey = ImageBatch(image=torch.rand(2, 3, 8, 8)), np.linspace(0, 65535, 32 * 32).reshape(32, 32)
    cv2.imwrite(str(tmp_path / "colour.png"), np.dstack([grey] * 3).astype(np.uint16))
    check_images(batch, [str(tmp_path / "colour.png")])
    for name, dtype in (("any.jpg", np.uint16), ("i.tif", np.int32), ("f.tiff", np.float32)):
        Image.fromarray(grey.astype(dtype)).save(tmp_path / name, format="TIFF")
        with pytest.raises(ValueError, match=rf"{name} has more than 8 bits.*Convert it to 8 bits"):
            check_images(batch, [str(tmp_path / name)])


def test_only_pages_that_are_left_out_are_told_of_and_other_files_are_passed_over(tmp_path, caplog):
    pages = [Image.new("L", (32, 32), shade) for shade in (0, 255)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "one.tif")
    (tmp_path / "array.npy").write_bytes(b"no picture")  # of a data set that overrides reading
    files = [str(tmp_path / name) for name in ("pages.tif", "one.tif", "array.npy", "absent.png")]
    with caplog.at_level(logging.WARNING):
        check_images(ImageBatch(image=torch.rand(2, 3, 8, 8)), files)
    assert [record.getMessage() for record in caplog.records] == [
        f"{files[0]} has several pages or frames: only the first is used."
    ]
