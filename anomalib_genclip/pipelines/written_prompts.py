# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Baselines of the comparison: hand-written instead of learned prompts."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from anomalib.models.image.winclip.prompting import create_prompt_ensemble
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from anomalib_genclip.clip.frozen_clip import ImageTokens
from anomalib_genclip.lightning_model import GenCLIP
from anomalib_genclip.model_settings import ModelSettings
from anomalib_genclip.torch_model import GenCLIPModel

PromptSet = Literal["pair", "ensemble"]


class WrittenPrompts(GenCLIP):
    """GenCLIP with hand-written prompts, which has nothing to learn; the image score is that of the CLS token alone.

    Args:
        prompts (str): ``"pair"``: "a photo of a perfect {class}" and "damaged"; ``"ensemble"``: WinCLIP's, averaged.
        **settings (Any): Arguments of :class:`~anomalib_genclip.lightning_model.GenCLIP`, without ``weights``.
    """

    def __init__(self, prompts: PromptSet = "pair", **settings: Any) -> None:  # noqa: ANN401
        if settings.get("weights") is not None:
            msg = "WrittenPrompts learns nothing and takes no weights."
            raise ValueError(msg)
        self.torch_model = partial(_WrittenPromptsModel, prompts=prompts)
        super().__init__(**settings)
        self.is_zero_shot = True


class _WrittenPromptsModel(GenCLIPModel):
    """GenCLIP with hand-written prompts instead of both branches."""

    def __init__(self, clip: Any, settings: ModelSettings, prompts: PromptSet) -> None:  # noqa: ANN401
        super().__init__(clip, settings)
        self.score_weight = 1.0  # the CLS token alone, as in zero-shot classification with CLIP
        self.prompt_set = prompts
        self._text: dict[str, Tensor] = {}

    def _branch_text(self, image: ImageTokens, class_index: Tensor) -> dict[str, Sequence[Tensor]]:
        names = [self.class_names.names[i] for i in class_index.tolist()]
        for name in names:
            if name not in self._text:
                self._text[name] = self._encode_states(name)
        text = torch.stack([self._text[name] for name in names]).to(image.embedding.device)
        return {"written": [text] * len(self.layers)}

    @torch.inference_mode(mode=False)
    @torch.no_grad()
    def _encode_states(self, name: str) -> Tensor:
        """Encode the normal and the abnormal prompts of a class name, ``(2, d)``, unit length."""
        pair = ([f"a photo of a perfect {name}"], [f"a photo of a damaged {name}"])
        states = create_prompt_ensemble(name) if self.prompt_set == "ensemble" else pair
        means = [self.clip.encode_texts(list(dict.fromkeys(texts))).mean(0) for texts in states]
        return F.normalize(torch.stack(means), dim=-1)
