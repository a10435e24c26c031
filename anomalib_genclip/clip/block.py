# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""One transformer block of CLIP, with keys and values of earlier tokens as input.

Modules and weights are open_clip's. They are called one by one for two reasons: open_clip's block does not accept keys
and values, and the fast path of ``nn.MultiheadAttention`` inside it is slow for many patches.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


def run_block(
    block: nn.Module, tokens: Tensor, mask: Tensor | None = None, past: Tensor | None = None, only: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute the same as open_clip's block, batch-first for every version of open_clip.

    Args:
        block (nn.Module): open_clip's ``ResidualAttentionBlock``.
        tokens (Tensor): ``(S, L, width)``.
        mask (Tensor | None): Which of the P + L tokens each of these attends to, ``(L, P + L)``, bool.
        past (Tensor | None): Keys and values of P earlier tokens of all sequences, ``(2, 1, heads, P, width / heads)``.
        only (Tensor | None): Positions of the only K tokens of each sequence to compute, ``(S, K)``.

    Returns:
        tuple[Tensor, Tensor]: Outputs ``(S, L, width)``, or ``(S, K, width)`` with ``only``; keys and values of
            all L tokens ``(2, S, heads, L, width / heads)``.
    """
    attention = block.attn
    projected = F.linear(block.ln_1(tokens), attention.in_proj_weight, attention.in_proj_bias)
    projected = projected.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    query, own = projected[0], projected[1:]
    everything = own
    if past is not None:
        everything = torch.cat([past.to(own.dtype).expand(-1, own.shape[1], -1, -1, -1), own], dim=-2)
    if only is not None:
        tokens = tokens.gather(1, only.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))
        query = query.gather(2, only[:, None, :, None].expand(-1, query.shape[1], -1, query.shape[-1]))
        mask = None if mask is None else mask[only].unsqueeze(1)
    attended = F.scaled_dot_product_attention(query, everything[0], everything[1], attn_mask=mask)
    tokens = tokens + block.ls_1(attention.out_proj(attended.transpose(1, 2).flatten(2)))
    return tokens + block.ls_2(block.mlp(block.ln_2(tokens))), own


def attend_by_value(block: nn.Module, values: Tensor) -> Tensor:
    """Compute patch tokens ``(B, N, width)`` that attend by the similarity of their values, not of queries and keys.

    After AnomalyCLIP's value-value attention; without residual and MLP (ours). ``values`` are those of
    :func:`run_block`, CLS token first, ``(B, heads, 1 + N, width / heads)``.
    """
    attended = F.scaled_dot_product_attention(values[:, :, 1:], values, values)
    return block.ls_1(block.attn.out_proj(attended.transpose(1, 2).flatten(2)))
