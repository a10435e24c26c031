# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Processes of a distributed run: exchange of Python objects."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from torch import distributed

T = TypeVar("T")


class Processes:
    """The processes of a run: ``rank`` is that of this one among ``number``, and each operation is called by all.

    A run that is not distributed has one process.
    """

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
        values = [value] * self.number if self.rank == 0 else []
        if self.group:
            distributed.gather_object(value, values or None, dst=0, group=self.group)
        return values

    def broadcast(self, value: T) -> T:
        """Return the value of the first process, in each process."""
        values = [value]
        if self.group:
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
