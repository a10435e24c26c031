# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Images read in batches, by processes of their own, in the order in which they were found."""

import os
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import fsspec
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2.functional import to_image

from anomalib_genclip.data.image_checks import check_depth
from anomalib_genclip.utils.files import why_unreadable

Transform = Callable[[Tensor], Tensor]
MOST_WORKERS = 4


class Item(NamedTuple):
    """An image that is to be scored.

    Args:
        number (int): Its place among all images, from 0.
        path (str): Its path or address.
        name (str): What its result files are called.
        class_name (str | None): What it shows, as far as the settings say.
    """

    number: int
    path: str
    name: str
    class_name: str | None


class ImageBatch(NamedTuple):
    """Images that were read.

    Args:
        items (list[Item]): Which.
        stacks (list[tuple[list[int], Tensor]]): Those of one size together: their positions in ``items``, and
            ``(B, 3, H, W)``, transformed.
        sizes (list[tuple[int, int]]): Height and width of each file, ``(0, 0)`` if it could not be read.
        errors (list[str]): What is wrong with each file, ``""`` for nothing.
    """

    items: list[Item]
    stacks: list[tuple[list[int], Tensor]]
    sizes: list[tuple[int, int]]
    errors: list[str]


def read_image(path: str) -> Tensor:
    """Read an image as anomalib does, from an address too.

    Args:
        path (str): Path or address.

    Returns:
        Tensor: ``(3, H, W)``, uint8, RGB.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it has more than 8 bits per pixel.
    """
    with fsspec.open(path, "rb") if "://" in path else open(path, "rb") as file, Image.open(file) as image:  # noqa: PTH123
        check_depth(image.mode, path)
        return to_image(image.convert("RGB")).as_subclass(Tensor)


def read_batch(items: list[Item], transform: Transform) -> ImageBatch:
    """Read images; those that cannot be read are named, not raised.

    Args:
        items (list[Item]): Which.
        transform (Transform): What the model wants done to ``(3, H, W)``, uint8.

    Returns:
        ImageBatch: The images.
    """
    sizes, errors = [(0, 0)] * len(items), [""] * len(items)
    by_shape: dict[torch.Size, list[tuple[int, Tensor]]] = {}
    for position, item in enumerate(items):
        try:
            pixels = read_image(item.path)
            image = transform(pixels)
        except Exception as error:  # noqa: BLE001  # a broken file can make its reader trip over anything
            errors[position] = f"{item.path} cannot be read: {why_unreadable(error)}"
            continue
        sizes[position] = (pixels.shape[1], pixels.shape[2])
        by_shape.setdefault(image.shape, []).append((position, image))
    stacks = [
        ([position for position, _ in group], torch.stack([image for _, image in group])) for group in by_shape.values()
    ]
    return ImageBatch(items, stacks, sizes, errors)


def read_batches(
    batches: Iterable[list[Item]], transform: Transform, num_workers: int | None, *, pin_memory: bool = False
) -> Iterator[ImageBatch]:
    """Read batches ahead of whoever consumes them, in their order.

    Args:
        batches (Iterable[list[Item]]): Which images; asked for one by one, a few batches ahead.
        transform (Transform): As in :func:`read_batch`; runs in the workers.
        num_workers (int | None): Processes that read; 0 for none, ``None`` for as many as suit the machine.
        pin_memory (bool): Whether the images go to a GPU. Defaults to ``False``.

    Yields:
        ImageBatch: One per batch.

    Raises:
        OSError: If a process that reads was killed, which happens when memory runs out.
    """
    workers = default_workers() if num_workers is None else num_workers
    loader: DataLoader = DataLoader(
        _Reader(transform),
        batch_sampler=batches,  # any iterable of lists will do
        collate_fn=_as_it_is,
        num_workers=workers,
        pin_memory=pin_memory,
    )
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        msg = f"A process that reads images has died, probably because memory ran out: {error}"
        raise OSError(msg) from error


def default_workers() -> int:
    """Return how many processes read images unless told otherwise: the model needs a core, too."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MOST_WORKERS, cores - 1))


class _Reader(Dataset):
    """Reads whole batches where a data set would read one sample after the other."""

    def __init__(self, transform: Transform) -> None:
        self.transform = transform

    def __getitems__(self, items: list[Item]) -> ImageBatch:
        return read_batch(items, self.transform)


def _as_it_is(batch: ImageBatch) -> ImageBatch:
    return batch
