# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Score images, one record per image."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

from .backends import Backend, load_backend
from .images import ImageBatch, Item, read_batches
from .records import Record, find_regions
from .settings import ScoringSettings
from .sources import Source, find_images


def predict(weights: str, data: str | Iterable[str | os.PathLike], **options: Any) -> Iterator[Record]:  # noqa: ANN401
    """Score images. Writes no files, and keeps only a few batches in memory.

    Args:
        weights (str): A prompts file, a checkpoint, ``"tiny-demo"``, or an exported model.
        data (str | Iterable[str | os.PathLike]): A folder, an image, a pattern, a text file with a path per line, a
            URL of one of these, or an iterable of paths.
        **options (Any): Other settings of :class:`~anomalib_genclip.prediction.settings.ScoringSettings`.

    Yields:
        Record: Scores, regions and anomaly map of each image, in their order.

    Raises:
        FileNotFoundError: If there are no such weights or images.
        ValueError: If a setting is wrong, or there is no image.
        OSError: If an image cannot be used and ``on_error`` is "stop" (the default); names the image.

    Example:
        >>> from anomalib_genclip import predict
        >>> for record in predict("prompts.safetensors", "images", class_name="metal nut"):  # doctest: +SKIP
        ...     print(record.path, record.score, record.anomalous)
    """
    settings = ScoringSettings(weights=str(weights), **options)
    batches = in_batches(as_items(find_images(data), settings), settings.batch_size)
    for _, records in score_batches(batches, load_backend(settings), settings):
        for record in records:
            if record.error and settings.on_error == "stop":
                raise OSError(record.error)
            yield record


def score_batches(
    batches: Iterable[list[Item]], backend: Backend, settings: ScoringSettings
) -> Iterator[tuple[list[Item], list[Record]]]:
    """Read and score batches in their order. Worker processes read ahead of the model."""
    for batch in read_batches(batches, backend.transform, settings.num_workers, pin_memory=backend.on_gpu):
        yield batch.items, score_batch(batch, backend)


def score_batch(batch: ImageBatch, backend: Backend) -> list[Record]:
    """Score the images of a batch.

    Args:
        batch (ImageBatch): The images; some may have been unreadable.
        backend (Backend): The model and its runtime.

    Returns:
        list[Record]: One per image, in their order.
    """
    errors = [error or _wrong_name(item, backend) for item, error in zip(batch.items, batch.errors, strict=True)]
    records = [
        Record(item.path, item.name, error, size)
        for item, error, size in zip(batch.items, errors, batch.sizes, strict=True)
    ]
    for positions, images in batch.stacks:
        # An image whose class name cannot be used is left out of the batch, like a broken file.
        rows = [row for row, position in enumerate(positions) if not errors[position]]
        used = [positions[row] for row in rows]
        if not used:
            continue
        names = [batch.items[position].class_name for position in used]
        found = backend(images if len(rows) == len(images) else images[rows], names)
        for row, position in enumerate(used):
            mask, anomaly_map = found.mask[row], found.anomaly_map[row]
            records[position] = replace(
                records[position],
                class_name=found.class_names[row],
                class_name_filter=found.class_name_filter[row],
                score=float(found.score[row]),
                anomalous=bool(found.anomalous[row]),
                image_threshold=backend.image_threshold,
                pixel_threshold=backend.pixel_threshold,
                anomaly_map=anomaly_map,
                mask=mask,
                regions=find_regions(mask, anomaly_map, batch.sizes[position]),
            )
    return records


def as_items(sources: Iterable[Source], settings: ScoringSettings) -> Iterator[Item]:
    """Number the images and assign class names by the settings."""
    for number, source in enumerate(sources):
        class_name = settings.class_name
        if settings.class_from == "parent":
            path = source.path if "://" in source.path else os.path.abspath(source.path)  # noqa: PTH100
            class_name = PurePosixPath(path).parent.name
        yield Item(number, source.path, source.name, class_name)


def in_batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Split items into lists of a given size; the last one may be shorter."""
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


def _wrong_name(item: Item, backend: Backend) -> str:
    """Return the error of an image's class name, ``""`` for none."""
    reason = "" if item.class_name is None else backend.why_no_class_name(item.class_name)
    return f"{item.path}: {reason}" if reason else ""
