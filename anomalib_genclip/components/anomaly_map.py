# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Similarities of features and text, anomaly maps and image scores."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

TEMPERATURE = 0.07  # τ (ours): CLIP's own 0.01 saturates as ψ learns
TOP_SHARE = 0.01  # share of the map that is averaged for the image score (ours)


def similarity_logits(features: Tensor, text: Tensor) -> Tensor:
    """Compare patch or CLS features ``(B, N, d)``, of any norm, with the normal and the abnormal text feature.

    Text is ``(B, 2, d)``, or ``(2, d)`` for all, of unit length. Returns ``cos / τ``, ``(B, N, 2)``; index 0 is normal.
    """
    # In float32, because a norm may overflow half precision.
    unit = F.normalize(features.float(), dim=-1).to(features.dtype)
    return unit @ text.to(features.dtype).transpose(-1, -2) / TEMPERATURE


def abnormal_probability(logits: Tensor) -> Tensor:
    """Return the abnormal channel of the softmax over {normal, abnormal}: ``(..., 2)`` to ``(...)``, in float32."""
    return torch.softmax(logits.float(), dim=-1)[..., 1]


def upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Upsample patch maps ``(B, C, h, w)`` bilinearly to ``(B, C, H, W)``."""
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def spread(maps: Tensor, counting: Tensor | None, filtered: Callable[[Tensor], Tensor]) -> Tensor:
    """Filter maps ``(B, 1, h, w)``, leaving out what does not count, which would bleed; 0 where nothing counts.

    ``counting`` ``(B or 1, 1, h, w)`` is 1 where the maps count, else 0; ``None`` if all do. ``filtered`` is a linear
    filter whose weights sum to 1, such as :func:`upsample`.
    """
    if counting is None:
        return filtered(maps)
    return filtered(maps * counting) / filtered(counting).clamp(min=1e-6)


def top_mean(maps: Tensor, area: int | None = None, ignored: Tensor | None = None) -> Tensor:
    """Average the highest values of each map ``(B, 1, H, W)``, at least 0: ``(B,)``.

    These are as many as 1 % of ``area``, that of a tile, or of all pixels. ``ignored`` pixels, bool, of the maps' shape
    or ``(1, 1, H, W)``, do not count. Unless fewer count, the number stays: a defect elsewhere keeps its value.
    """
    flat = maps.flatten(1)
    count = math.ceil((flat.shape[1] if area is None else area) * TOP_SHARE)
    if ignored is None:
        return flat.topk(count, dim=1).values.mean(dim=1)
    values = flat.masked_fill(ignored.flatten(1), -1).topk(count, dim=1).values
    counted = (values >= 0).float()
    return (values * counted).sum(dim=1) / counted.sum(dim=1)
