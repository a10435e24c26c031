# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Overlapping tiles of large images: where they lie, how they are cut, and how their maps are merged (ours).

anomalib's ``Tiler`` gives size and stride. It pads images with black to whole strides and averages overlapping tiles
with equal weights, which leaves edges in the maps; here the tiles are spread evenly over the image, and the weight of a
tile falls to zero towards its border.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from anomalib.data.utils.tiler import Tiler
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize



class Axis(NamedTuple):
    """Tiles along one side of an image.

    Args:
        length (int): Side of the image in pixels.
        tile (int): Side of a tile; that of the image if it is shorter.
        count (int): Number of tiles.
    """

    length: int
    tile: int
    count: int

    @classmethod
    def spread(cls, length: int, tile: int, stride: int) -> "Axis":
        """Spread as few tiles over a side as have at most ``stride`` pixels from one to the next."""
        tile = min(tile, length)
        return cls(length, tile, 1 + (length - tile + stride - 1) // stride)

    def starts(self) -> list[int]:
        """First pixel of each tile; the last tile ends with the image."""
        return [number * (self.length - self.tile) // max(1, self.count - 1) for number in range(self.count)]

    def weights(self, cells: int, like: Tensor) -> Tensor:
        """Compute the weights that merge the maps of all tiles along this side.

        Each tile's map is upsampled bilinearly and weighted with a squared sine, 0 at the tile's border. The weights of
        each pixel sum to 1.

        Args:
            cells (int): Cells of a tile's map.
            like (Tensor): Gives device and dtype.

        Returns:
            Tensor: ``(length, count * cells)``.
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
    """Tiles of images of one size.

    Args:
        rows (Axis): From top to bottom.
        columns (Axis): From left to right.
    """

    rows: Axis
    columns: Axis

    @classmethod
    def of(cls, size: tuple[int, int], tiler: Tiler) -> "TileGrid":
        """Lay out tiles.

        Args:
            size (tuple[int, int]): Height and width of the images.
            tiler (Tiler): Size and stride of the tiles.

        Returns:
            TileGrid: The tiles.
        """
        return cls(
            Axis.spread(size[0], tiler.tile_size_h, tiler.stride_h),
            Axis.spread(size[1], tiler.tile_size_w, tiler.stride_w),
        )

    def __len__(self) -> int:
        """Tiles per image."""
        return self.rows.count * self.columns.count

    def cut(self, images: Tensor, size: tuple[int, int], batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Cut images into tiles, resized like whole images; a batch may have tiles of several images.

        Args:
            images (Tensor): ``(B, C, H, W)``.
            size (tuple[int, int]): Height and width of the results.
            batch_size (int): Tiles of a batch.

        Yields:
            tuple[Tensor, Tensor]: Tiles ``(T, C, *size)``, and the image that each was cut from, ``(T,)``. All tiles of
                an image follow each other, row by row.
        """
        places = [(top, left) for top in self.rows.starts() for left in self.columns.starts()]
        numbers = torch.arange(len(images) * len(places), device=images.device)
        for batch in numbers.split(batch_size):
            tiles = [
                images[number // len(places), :, top : top + self.rows.tile, left : left + self.columns.tile]
                for number in batch.tolist()
                for top, left in [places[number % len(places)]]
            ]
            yield squeeze(torch.stack(tiles), size), batch // len(places)

    def merge(self, maps: Tensor) -> Tensor:
        """Merge the maps of tiles.

        Args:
            maps (Tensor): Maps on the patch grid in the order of :meth:`cut`, ``(B * len(self), 1, h, w)``.

        Returns:
            Tensor: Maps of the images, ``(B, 1, H, W)``.
        """
        height, width = maps.shape[-2:]
        grid = maps.view(-1, self.rows.count, self.columns.count, height, width).transpose(2, 3)
        grid = grid.reshape(-1, 1, self.rows.count * height, self.columns.count * width)
        return self.rows.weights(height, maps) @ grid @ self.columns.weights(width, maps).T


def squeeze(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize images as the pre-processor does: bicubic, antialiased."""
    return resize(images, list(size), interpolation=InterpolationMode.BICUBIC, antialias=True)
