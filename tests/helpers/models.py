# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Torch models of any settings, and fixtures of a small one."""

import copy

import pytest
import torch
from torch import nn

from anomalib_genclip.clip.backbone import load_clip
from anomalib_genclip.model_settings import ModelSettings
from anomalib_genclip.torch_model import GenCLIPModel

BACKBONE = "ViT-S-32-alt"
SIZE = 96


def torch_model(backbone: str, pretrained: str = "random", **settings) -> GenCLIPModel:
    """Build a torch model: of random weights unless told otherwise."""
    resolved = ModelSettings.resolve(backbone, pretrained=pretrained, **settings)
    return GenCLIPModel(load_clip(resolved.spec, resolved.pretrained, resolved.image_size), resolved)


@torch.no_grad()
def attended_by_value(block: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """Run open_clip's own attention with the projection of the values in place of those of queries and keys."""
    attention = copy.deepcopy(block.attn)
    for parameter in (attention.in_proj_weight, attention.in_proj_bias):
        query, key, value = parameter.chunk(3)
        query.copy_(value)
        key.copy_(value)
    normed = block.ln_1(tokens)
    normed = normed if attention.batch_first else normed.transpose(0, 1)
    result = block.ls_1(attention(normed, normed, normed, need_weights=False)[0])
    return result if attention.batch_first else result.transpose(0, 1)


@pytest.fixture(scope="session")
def built() -> GenCLIPModel:
    """Build the model once: random weights, the same for all tests."""
    torch.manual_seed(0)
    return torch_model(BACKBONE, image_size=SIZE)


@pytest.fixture
def model(built) -> GenCLIPModel:
    """An untrained model that a test may change."""
    return copy.deepcopy(built).eval()


@pytest.fixture
def noisy(model) -> GenCLIPModel:
    """A model whose learned tensors all count, as after training."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * (0.05 if "projections" in name else 0.2))
    return model.eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(3, 3, SIZE, SIZE)
