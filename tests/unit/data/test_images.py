# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Images that cannot be used are named; through the engine in ``callbacks/test_input_checks.py``."""

import cv2
import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from PIL import Image

from anomalib_genclip.data.images import check_images, check_mask, read_image


def pixels_and_faults(path):
    faults = []
    return read_image(str(path), faults).permute(1, 2, 0).numpy(), [fault.partition(",")[0] for fault in faults]


def test_transparent_pixels_are_white_and_what_is_not_used_is_said(tmp_path):
    colors = np.random.default_rng(0).integers(0, 255, (6, 9, 4), dtype=np.uint8)
    colors[..., 3] = 255
    image, turned = Image.fromarray(colors), Image.Exif()
    turned[0x0112] = 6
    for name, options in (("opaque.png", {}), ("turned.png", {"exif": turned})):
        image.save(tmp_path / name, **options)
    image.convert("RGB").save(tmp_path / "pages.tif", save_all=True, append_images=[Image.new("RGB", (9, 6))])
    colors[:3, :, 3] = 0
    Image.fromarray(colors).save(tmp_path / "hidden.png")
    Image.fromarray(colors).convert("LA").save(tmp_path / "grey.png")
    first, second = Image.new("RGBA", (9, 6)), Image.new("RGBA", (9, 6), "red")
    first.save(tmp_path / "film.gif", save_all=True, append_images=[second])
    for name, told in (("opaque.png", []), ("turned.png", ["an EXIF orientation tag"]), ("pages.tif", ["several"])):
        pixels, faults = pixels_and_faults(tmp_path / name)
        np.testing.assert_array_equal(pixels, colors[..., :3])
        assert [fault[: len(start)] for fault, start in zip(faults, told, strict=True)] == told
    for name, white in (("hidden.png", slice(3)), ("grey.png", slice(3)), ("film.gif", slice(6))):
        pixels, faults = pixels_and_faults(tmp_path / name)
        assert (pixels[white] == 255).all()
        assert faults[-1] == "transparent pixels"
        assert len(faults) == 1 + (name == "film.gif")
    np.testing.assert_array_equal(pixels_and_faults(tmp_path / "hidden.png")[0][3:], colors[3:, :, :3])


def test_a_mask_of_another_shape_is_refused_where_there_are_headers(tmp_path):
    sizes = {"image": (40, 30), "mask": (80, 60), "small": (7, 5), "other": (30, 40), "cut": (40, 28)}
    for name, size in sizes.items():
        Image.new("L", size).save(tmp_path / f"{name}.png")
    image = str(tmp_path / "image.png")
    check_mask(image, str(tmp_path / "mask.png"))
    check_mask(image, str(tmp_path / "small.png"))  # up to a pixel
    check_mask(image, "absent.png")
    with pytest.raises(ValueError, match=r"other\.png \(30 x 40 pixels\) does not have the shape of its image .*image"):
        check_mask(image, str(tmp_path / "other.png"))
    with pytest.raises(ValueError, match=r"\(40 x 28 pixels\) .*image\.png \(40 x 30\)\. Draw the mask on such"):
        check_mask(image, str(tmp_path / "cut.png"))


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
