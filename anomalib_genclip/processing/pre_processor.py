# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Pre-processor with the same resize in the engine and in exported models."""

from typing import Any

import torch
from anomalib.data import Batch
from anomalib.pre_processing import PreProcessor
from anomalib.pre_processing.utils.transform import get_exportable_transform
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torchvision.transforms.v2 import Compose, InterpolationMode, Resize, Transform


class AntialiasedPreProcessor(PreProcessor):
    """Pre-processor whose exported form keeps the antialiasing of the bicubic resize.

    anomalib switches antialiasing off in exported models, so that an image larger than the model's input gets different
    scores from the engine and from the exported file. This class exports the resize as :class:`MatrixResize`.

    Args:
        transform (Transform | None): Transform of images and masks. Defaults to ``None``.
    """

    def __init__(self, transform: Transform | None = None) -> None:
        super().__init__(transform)
        self.export_transform = _exportable(transform)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Transform the batch; anomalib's method does not accept ``dataloader_idx``."""
        del dataloader_idx
        super().on_validation_batch_start(trainer, pl_module, batch, batch_idx)

    def load_checkpoint_config(self, config: dict[str, Any]) -> None:
        """Restore the transform and its exported form from a checkpoint."""
        super().load_checkpoint_config(config)
        self.export_transform = _exportable(self.transform)


def _exportable(transform: Transform | None) -> Transform | nn.Module | None:
    """Like anomalib's ``get_exportable_transform``, but keep antialiased bicubic resizes to a fixed size."""
    if isinstance(transform, Compose):
        return Compose([_exportable(step) for step in transform.transforms])
    if isinstance(transform, Resize) and transform.antialias and transform.interpolation == InterpolationMode.BICUBIC:
        size = transform.size
        if size is not None and len(size) == 2:
            return MatrixResize((size[0], size[1]))
    return get_exportable_transform(transform)


class MatrixResize(nn.Module):
    """Antialiased bicubic resize as two matrix products, equal to torch's up to float32 rounding.

    ONNX has an operator for it, but OpenVINO silently ignores its antialiasing. The interpolation is separable, and all
    runtimes compute matrix products alike.

    Args:
        size (tuple[int, int]): Height and width of the result.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        """Resize ``(*, H, W)`` to ``(*, *size)``; ``H`` and ``W`` are dynamic."""
        rows, columns = (
            _weights(old, new, images.device).to(images.dtype)
            for old, new in zip(images.shape[-2:], self.size, strict=True)
        )
        return rows @ images @ columns.T


def _weights(old: int, new: int, device: torch.device) -> Tensor:
    """Compute the interpolation weights of ``old`` pixels for ``new`` ones: ``(new, old)``, rows sum to 1.

    Distances between pixel centers are integers in units of ``1 / (2 old new)`` of the axis. Runtimes that compute in
    bfloat16 or float16 do not round integers; rounded distances would misplace pixels.
    """
    centres_old = (2 * torch.arange(old, device=device) + 1) * new
    centres_new = (2 * torch.arange(new, device=device) + 1) * old
    unit = 2 * torch.sym_max(old, new)  # antialiasing: the kernel widens when the image shrinks
    distance = (centres_old - centres_new[:, None]).abs().clamp(max=2 * unit)
    weights = _cubic_kernel(distance.float() / unit)
    return weights / weights.sum(dim=1, keepdim=True)


def _cubic_kernel(x: Tensor) -> Tensor:
    """Keys' cubic with ``a = -1/2``, as torch and Pillow antialias with it, for x in [0, 2]."""
    return torch.where(x < 1, (1 - x) * (1 + x - 1.5 * x * x), (1 - x) * (2 - x) * (2 - x) / 2)
