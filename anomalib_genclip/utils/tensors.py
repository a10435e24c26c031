# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Checks and hashes of tensors."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def digest(tensors: Mapping[str, Tensor], description: Any) -> str:  # noqa: ANN401  # plain data
    """Hash tensors of any type and their description; safetensors and torch do not detect flipped bits in tensors."""
    result = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for key in sorted(tensors):
        value = tensors[key].detach().cpu().contiguous()
        result.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        result.update(value.flatten().view(torch.uint8).numpy())
    return result.hexdigest()


def check_finite(tensors: Mapping[str, Tensor], source: str) -> None:
    """Raise a ``ValueError`` that starts with ``source`` and names a tensor that has other than finite numbers."""
    for key, value in tensors.items():
        if not (value.is_floating_point() and torch.isfinite(value).all()):
            msg = f"{source}: tensor {key!r} does not consist of finite floating-point numbers."
            raise ValueError(msg)
