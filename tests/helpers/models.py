# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Torch models of any settings, and fixtures of a small one."""

import copy

import pytest
import torch

from anomalib_genclip.clip.backbone import load_clip
from anomalib_genclip.model_settings import ModelSettings
from anomalib_genclip.torch_model import GenCLIPModel

BACKBONE = "ViT-S-32-alt"
SIZE = 96


def torch_model(backbone: str, pretrained: str | None = None, image_size=None, layers=None, **settings) -> GenCLIPModel:
    """Build a torch model: of random weights unless told otherwise."""
    resolved = ModelSettings.resolve(backbone, pretrained, image_size, layers, **settings)
    return GenCLIPModel(load_clip(resolved.spec, resolved.pretrained, resolved.image_size), resolved)


@pytest.fixture(scope="session")
def built() -> GenCLIPModel:
    """Build the model once: random weights, the same for all tests."""
    torch.manual_seed(0)
    return torch_model(BACKBONE, pretrained=None, image_size=SIZE)


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
    """Normalized images."""
    return torch.randn(3, 3, SIZE, SIZE)
