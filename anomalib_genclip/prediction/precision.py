# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""In which precision the model runs."""

from typing import Literal

import torch


def choose_precision(precision: str, device: torch.device) -> Literal["float32", "bf16"]:
    """Resolve "auto".

    Args:
        precision (str): "float32", "bf16" or "auto".
        device (torch.device): What the model runs on.

    Returns:
        Literal["float32", "bf16"]: What to compute in.
    """
    del device
    return "bf16" if precision == "bf16" else "float32"
