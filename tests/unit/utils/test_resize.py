# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""CLIP's resize, as torchvision computes it and as matrix products."""

import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode, Resize

from anomalib_genclip.utils.tensors import MatrixResize, resize


@pytest.mark.parametrize("old", [(310, 420), (40, 50), (112, 126), (113, 112), (1, 3), (2000, 30)])
def test_matrix_resize_is_torchvisions_antialiased_resize(old):
    size = (112, 126)
    images = torch.rand(2, 3, *old)
    expected = Resize(size, InterpolationMode.BICUBIC, antialias=True)(images)
    torch.testing.assert_close(MatrixResize(size)(images), expected, atol=2e-5, rtol=0)
    torch.testing.assert_close(resize(images, size), expected, atol=0, rtol=0)


def test_images_of_the_size_are_not_touched():
    images = torch.rand(1, 3, 20, 30)
    assert resize(images, (20, 30)) is images
