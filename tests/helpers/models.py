# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Torch models of any settings."""

from anomalib_genclip.clip.backbone import load_clip
from anomalib_genclip.model_settings import ModelSettings
from anomalib_genclip.torch_model import GenCLIPModel


def torch_model(backbone: str, pretrained: str | None = None, image_size=None, layers=None, **settings) -> GenCLIPModel:
    """Build a torch model: of random weights unless told otherwise."""
    resolved = ModelSettings.resolve(backbone, pretrained, image_size, layers, **settings)
    return GenCLIPModel(load_clip(resolved.spec, resolved.pretrained, resolved.image_size), resolved)
