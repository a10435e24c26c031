# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Tiles: they cover the image, and their maps merge to the image's."""

from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from anomalib_genclip.components.tiles import Axis, TileGrid

SIZES = [(100, 100), (64, 64), (300, 170), (33, 500), (20, 20), (1, 2000), (65, 64)]


def grid_of(size) -> TileGrid:
    """Tiles of 64 pixels, at most 48 apart."""
    return TileGrid.of(size, (64, 64), (48, 48))


@pytest.mark.parametrize(("length", "tile", "stride"), [(100, 64, 32), (64, 64, 64), (12_000, 518, 259), (7, 64, 1)])
def test_tiles_reach_from_end_to_end_without_gaps(length, tile, stride):
    axis = Axis.spread(length, tile, stride)
    starts = axis.starts()
    assert starts[0] == 0
    assert starts[-1] + axis.tile == length
    steps = [after - before for before, after in pairwise(starts)]
    assert all(0 < step <= stride for step in steps)
    assert not steps or max(steps) - min(steps) <= 1


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


def test_images_share_batches():
    grid = grid_of((100, 100))
    batches = [owner.tolist() for _, owner in grid.cut(torch.rand(3, 3, 100, 100), (32, 32), batch_size=6)]
    assert batches == [[0, 0, 0, 0, 1, 1], [1, 1, 2, 2, 2, 2]]


def test_single_tile_is_upsampled_as_a_whole_image():
    grid, maps = grid_of((50, 30)), torch.rand(2, 1, 7, 7)
    assert len(grid) == 1
    torch.testing.assert_close(grid.merge(maps), F.interpolate(maps, (50, 30), mode="bilinear"), atol=1e-5, rtol=0)


def test_no_seams_in_a_repeated_texture():
    """Equal tiles with maps that differ most at their borders: nothing shows where one tile begins or ends."""
    grid = TileGrid.of((256, 256), (64, 64), (32, 32))
    line = torch.linspace(-1, 1, 8).abs()
    merged = grid.merge(torch.maximum(line, line[:, None]).expand(len(grid), 1, 8, 8))[0, 0]
    jumps = merged.diff(dim=1).abs().amax(dim=0)
    edges = {edge - 1 for start in grid.columns.starts() for edge in (start, start + 64)} - {-1, 255}
    borders = torch.tensor(sorted(edges))
    inside = torch.ones(255, dtype=torch.bool).index_fill(0, borders, value=False)
    assert jumps[borders].max() <= jumps[inside].max()
    averaged = _averaged(grid, 64)  # equal weights, as anomalib's tiler has
    assert averaged[borders].max() > 4 * jumps.max()


def _averaged(grid, tile):
    """Return the jumps between columns if overlapping tiles are averaged."""
    total, count = torch.zeros(256), torch.zeros(256)
    for start in grid.columns.starts():
        total[start : start + tile] += torch.linspace(-1, 1, tile).abs()
        count[start : start + tile] += 1
    return (total / count).diff().abs()
