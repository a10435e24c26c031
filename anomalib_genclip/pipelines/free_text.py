# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Baseline of the comparison that asks whether the text matters: free vectors in place of the text features."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from anomalib_genclip.clip.frozen_clip import ImageTokens
from anomalib_genclip.lightning_model import GenCLIP
from anomalib_genclip.model_settings import ModelSettings
from anomalib_genclip.torch_model import GenCLIPModel


class _FreeTextModel(GenCLIPModel):
    """GenCLIP that compares patches and CLS token with two learned vectors, the same for all images and layers."""

    def __init__(self, clip: Any, settings: ModelSettings) -> None:  # noqa: ANN401
        super().__init__(clip, settings)
        self.prompts.requires_grad_(requires_grad=False)
        # A part of the prompts, because the optimizer and checkpoints take all of these.
        self.prompts.register_parameter("free", nn.Parameter(torch.randn(2, settings.spec.embed_dim)))

    def _features(self) -> Tensor:
        return F.normalize(self.prompts.get_parameter("free"), dim=-1)

    def _vision_text(self, image: ImageTokens, *_: object) -> Tensor:
        return self._features().expand(len(self.layers), len(image.cls), -1, -1)

    def _branch_text(self, image: ImageTokens, class_index: Tensor) -> dict[str, Sequence[Tensor]]:
        del image, class_index
        return {"free": [self._features()] * len(self.layers)}


class FreeText(GenCLIP):
    """GenCLIP that learns two free vectors instead of text; arguments of prompts, names, branches have no effect."""

    torch_model = _FreeTextModel
