# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Choice of the device, and between float32 and bfloat16."""

from typing import Literal

import torch

Precision = Literal["auto", "float32", "bf16"]


def bf16_is_fast(device: torch.device) -> bool:
    """Return whether a device has instructions for matrix products in bfloat16; others emulate them.

    Not measured, because the result must be the same for all runs on a machine.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    # torch 2.10 has no public function for this. A version without these functions uses float32.
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in names)


def choose_precision(precision: Precision, device: torch.device) -> Literal["float32", "bf16"]:
    """Resolve ``"auto"``: bf16 where it is fast, float32 elsewhere (ours)."""
    if precision != "auto":
        return precision
    return "bf16" if bf16_is_fast(device) else "float32"


def choose_device(device: str | torch.device) -> torch.device:
    """Return the device for a setting.

    Raises:
        ValueError: If there is no such device.
    """
    if device not in {"auto", "cpu", "gpu"}:
        return torch.device(device)
    gpu = torch.accelerator.current_accelerator(check_available=True)
    if device == "gpu" and gpu is None:
        msg = "torch finds no GPU on this machine: use the CPU."
        raise ValueError(msg)
    return torch.device("cpu") if gpu is None or device == "cpu" else gpu
