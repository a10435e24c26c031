# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The processes of a distributed run: what they tell each other, and who has which images."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from torch import distributed
from torch.utils.data.distributed import DistributedSampler

T = TypeVar("T")


class Processes:
    """The processes of this run; of a run that is not distributed, the only one."""

    def __init__(self, group: "distributed.ProcessGroup | None" = None) -> None:
        self.group = group
        self.rank = distributed.get_rank(group) if group else 0
        self.number = distributed.get_world_size(group) if group else 1

    def all_gather(self, value: T) -> list[T]:
        """Every process's value, in every process."""
        values = [value] * self.number
        if self.group:
            distributed.all_gather_object(values, value, group=self.group)
        return values

    def gather(self, value: T) -> list[T]:
        """Every process's value in the first process, an empty list in the others."""
        if not self.group:
            return [value]
        values = [value] * self.number if self.rank == 0 else []
        distributed.gather_object(value, values or None, dst=0, group=self.group)
        return values

    def broadcast(self, value: T) -> T:
        """The first process's value, in every process."""
        if not self.group:
            return value
        values = [value]
        distributed.broadcast_object_list(values, src=0, group=self.group)
        return values[0]


@contextmanager
def processes() -> Iterator[Processes]:
    """The processes of this run, to exchange Python objects; all of them must enter.

    A group of its own on the gloo backend, because NCCL would copy everything through the accelerator's memory.
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
    """Count the images of a loader that are this process's own.

    torch's distributed sampler repeats the first images at the end, so that all processes have the same number.

    Args:
        loader (object): A loader that keeps the data's order.

    Returns:
        float: How many of its images come before the repeated ones; infinity if none is repeated.
    """
    sampler = getattr(getattr(loader, "batch_sampler", None), "sampler", None) or getattr(loader, "sampler", None)
    if not isinstance(sampler, DistributedSampler):
        return float("inf")
    return len(range(sampler.rank, len(sampler.dataset), sampler.num_replicas))
