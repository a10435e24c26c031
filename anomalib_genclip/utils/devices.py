# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Device and precision of a run, and exchange of Python objects between its processes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TypeVar

import torch
from torch import distributed

Precision = Literal["auto", "float32", "bf16"]
T = TypeVar("T")


def bf16_is_fast(device: torch.device) -> bool:
    """Return whether a device has instructions for bf16 products; not measured, because all runs must agree."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # torch 2.10 has no public function for this. A version without these functions uses float32.
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return device.type == "cpu" and any(getattr(torch.cpu, name, bool)() for name in names)


def choose_precision(precision: Precision, device: torch.device) -> Literal["float32", "bf16"]:
    """Resolve ``"auto"``: bf16 where it is fast, float32 elsewhere (ours)."""
    if precision != "auto":
        return precision
    return "bf16" if bf16_is_fast(device) else "float32"


def choose_device(device: str | torch.device) -> torch.device:
    """Return the device for a setting; a ``ValueError`` says that there is no GPU."""
    if device not in {"auto", "cpu", "gpu"}:
        return torch.device(device)
    gpu = torch.accelerator.current_accelerator(check_available=True)
    if device == "gpu" and gpu is None:
        msg = "torch finds no GPU on this machine: use the CPU."
        raise ValueError(msg)
    return torch.device("cpu") if gpu is None or device == "cpu" else gpu


class Processes:
    """The processes of a run: ``rank`` is that of this one among ``number``, and each operation is called by all."""

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
    """Enter a context with all processes of this run; over gloo, because NCCL would copy objects to the accelerator."""
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        yield Processes()
        return
    group = distributed.new_group(backend="gloo")
    try:
        yield Processes(group)
    finally:
        distributed.destroy_process_group(group)
