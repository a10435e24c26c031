# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""From similarities to anomaly maps and image scores."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

TEMPERATURE = 0.07  # τ (ours): CLIP's own 0.01 saturates as ψ learns
TOP_SHARE = 0.01  # share of the map that makes the image score (ours)


def similarity_logits(features: Tensor, text: Tensor) -> Tensor:
    """Compare image features with the normal and the abnormal text feature.

    Args:
        features (Tensor): Patch or CLS features, ``(B, N, d)``, any length.
        text (Tensor): Text features, ``(B, 2, d)``, or ``(2, d)`` for all images alike, unit length.

    Returns:
        Tensor: ``cos / τ``, ``(B, N, 2)``; index 0 is normal.
    """
    # In float32, because a length may not fit half precision.
    unit = F.normalize(features.float(), dim=-1).to(features.dtype)
    return unit @ text.to(features.dtype).transpose(-1, -2) / TEMPERATURE


def abnormal_probability(logits: Tensor) -> Tensor:
    """Softmax over {normal, abnormal}, abnormal channel: ``(..., 2)`` to ``(...)``, in float32."""
    return torch.softmax(logits.float(), dim=-1)[..., 1]


def upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Enlarge patch maps ``(B, C, h, w)`` to ``(B, C, H, W)``.

    Bilinear, so the enlarged mean of several maps is the mean of the enlarged maps.
    """
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def top_mean(maps: Tensor) -> Tensor:
    """Average the highest hundredth of each map: ``(B, 1, H, W)`` to ``(B,)``."""
    flat = maps.flatten(1)
    count = math.ceil(flat.shape[1] * TOP_SHARE)
    return flat.topk(count, dim=1).values.mean(dim=1)
