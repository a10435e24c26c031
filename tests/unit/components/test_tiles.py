# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Tiles: they cover the image, and their maps merge to the image's."""

import pytest
import torch

from anomalib_genclip.components.tiles import TileGrid

SIZES = [(100, 100), (64, 64), (300, 170), (33, 500), (20, 20), (1, 2000), (65, 64)]


def grid_of(size) -> TileGrid:
    return TileGrid.of(size, (64, 64), (48, 48))


@pytest.mark.parametrize("size", SIZES)
def test_cut_and_merged_image_is_the_image(size):
    """With a cell per pixel, cutting and merging changes nothing."""
    images, grid = torch.rand(2, 3, *size), grid_of(size)
    own_size = (grid.rows.tile, grid.columns.tile)
    tiles, owners = zip(*grid.cut(images, own_size, batch_size=5), strict=True)
    assert max(len(batch) for batch in tiles) <= 5
    assert torch.cat(owners).tolist() == [0] * len(grid) + [1] * len(grid)
    merged = grid.merge(torch.cat(tiles)[:, :1])
    torch.testing.assert_close(merged, images[:, :1], atol=1e-5, rtol=0)
