# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Overlapping tiles of large images: where they lie, how they are cut, and how their maps are merged (ours).

anomalib's ``Tiler`` pads images to whole strides and averages overlapping tiles with equal weights, which leaves edges
in the maps. Here the tiles are spread evenly over the image, and the weight of a tile falls to zero towards its border.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from anomalib_genclip.utils.tensors import resize


@dataclass(frozen=True)
class Axis:
    """Tiles along one side of an image."""

    length: int  # side of the image in pixels
    tile: int  # side of a tile; that of the image if it is shorter
    count: int  # number of tiles

    @classmethod
    def spread(cls, length: int, tile: int, stride: int) -> "Axis":
        """Spread as few tiles over a side as have at most ``stride`` pixels from one to the next."""
        tile = min(tile, length)
        return cls(length, tile, 1 + (length - tile + stride - 1) // stride)

    def starts(self) -> list[int]:
        """First pixel of each tile; the last tile ends with the image."""
        return [number * (self.length - self.tile) // max(1, self.count - 1) for number in range(self.count)]

    def weights(self, cells: int, like: Tensor) -> Tensor:
        """Compute the weights ``(length, count * cells)`` that merge the maps of all tiles along this side.

        Each tile's map of ``cells`` is upsampled bilinearly and weighted with a squared sine, 0 at the tile's border.
        The weights of each pixel sum to 1. ``like`` gives device and dtype.
        """
        starts = torch.tensor(self.starts(), device=like.device)
        position = torch.arange(self.length, device=like.device)[:, None] - starts + 0.5
        inside = (position > 0) & (position < self.tile)
        window = torch.sin(position * (torch.pi / self.tile)).square() * inside
        window = window / window.sum(dim=1, keepdim=True)
        source = (position * (cells / self.tile) - 0.5).clamp(0, cells - 1)  # as in torch's bilinear interpolation
        distance = (source[..., None] - torch.arange(cells, device=like.device)).abs()
        return (window[..., None] * (1 - distance).clamp(min=0)).flatten(1).to(like.dtype)


@dataclass(frozen=True)
class TileGrid:
    """Tiles of images of one size: ``rows`` from top to bottom, ``columns`` from left to right."""

    rows: Axis
    columns: Axis

    @classmethod
    def of(cls, size: Sequence[int], tile: Sequence[int], stride: Sequence[int]) -> "TileGrid":
        """Lay out tiles on images of a height and width; ``stride`` is the greatest distance from one to the next."""
        return cls(*(Axis.spread(*side) for side in zip(size, tile, stride, strict=True)))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images."""
        return self.rows.length, self.columns.length

    @property
    def tile_area(self) -> int:
        """Pixels of a tile."""
        return self.rows.tile * self.columns.tile

    def __len__(self) -> int:
        """Tiles per image."""
        return self.rows.count * self.columns.count

    def cut(self, images: Tensor, size: tuple[int, int], batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Cut images ``(B, C, H, W)`` into tiles, resized like whole images to ``(T, C, *size)``.

        Each batch of tiles comes with the image that each was cut from, ``(T,)``; all tiles of an image follow each
        other, row by row. An exported graph has no loops: its tiles are one batch.
        """
        height, width = self.rows.tile, self.columns.tile
        places = [
            (slice(top, top + height), slice(left, left + width))
            for top in self.rows.starts()
            for left in self.columns.starts()
        ]
        number = torch.arange(images.shape[0], device=images.device)
        if torch.compiler.is_exporting():
            tiles = torch.stack([images[:, :, rows, columns] for rows, columns in places], dim=1)
            yield resize(tiles.flatten(0, 1), size), number.repeat_interleave(len(places))
            return
        cuts = [(image, *place) for image in range(len(images)) for place in places]
        owners = number.repeat_interleave(len(places)).split(batch_size)
        for start, owner in zip(range(0, len(cuts), batch_size), owners, strict=True):
            tiles = torch.stack([images[image, :, rows, columns] for image, rows, columns in cuts[start:][:batch_size]])
            yield resize(tiles, size), owner

    def merge(self, maps: Tensor) -> Tensor:
        """Merge maps ``(B * len(self), 1, h, w)`` on the patch grid, in the order of :meth:`cut`: ``(B, 1, H, W)``."""
        height, width = maps.shape[-2:]
        grid = maps.view(-1, self.rows.count, self.columns.count, height, width).transpose(2, 3)
        grid = grid.reshape(-1, 1, self.rows.count * height, self.columns.count * width)
        return self.rows.weights(height, maps) @ grid @ self.columns.weights(width, maps).T


def join_tiles(whole: Tensor, tiles: Tensor) -> Tensor:
    """Join the map of the whole image with the merged map of its tiles (ours), each ``(B, 1, H, W)`` in [0, 1]."""
    return (whole + tiles) / 2
