# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Where bfloat16 is faster than float32."""

from typing import Literal

import torch

Precision = Literal["auto", "float32", "bf16"]


def bf16_is_fast(device: torch.device) -> bool:
    """Tell whether a device has instructions for products of bfloat16 matrices; others only imitate them.

    Asked, not timed, because the answer must be the same for each run on a machine.

    Args:
        device (torch.device): What the model runs on.

    Returns:
        bool: ``True`` on NVIDIA GPUs from Ampere on and on x86 processors with AVX512-BF16 or AMX.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    # torch 2.10 has no public way to ask. A version without these functions gets float32.
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in names)


def choose_precision(precision: Precision, device: torch.device) -> Literal["float32", "bf16"]:
    """Resolve ``"auto"``: bf16 where it is fast, float32 elsewhere (ours).

    Args:
        precision (str): ``"float32"``, ``"bf16"`` or ``"auto"``.
        device (torch.device): What the model runs on.

    Returns:
        Literal["float32", "bf16"]: What to compute in.
    """
    if precision != "auto":
        return precision
    return "bf16" if bf16_is_fast(device) else "float32"
