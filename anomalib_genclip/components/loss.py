# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Training loss: focal and Dice on the layer-wise maps, cross-entropy on the CLS token."""

import torch
from kornia.losses import focal_loss
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from anomalib_genclip.utils.tensors import IGNORED

from .anomaly_map import upsample

FOCAL_GAMMA = 2.0
DICE_SMOOTHING = 1.0  # pixels


def dice_loss(probability: Tensor, target: Tensor) -> Tensor:
    """Dice loss per channel, pooled over the batch and smoothed; the mean of both, a scalar in [0, 1].

    kornia's is not used, because it is per image, not smoothed and averaged over classes: an image without a defect
    then has no gradient in the abnormal channel, and the background dominates the mean.

    Softmax output and one-hot mask are ``(B, 2, H, W)``; pixels that are 0 in both channels of the mask take no part.
    """
    dims = (0, 2, 3)
    probability = probability * target.sum(dim=1, keepdim=True)
    overlap = (probability * target).sum(dims)
    return (1 - (2 * overlap + DICE_SMOOTHING) / (probability.sum(dims) + target.sum(dims) + DICE_SMOOTHING)).mean()


class GenCLIPLoss(nn.Module):
    """Focal and Dice loss summed over the layers, plus a weighted image-level term (ours).

    ``image_weight`` is for cross-entropy on the CLS token; with 0, the paper's loss, its image-level scores degrade.
    """

    def __init__(self, image_weight: float) -> None:
        super().__init__()
        self.image_weight = image_weight

    def forward(self, maps: Tensor, cls: Tensor, mask: Tensor, label: Tensor | None = None) -> Tensor:
        """Compute the loss, a scalar, of layer-wise logits (``cos / τ``, before softmax), ``(M, B, 2, h, w)``.

        ``cls`` are logits of the CLS token, ``(B, 2)``. The mask ``(B, H, W)``, of any size, is 0, 1, or ``IGNORED``
        where maps do not count. Labels ``(B,)`` are those of the images, because the mask of a tiny defect may be empty
        at this size; ``None`` takes them from the mask.
        """
        mask = mask.long()
        one_hot = F.one_hot(mask, num_classes=IGNORED + 1)[..., :IGNORED].movedim(-1, 1)
        loss = maps.new_zeros((), dtype=torch.float32)
        for layer in maps.float():
            logits = upsample(layer, mask.shape[-2:])
            focal = focal_loss(logits, mask, alpha=None, gamma=FOCAL_GAMMA, reduction="mean", ignore_index=IGNORED)
            loss = loss + focal + dice_loss(logits.softmax(dim=1), one_hot)
        if self.image_weight:
            label = (mask == 1).flatten(1).any(dim=1).long() if label is None else label.long()
            loss = loss + self.image_weight * F.cross_entropy(cls.float(), label)
        return loss
