# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Exchange of Python objects between the processes of a distributed run, through CPU memory.

A group of its own on the gloo backend, because NCCL would copy everything through the accelerator's memory.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from torch import distributed

T = TypeVar("T")


class Processes:
    """The processes of this run; of a run that is not distributed, the only one."""

    def __init__(self, group: "distributed.ProcessGroup | None" = None) -> None:
        self.group = group
        self.rank = distributed.get_rank(group) if group else 0
        self.number = distributed.get_world_size(group) if group else 1

    def all_have(self, value: T) -> list[T]:
        """Every process's value, in every process."""
        values = [value] * self.number
        if self.group:
            distributed.all_gather_object(values, value, group=self.group)
        return values

    def first_has(self, value: T) -> list[T]:
        """Every process's value in the first process, an empty list in the others."""
        if not self.group:
            return [value]
        values = [value] * self.number if self.rank == 0 else []
        distributed.gather_object(value, values or None, dst=0, group=self.group)
        return values

    def from_first(self, value: T) -> T:
        """The first process's value, in every process."""
        if not self.group:
            return value
        values = [value]
        distributed.broadcast_object_list(values, src=0, group=self.group)
        return values[0]


@contextmanager
def processes() -> Iterator[Processes]:
    """The processes of this run; all of them must enter."""
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        yield Processes()
        return
    group = distributed.new_group(backend="gloo")
    try:
        yield Processes(group)
    finally:
        distributed.destroy_process_group(group)
