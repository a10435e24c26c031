# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Prediction with Ray Data: workers read the images, and a pool of actors runs the model.

The batches are the same as without Ray, and their rows return in order, so that the results do not depend on the number
of workers. Ray repeats the work of a worker that was killed. This module imports Ray.
"""

import json
import logging
import socket
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

import pyarrow as pa
import ray
import torch
from ray.data import ActorPoolStrategy, DataContext, Datasource, ReadTask
from ray.data.block import BlockMetadata
from safetensors.torch import load, save

from .backends import load_backend
from .images import ImageBatch, Item, Transform, read_batch
from .outputs import as_rows
from .predict import as_items, in_batches, score_batch
from .records import Row, printable
from .settings import RunSettings
from .sources import find_images
from .storage import ResultFolder

_READER_CPUS = 0.25  # a reader waits for the disk most of the time
_MODELS_SHARE = 0.75  # of the cores; readers use the rest
_CORES_PER_MODEL = 4  # default
_SECONDS_TO_ANSWER = 10


class RayEngine:
    """Scores batches on a Ray cluster, or with a local Ray on this machine.

    Args:
        settings (RunSettings): The settings.

    Raises:
        ConnectionError: If there is no cluster at the address.
    """

    def __init__(self, settings: RunSettings) -> None:
        self.starts_ray = not ray.is_initialized()
        if self.starts_ray:
            _check_address(settings.ray_address)
            ray.init(settings.ray_address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        self.resources = ray.cluster_resources()
        self.gpus = 0 if settings.accelerator == "cpu" else int(self.resources.get("GPU", 0))

    @property
    def device(self) -> torch.device:
        """Device of the models."""
        return torch.device("cuda" if self.gpus else "cpu")

    def score(self, settings: RunSettings, batches: Iterable[list[Item]]) -> Iterator[tuple[list[Item], list[Row]]]:
        """Score batches.

        Args:
            settings (RunSettings): The settings, with the precision resolved.
            batches (Iterable[list[Item]]): Batches that are not scored yet. Workers receive only the number of the
                first image and find the images themselves.

        Yields:
            tuple[list[Item], list[Row]]: Each batch with its rows.

        Raises:
            OSError: If the workers find other images than this process.
        """
        batches = iter(batches)
        if (first := next(batches, None)) is None:
            return
        context = DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # below that it logs its execution plan
        context.execution_options.preserve_order = True
        found = self._dataset(settings, first[0].number).iter_rows()
        for items, row in zip(chain([first], batches), found, strict=True):
            rows = json.loads(row["rows"])
            if [row["path"] for row in rows] != [printable(item.path) for item in items]:
                msg = f"Ray's workers find other images in {settings.data} than this machine: do they see it?"
                raise OSError(msg)
            yield items, rows

    def close(self) -> None:
        """Stop Ray if this object started it."""
        if self.starts_ray:
            ray.shutdown()

    def _dataset(self, settings: RunSettings, start: int) -> ray.data.Dataset:
        """Build the pipeline, from the image with index ``start``. It runs when its rows are iterated."""
        cpus = self.resources["CPU"]
        count = settings.ray_actors or self.gpus or max(1, int(cpus) // _CORES_PER_MODEL)
        cores = 1 if self.gpus else cpus * _MODELS_SHARE / count
        threads = max(1, int(cpus / count))
        # Loaded here, too: errors in the weights are raised at once, and the readers need the transform.
        transform = load_backend(replace(settings, accelerator="cpu")).transform
        options = {"ray_remote_args": {"num_cpus": 0}, "override_num_blocks": 1}
        read = ray.data.read_datasource(_Batches(settings, start), **options)
        decoded = read.map(partial(_decode, transform=transform), num_cpus=_READER_CPUS)
        return decoded.map_batches(
            _Scorer,
            fn_constructor_args=(replace(settings, accelerator="gpu" if self.gpus else "cpu"), threads),
            batch_size=1,
            compute=ActorPoolStrategy(size=count),
            num_cpus=int(cores) if cores > 1 else cores,
            num_gpus=self.gpus / count if self.gpus else None,
        )


def _check_address(address: str | None) -> None:
    """Connect to a cluster's address, because Ray itself waits for minutes if nothing answers.

    Raises:
        ConnectionError: If nothing answers; names the address.
    """
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not port.isdigit():  # such as "auto"
        return
    try:
        socket.create_connection((host, int(port)), _SECONDS_TO_ANSWER).close()
    except (OSError, OverflowError) as error:
        msg = f"No Ray cluster answers at {address} ({error}). Start it with `ray start`, or leave ray_address out."
        raise ConnectionError(msg) from error


class _Batches(Datasource):
    """Finds images and yields them in batches.

    Args:
        settings (RunSettings): The settings.
        start (int): Index of the first image, which must be the first one of a batch.
    """

    def __init__(self, settings: RunSettings, start: int) -> None:
        self.settings, self.start = settings, start

    def estimate_inmemory_data_size(self) -> int | None:
        """Return ``None``: unknown before all images are found."""
        return None

    def get_read_tasks(self, *_: Any, **__: Any) -> list[ReadTask]:  # noqa: ANN401  # Ray's own arguments
        """Return a single task, which keeps the order of the images."""
        metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(partial(_find, self.settings, self.start), metadata)]


def _find(settings: RunSettings, start: int) -> Iterator[pa.Table]:
    """Yield blocks of one row, which holds a batch of images as JSON."""
    items = as_items(find_images(settings.data, leave_out=settings.out), settings)
    number, count = settings.shard_and_count
    for place, part in enumerate(in_batches(items, settings.part_size)):
        if place % count == number - 1:
            for batch in in_batches((item for item in part if item.number >= start), settings.batch_size):
                yield pa.table({"items": [json.dumps(batch)]})


def _decode(row: dict[str, Any], transform: Transform) -> dict[str, Any]:
    """Read the images of a batch."""
    batch = read_batch([Item(*item) for item in json.loads(row["items"])], transform)
    rest = [batch.items, [positions for positions, _ in batch.stacks], batch.sizes, batch.errors]
    images = save({str(number): images for number, (_, images) in enumerate(batch.stacks)})
    return {"batch": json.dumps(rest), "images": images}


class _Scorer:
    """An actor: holds a model, and writes result images and maps.

    Args:
        settings (RunSettings): The settings.
        threads (int): Number of threads of the model.
    """

    def __init__(self, settings: RunSettings, threads: int) -> None:
        torch.set_num_threads(threads)
        self.settings = settings
        self.backend = load_backend(settings)
        self.folder = ResultFolder(settings.out)

    def __call__(self, rows: dict[str, Any]) -> dict[str, list[str]]:
        """Score one row, which is a batch of images."""
        items, places, sizes, errors = json.loads(rows["batch"][0])
        images = load(rows["images"][0])
        stacks = [(positions, images[str(number)]) for number, positions in enumerate(places)]
        batch = ImageBatch([Item(*item) for item in items], stacks, [(h, w) for h, w in sizes], errors)
        return {"rows": [json.dumps(as_rows(score_batch(batch, self.backend), self.settings, self.folder))]}
