# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Hashes and checks of tensors, and CLIP's resize: bicubic and antialiased, the same in torch and in exports."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize as torchvision_resize

_ROUNDED = 1  # pixel by which a side may differ between an image and its mask
IGNORED = 2  # value of a mask where the loss ignores the pixels; 0 is normal, 1 anomalous


def digest(tensors: Mapping[str, Tensor], description: Any) -> str:  # noqa: ANN401  # plain data
    """Hash tensors of any type and their description; safetensors and torch do not detect flipped bits in tensors."""
    result = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for key in sorted(tensors):
        value = tensors[key].detach().cpu().contiguous()
        result.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        result.update(value.flatten().view(torch.uint8).numpy())
    return result.hexdigest()


def check_finite(tensors: Mapping[str, Tensor], source: str) -> None:
    """Raise a ``ValueError`` that starts with ``source`` and names a tensor of other than finite numbers or bools."""
    for key, value in tensors.items():
        if value.dtype != torch.bool and not (value.is_floating_point() and torch.isfinite(value).all()):
            msg = f"{source}: tensor {key!r} does not consist of finite floating-point numbers."
            raise ValueError(msg)


def resize(images: Tensor, size: Sequence[int]) -> Tensor:
    """Resize images ``(B, C, H, W)`` to ``(B, C, *size)``."""
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    if torch.compiler.is_exporting():
        return MatrixResize((size[0], size[1]))(images)
    return torchvision_resize(images, list(size), interpolation=InterpolationMode.BICUBIC, antialias=True)


def nearest(mask: Tensor, size: Sequence[int]) -> Tensor:
    """Scale masks ``(*, H, W)`` to ``(*, *size)`` by the nearest pixels, the same in torch and in exports."""
    for dim, new in zip((-2, -1), size, strict=True):
        if (old := mask.shape[dim]) != new:
            mask = mask.index_select(dim, (2 * torch.arange(new, device=mask.device) + 1) * old // (2 * new))
    return mask


def check_shape(name: str, size: Sequence[int], other: str, other_size: Sequence[int]) -> None:
    """Raise a ``ValueError`` that names both if an image and its mask differ in shape; sizes are height and width."""
    (height, width), (rows, columns) = size, other_size
    if abs(columns * height - width * rows) > _ROUNDED * max(height, width, rows, columns):
        what = f"{name} ({width} x {height} pixels) does not have the shape of {other} ({columns} x {rows})"
        msg = f"{what}. Draw the mask on such an image as it is stored, without its EXIF orientation."
        raise ValueError(msg)


class MatrixResize(nn.Module):
    """Antialiased bicubic resize, which is separable, as two matrix products, equal to torch's up to float32 rounding.

    OpenVINO silently ignores the antialiasing of ONNX's operator; all runtimes compute matrix products alike.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        """Resize ``(*, H, W)`` to ``(*, *size)``; ``H`` and ``W`` are dynamic."""
        pairs = zip(images.shape[-2:], self.size, strict=True)
        rows, columns = (_weights(old, new, images.device).to(images.dtype) for old, new in pairs)
        return rows @ images @ columns.T


def _weights(old: int, new: int, device: torch.device) -> Tensor:
    """Compute the interpolation weights of ``old`` pixels for ``new`` ones: ``(new, old)``, rows sum to 1.

    Distances between pixel centers are integers in units of ``1 / (2 old new)`` of the axis. Runtimes that compute in
    bfloat16 or float16 do not round integers; rounded distances would misplace pixels.
    """
    centres_old = (2 * torch.arange(old, device=device) + 1) * new
    centres_new = (2 * torch.arange(new, device=device) + 1) * old
    unit = 2 * torch.sym_max(old, new)  # antialiasing: the kernel widens when the image shrinks
    x = (centres_old - centres_new[:, None]).abs().clamp(max=2 * unit).float() / unit
    # Keys' cubic with a = -1/2, as torch and Pillow antialias with it.
    weights = torch.where(x < 1, (1 - x) * (1 + x - 1.5 * x * x), (1 - x) * (2 - x) * (2 - x) / 2)
    return weights / weights.sum(dim=1, keepdim=True)
