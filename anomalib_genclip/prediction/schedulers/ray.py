# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Score chunks in a pool of Ray actors, on this machine or a cluster. Ray repeats what a killed actor was doing."""

import logging
import math
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayTaskError
from ray.util import ActorPool

from anomalib_genclip.persistence.weights_files import resolve_weights
from anomalib_genclip.prediction.chunks import Chunk
from anomalib_genclip.prediction.manifest import hash_weights
from anomalib_genclip.prediction.scoring import Scorer, resolve_device
from anomalib_genclip.prediction.settings import RunSettings

_CORES = 4  # of a model without a GPU, by default
_SECONDS_TO_ANSWER = 10


class Scheduler:
    """See :class:`anomalib_genclip.prediction.schedulers.Scheduler`.

    A ``ConnectionError`` names an address without a cluster; a ``ValueError`` says that there is no GPU.
    """

    def __init__(self, settings: RunSettings) -> None:
        self._starts_ray = not ray.is_initialized()
        self._actors: list[Any] = []
        if self._starts_ray:
            _check_address(settings.ray_address)
            ray.init(settings.ray_address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        try:
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            count, threads, options = actor_resources(settings, nodes)
            settings = replace(settings, accelerator="gpu" if options["num_gpus"] else "cpu")
            kind = ray.remote(_Actor).options(max_restarts=-1, max_task_retries=-1, **options)
            self._actors = [kind.remote(threads) for _ in range(count)]
            with _own_errors():
                found = ray.get([actor.resolve_device.remote(settings) for actor in self._actors])
        except BaseException:
            self.close()
            raise
        self.device = found[0][0]
        self.precision = "bf16" if all(one == "bf16" for _, one in found) else "float32"  # machines may differ

    def load(self, settings: RunSettings, weights: Path) -> Callable[[Iterable[Chunk]], Iterator[Chunk]]:
        """Load the models."""
        given = (settings, weights, hash_weights(weights))
        with _own_errors():
            ray.get([actor.score.remote(*given, []) for actor in self._actors])
            self.calibration = ray.get(self._actors[0].calibration.remote())
        return partial(self._score, given)

    def _score(self, given: tuple[RunSettings, Path, str], chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        pool = ActorPool(self._actors)
        with _own_errors():
            for chunk in chunks:  # as many are in memory as there are actors
                if not pool.has_free():
                    yield pool.get_next_unordered()
                pool.submit(lambda actor, one: actor.score.remote(*given, [one]), chunk)
            while pool.has_next():
                yield pool.get_next_unordered()

    def close(self) -> None:
        """Stop the actors, and Ray if this object started it."""
        self._actors.clear()
        if self._starts_ray:
            ray.shutdown()


class _Actor:
    """A process with a model. A restarted one loads it again with the first chunk."""

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self.scorer: Scorer | None = None

    def resolve_device(self, settings: RunSettings) -> tuple[str, str]:
        return resolve_device(settings)

    def calibration(self) -> dict[str, Any] | None:
        return self.scorer.inferencer.calibration if self.scorer else None

    def score(self, settings: RunSettings, weights: Path, expected: str, chunks: list[Chunk]) -> Chunk | None:
        if self.scorer is None:
            path = weights if weights.is_file() else resolve_weights(settings.weights)
            if hash_weights(path) != expected:
                msg = f"{settings.weights} is another file on {socket.gethostname()} than where the run was started."
                raise ValueError(msg)
            self.scorer = Scorer(settings, path)
        list(self.scorer.score(chunks))
        return chunks[0] if chunks else None


def actor_resources(settings: RunSettings, nodes: Sequence[Mapping[str, float]]) -> tuple[int, int, dict[str, float]]:
    """Return the number of actors, and threads and resources of each; a ``ValueError`` if there is no GPU as asked."""
    cpus, gpus = [int(node.get("CPU", 0)) for node in nodes], [int(node.get("GPU", 0)) for node in nodes]
    if settings.accelerator == "gpu" and not any(gpus):
        msg = "accelerator=gpu: Ray knows of no GPU."
        raise ValueError(msg)
    if settings.accelerator != "cpu" and any(gpus):
        count = settings.ray_actors or sum(gpus)
        return count, max(1, sum(cpus) // count), {"num_cpus": 0, "num_gpus": _share(gpus, count, most=1)}
    count = settings.ray_actors or max(1, sum(cpu // _CORES for cpu in cpus))
    cores = _share(cpus, count, most=max(cpus))
    return count, max(1, int(cores)), {"num_cpus": cores, "num_gpus": 0}


def _share(amounts: list[int], count: int, most: int) -> float:
    """Return the largest share that so many actors can have: whole units of one machine, or 1/2, 1/3 and so on."""
    whole = next((whole for whole in range(most, 0, -1) if sum(amount // whole for amount in amounts) >= count), None)
    return whole or 1 / math.ceil(count / sum(amounts))


def _check_address(address: str | None) -> None:
    """Connect to a cluster, because Ray waits for minutes; a ``ConnectionError`` names an address without an answer."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not port.isdigit():  # such as "auto"
        return
    try:
        socket.create_connection((host, int(port)), _SECONDS_TO_ANSWER).close()
    except (OSError, OverflowError) as error:
        msg = f"No Ray cluster answers at {address} ({error}). Start it with `ray start`, or leave ray_address out."
        raise ConnectionError(msg) from error


@contextmanager
def _own_errors() -> Iterator[None]:
    """Raise an actor's error without Ray's traceback."""
    try:
        yield
    except RayTaskError as error:
        raise error.cause from None
