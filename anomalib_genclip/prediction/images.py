# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Read images in batches, in worker processes, in the order in which they were found."""

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
    """An image to be scored.

    Args:
        number (int): Index among all images, from 0.
        path (str): Path or URL.
        name (str): Name of its result files.
        class_name (str | None): Class name, ``None`` if the settings give none.
    """

    number: int
    path: str
    name: str
    class_name: str | None


class ImageBatch(NamedTuple):
    """A batch of images after reading.

    Args:
        items (list[Item]): The images.
        stacks (list[tuple[list[int], Tensor]]): One per image size: positions in ``items``, and the transformed images
            ``(B, 3, H, W)``.
        sizes (list[tuple[int, int]]): Height and width of each file, ``(0, 0)`` if it could not be read.
        errors (list[str]): Error of each file, ``""`` for none.
    """

    items: list[Item]
    stacks: list[tuple[list[int], Tensor]]
    sizes: list[tuple[int, int]]
    errors: list[str]


def read_image(path: str) -> Tensor:
    """Read an image as anomalib does, from a path or a URL.

    Args:
        path (str): Path or URL.

    Returns:
        Tensor: ``(3, H, W)``, uint8, RGB.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it has more than 8 bits per channel.
    """
    with fsspec.open(path, "rb") if "://" in path else open(path, "rb") as file, Image.open(file) as image:  # noqa: PTH123
        check_depth(image.mode, path)
        return to_image(image.convert("RGB")).as_subclass(Tensor)


def read_batch(items: list[Item], transform: Transform) -> ImageBatch:
    """Read images. Errors are returned, not raised.

    Args:
        items (list[Item]): The images.
        transform (Transform): The backend's transform, applied to ``(3, H, W)``, uint8.

    Returns:
        ImageBatch: The images, and the errors of files that cannot be read.
    """
    sizes, errors = [(0, 0)] * len(items), [""] * len(items)
    by_shape: dict[torch.Size, list[tuple[int, Tensor]]] = {}
    for position, item in enumerate(items):
        try:
            pixels = read_image(item.path)
            image = transform(pixels)
        except Exception as error:  # noqa: BLE001  # decoders raise many types for a broken file
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
    """Read batches in worker processes, a few batches ahead of the consumer, in their order.

    Args:
        batches (Iterable[list[Item]]): The images of each batch; consumed a few batches ahead.
        transform (Transform): As in :func:`read_batch`; runs in the workers.
        num_workers (int | None): Number of worker processes; 0 reads in this process, ``None`` chooses by the number
            of cores.
        pin_memory (bool): Whether batches are copied to a GPU. Defaults to ``False``.

    Yields:
        ImageBatch: One per batch.

    Raises:
        OSError: If a worker process was killed, usually because memory ran out.
    """
    workers = default_workers() if num_workers is None else num_workers
    loader: DataLoader = DataLoader(
        _Reader(transform),
        batch_sampler=batches,  # the loader accepts any iterable of lists
        collate_fn=_as_it_is,
        num_workers=workers,
        pin_memory=pin_memory,
    )
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        msg = (
            f"A worker process that reads images was killed, usually because memory ran out: {error}. Give a smaller "
            "--batch_size or fewer --num_workers, and start the command again."
        )
        raise OSError(msg) from error


def default_workers() -> int:
    """Return the default number of worker processes, which leaves one core to the model."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MOST_WORKERS, cores - 1))


class _Reader(Dataset):
    """A dataset that reads a whole batch at once, so that one broken file does not end the loader."""

    def __init__(self, transform: Transform) -> None:
        self.transform = transform

    def __getitems__(self, items: list[Item]) -> ImageBatch:
        return read_batch(items, self.transform)


def _as_it_is(batch: ImageBatch) -> ImageBatch:
    return batch
