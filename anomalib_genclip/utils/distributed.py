# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Processes of a distributed run: exchange of Python objects, and which images belong to a process."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from torch import distributed
from torch.utils.data.distributed import DistributedSampler

T = TypeVar("T")


class Processes:
    """Collective operations on Python objects; a run that is not distributed has one process."""

    def __init__(self, group: "distributed.ProcessGroup | None" = None) -> None:
        self.group = group
        self.rank = distributed.get_rank(group) if group else 0
        self.number = distributed.get_world_size(group) if group else 1

    def all_gather(self, value: T) -> list[T]:
        """Return the values of all processes, in each process."""
        values = [value] * self.number
        if self.group:
            distributed.all_gather_object(values, value, group=self.group)
        return values

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes in the first process, an empty list in the others."""
        if not self.group:
            return [value]
        values = [value] * self.number if self.rank == 0 else []
        distributed.gather_object(value, values or None, dst=0, group=self.group)
        return values

    def broadcast(self, value: T) -> T:
        """Return the value of the first process, in each process."""
        if not self.group:
            return value
        values = [value]
        distributed.broadcast_object_list(values, src=0, group=self.group)
        return values[0]


@contextmanager
def processes() -> Iterator[Processes]:
    """Context with the processes of this run; all of them must enter it.

    Uses a process group of its own with the gloo backend, because NCCL would copy all objects to the accelerator.
    """
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        yield Processes()
        return
    group = distributed.new_group(backend="gloo")
    try:
        yield Processes(group)
    finally:
        distributed.destroy_process_group(group)


def number_of_own_images(loader: object) -> float:
    """Count the images of a loader without those that torch's distributed sampler repeats at the end.

    The sampler repeats the first images, so that all processes have the same number.

    Args:
        loader (object): A loader that does not shuffle.

    Returns:
        float: Number of images before the repeated ones; infinity if none is repeated.
    """
    sampler = getattr(getattr(loader, "batch_sampler", None), "sampler", None) or getattr(loader, "sampler", None)
    if not isinstance(sampler, DistributedSampler):
        return float("inf")
    return len(range(sampler.rank, len(sampler.dataset), sampler.num_replicas))
