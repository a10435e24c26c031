# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""One transformer block against open_clip's own, in the layouts of its versions."""

import inspect

import pytest
import torch
from helpers.models import attended_by_value
from open_clip.transformer import QuickGELU, ResidualAttentionBlock

from anomalib_genclip.clip.frozen_clip import attend_by_value, run_block

WIDTH, HEADS, LENGTH = 32, 4, 7
MASK = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()


@pytest.fixture(params=[True, False], ids=["batch_first", "sequence_first"])
def block(request):
    torch.manual_seed(0)
    result = ResidualAttentionBlock(WIDTH, HEADS, ls_init_value=0.3, act_layer=QuickGELU).eval()
    if request.param != result.attn.batch_first:
        if "batch_first" not in inspect.signature(ResidualAttentionBlock).parameters:
            pytest.skip("this open_clip knows one layout only")
        other = ResidualAttentionBlock(WIDTH, HEADS, ls_init_value=0.3, act_layer=QuickGELU, batch_first=request.param)
        other.load_state_dict(result.state_dict())
        result = other.eval()
    for parameter in result.parameters():  # biases and layer scales start at values that would hide mistakes
        torch.nn.init.normal_(parameter, std=0.3)
    return result


def _open_clip(block, tokens, mask=None):
    mask = None if mask is None else torch.zeros(mask.shape).masked_fill(~mask, float("-inf"))
    if block.attn.batch_first:
        return block(tokens, attn_mask=mask)
    return block(tokens.transpose(0, 1), attn_mask=mask).transpose(0, 1)


@pytest.mark.parametrize("mask", [None, MASK], ids=["unmasked", "causal"])
def test_block_gives_what_open_clips_gives(block, mask):
    tokens = torch.randn(3, LENGTH, WIDTH)
    torch.testing.assert_close(run_block(block, tokens, mask)[0], _open_clip(block, tokens, mask), atol=1e-5, rtol=1e-5)


def test_patches_attend_by_value_as_open_clips_attention_does_with_values_for_all(block):
    tokens = torch.randn(3, LENGTH, WIDTH)
    expected = attended_by_value(block, tokens)[:, 1:]
    _, (_, values) = run_block(block, tokens)
    torch.testing.assert_close(attend_by_value(block, values), expected, atol=1e-5, rtol=1e-5)
