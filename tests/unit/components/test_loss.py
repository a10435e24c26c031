# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The loss."""

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from anomalib_genclip.components.loss import GenCLIPLoss, dice_loss
from anomalib_genclip.utils.tensors import IGNORED


def _logits(probability: torch.Tensor) -> torch.Tensor:
    return torch.stack([torch.log1p(-probability), torch.log(probability)], dim=1)


def test_all_normal_map_on_an_anomalous_batch_costs_half_of_dice():
    mask = torch.zeros(2, 32, 32)
    mask[:, 8:16, 8:16] = 1
    one_hot = F.one_hot(mask.long(), 2).movedim(-1, 1)
    all_normal = _logits(torch.full((2, 32, 32), 1e-6)).softmax(1)
    assert dice_loss(all_normal, one_hot) >= 0.5
    right = _logits(mask.clamp(1e-6, 1 - 1e-6)).softmax(1)
    assert dice_loss(right, one_hot) < 1e-3


def test_loss_sums_over_layers_and_takes_masks_of_any_size():
    maps = torch.randn(3, 2, 2, 4, 4)
    cls = torch.randn(2, 2)
    mask = torch.zeros(2, 37, 53)
    mask[0, 5:20, 5:20] = 1
    loss = GenCLIPLoss(image_weight=0.0)
    each = torch.stack([loss(layer.unsqueeze(0), cls, mask) for layer in maps])
    torch.testing.assert_close(loss(maps, cls, mask), each.sum())
    with_image = GenCLIPLoss(image_weight=2.0)(maps, cls, mask) - each.sum()
    torch.testing.assert_close(with_image, 2 * F.cross_entropy(cls, torch.tensor([1, 0])))


def test_an_anomalous_image_with_an_empty_mask_stays_anomalous():
    loss = GenCLIPLoss(image_weight=1.0)
    maps, empty = torch.zeros(1, 1, 2, 4, 4), torch.zeros(1, 8, 8)
    says_normal, says_abnormal = torch.tensor([[9.0, -9.0]]), torch.tensor([[-9.0, 9.0]])
    label = torch.tensor([1])
    assert loss(maps, says_abnormal, empty, label) < loss(maps, says_normal, empty, label)


def test_ignored_pixels_take_no_part():
    """Whatever the maps say there; elsewhere, the loss is that of the same pixels alone."""
    loss, cls = GenCLIPLoss(image_weight=0.0), torch.zeros(2, 2)
    mask = torch.zeros(2, 8, 8, dtype=torch.uint8)
    mask[:, 2:4] = 1
    mask[:, 4:] = IGNORED
    maps = torch.randn(3, 2, 2, 8, 8)
    other = maps.clone()
    other[..., 4:, :] = torch.randn(3, 2, 2, 4, 8)
    gradients = []
    for given in (maps, other):
        given.requires_grad_()
        loss(given, cls, mask).backward()
        gradients.append(given.grad)
    torch.testing.assert_close(loss(maps, cls, mask), loss(other, cls, mask))
    torch.testing.assert_close(*gradients)
    assert not gradients[0][..., 4:, :].any()
    assert gradients[0][..., :4, :].all()
    one_hot = F.one_hot(mask[:, :4].long(), 2).movedim(-1, 1)
    whole = F.one_hot(mask.long(), 3)[..., :2].movedim(-1, 1)
    torch.testing.assert_close(dice_loss(maps[0].softmax(1), whole), dice_loss(maps[0, ..., :4, :].softmax(1), one_hot))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [0.0, 1.0, 60_000.0])
@pytest.mark.parametrize("anomalous", [0.0, 0.5, 1.0])
def test_loss_and_gradient_are_finite_on_extreme_logits(dtype, scale, anomalous):
    maps = (torch.randn(2, 4, 2, 4, 4).sign() * scale).to(dtype).requires_grad_()
    cls = (torch.randn(4, 2).sign() * scale).to(dtype).requires_grad_()
    mask = torch.zeros(4, 8, 8)
    mask[: int(4 * anomalous)] = 1
    loss = GenCLIPLoss(image_weight=0.5)(maps, cls, mask)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(maps.grad).all()
    assert torch.isfinite(cls.grad).all()
