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
    block: nn.Module,
    tokens: Tensor,
    mask: Tensor | None = None,
    past: Tensor | None = None,
    only: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute the same as open_clip's block, batch-first for every version of open_clip.

    Args:
        block (nn.Module): open_clip's ``ResidualAttentionBlock``.
        tokens (Tensor): ``(S, L, width)``.
        mask (Tensor | None): Added to the attention logits, ``(L, P + L)``.
        past (Tensor | None): Keys and values of P earlier tokens, ``(2, s, heads, P, width / heads)``: sequence ``j``
            continues ``j mod s``.
        only (Tensor | None): Position of the only token of each sequence to compute, ``(S,)``; needs ``mask``.

    Returns:
        tuple[Tensor, Tensor]: Outputs ``(S, L, width)``, or ``(S, 1, width)`` with ``only``; keys and values of
            these tokens ``(2, S, heads, L, width / heads)``.
    """
    attention = block.attn
    projected = F.linear(block.ln_1(tokens), attention.in_proj_weight, attention.in_proj_bias)
    projected = projected.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    query, own = projected[0], projected[1:]
    keys, values = own if past is None else _append(past, own)
    if mask is not None and only is not None:
        index = only.view(-1, 1, 1)
        tokens = tokens.gather(1, index.expand(-1, 1, tokens.shape[-1]))
        query = query.gather(2, index.unsqueeze(1).expand(-1, query.shape[1], 1, query.shape[-1]))
        mask = mask[only].unflatten(0, (-1, 1, 1))
    mask = None if mask is None else mask.to(query.dtype)
    attended = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
    tokens = tokens + block.ls_1(attention.out_proj(attended.transpose(1, 2).flatten(2)))
    return tokens + block.ls_2(block.mlp(block.ln_2(tokens))), own


def _append(past: Tensor, own: Tensor) -> Tensor:
    """Append keys and values to those of earlier tokens: ``(2, S, heads, P + L, width / heads)``."""
    turns = own.unflatten(1, (-1, past.shape[1]))
    past = past.to(own.dtype).unsqueeze(1).expand(-1, turns.shape[1], -1, -1, -1, -1)
    return torch.cat([past, turns], dim=-2).flatten(1, 2)
