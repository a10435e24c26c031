# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Learnable prompts: normal, abnormal, general query (GQP) and multi-layer vision prompts (MVP)."""

import torch
from torch import Tensor, nn

INIT_STD = 0.02  # ours: the standard deviation of CLIP's own token embeddings
BOTTLENECK = 64  # ours


class VisionPrompt(nn.Module):
    """``φ_i``: maps one layer's CLS token into the space of token embeddings (ours).

    The last matrix is initialized to zero, and with it ``V``: CLS tokens are tens of times larger than CLIP's token
    embeddings and would dominate the prompt. No biases: the query-only prompt would lack a constant part of ``V``.

    The widths are ``d_v`` and ``d_t``, and ``length`` is ``q``, the number of prompt tokens.
    """

    def __init__(self, vision_width: int, text_width: int, length: int) -> None:
        super().__init__()
        self.length = length
        self.norm = nn.LayerNorm(vision_width, elementwise_affine=False)
        self.down = nn.Linear(vision_width, BOTTLENECK, bias=False)
        self.up = nn.Linear(BOTTLENECK, length * text_width, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, cls: Tensor) -> Tensor:
        """Map CLS tokens ``(B, d_v)`` to vision prompts ``(B, q, d_t)``."""
        return self.up(nn.functional.gelu(self.down(self.norm(cls)))).unflatten(-1, (self.length, -1))


class PromptLearner(nn.Module):
    """Learnable tokens, and the composition of prompts.

    The prompts are ``[SOS] N_p (Q_p + V^i) {class} [EOS]`` (normal) and ``[SOS] A_p (Q_p + V^i) damaged {class}
    [EOS]`` (abnormal). Order, addition and the word "damaged" are ours.

    Widths are ``d_v`` and ``d_t``, layers ``M``; ``N_p``, ``A_p``, ``Q_p`` and ``V^i`` have the same length ``n = q``.
    """

    def __init__(self, vision_width: int, text_width: int, num_layers: int, length: int) -> None:
        super().__init__()
        self.normal = nn.Parameter(torch.randn(length, text_width) * INIT_STD)
        self.abnormal = nn.Parameter(torch.randn(length, text_width) * INIT_STD)
        self.query = nn.Parameter(torch.randn(length, text_width) * INIT_STD)
        self.vision = nn.ModuleList(VisionPrompt(vision_width, text_width, length) for _ in range(num_layers))

    def vision_prompts(self, cls: Tensor) -> Tensor:
        """Compute the multi-layer vision prompts ``V`` of CLS tokens: ``(B, M, d_v)`` to ``(B, M, q, d_t)``."""
        return torch.stack([phi(cls[:, i]) for i, phi in enumerate(self.vision)], dim=1)

    def prefix(self, sos: Tensor) -> Tensor:
        """Compose ``[SOS] N_p`` and ``[SOS] A_p``, the same for all images: [SOS] ``(d_t,)`` to ``(2, 1 + n, d_t)``."""
        state = torch.stack([self.normal, self.abnormal])
        return torch.cat([sos.to(state.dtype).expand(2, 1, -1), state], dim=1)

    def forward(self, suffix: Tensor, vision: Tensor | None = None) -> Tensor:
        """Compose what follows the prefixes: ``(Q_p + V^i)`` and the suffix, normal and abnormal in one sequence.

        The suffixes are the tokens after the learnable ones, ``(*, 2, T, d_t)``; vision prompts ``(*, q, d_t)`` are
        ``None`` for the query-only prompt. The result, ``(*, (q + T - 1) + (q + T), d_t)``, has the normal one first,
        without its last suffix token, which is always padding, because the normal suffix has no "damaged".
        """
        query = self.query if vision is None else self.query + vision
        query = query.expand(*suffix.shape[:-3], -1, -1)
        normal, abnormal = suffix.to(query.dtype).unbind(-3)
        return torch.cat([query, normal[..., :-1, :], query, abnormal], dim=-2)
