# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Frozen CLIP: vision-encoder outputs of several layers, text features of token embeddings."""

from collections.abc import Sequence
from functools import cache
from typing import Literal, NamedTuple

import torch
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

PatchAttention = Literal["clip", "value"]


@cache
def clip_tokenizer() -> SimpleTokenizer:
    """Return CLIP's tokenizer, which is the same for all backbones."""
    return SimpleTokenizer()


class ImageTokens(NamedTuple):
    """Vision-encoder outputs for a batch."""

    patches: tuple[Tensor, ...]  # of each feature layer after CLIP's final norm, (B, N, d_v), row by row of the grid
    cls: Tensor  # CLS tokens c^i of the feature layers, without norm, (B, M, d_v)
    pooled: Tensor  # CLS token of the last feature layer after CLIP's final norm, (B, d_v)
    embedding: Tensor  # CLIP's own image embedding, (B, d), unit length


class FrozenCLIP(nn.Module):
    """open_clip's unmodified model, which returns tokens of several layers and takes token embeddings as text.

    Feature layers are blocks of the vision tower, counted from 1, ascending. Their patch tokens are the blocks' outputs
    ("clip") or those of :func:`attend_by_value` ("value"); CLS tokens and image embedding are the same.
    """

    def __init__(self, model: CLIP, layers: Sequence[int], patch_attention: str = "clip") -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(requires_grad=False)
        self.layers = tuple(layers)
        self.tokenizer = clip_tokenizer()
        self.sos_id, self.eos_id = self.tokenizer.sot_token_id, self.tokenizer.eot_token_id
        self.grid_size: tuple[int, int] = tuple(model.visual.grid_size)
        self.patch_attention = patch_attention

    def train(self, mode: bool = True) -> "FrozenCLIP":  # noqa: ARG002
        """Stay in evaluation mode, whatever the mode of the parent module."""
        return super().train(mode=False)

    @torch.no_grad()
    def encode_image(self, images: Tensor) -> ImageTokens:
        """Run the vision tower once on normalized images ``(B, 3, H, W)`` of the size that the model was built for."""
        visual = self.model.visual
        size, expected = tuple(images.shape[-2:]), tuple(visual.image_size)
        if size != expected:
            what = f"{size[0]} x {size[1]} pixels, but the model was built for {expected[0]} x {expected[1]}"
            msg = f"The images have {what}: set image_size, or give the pre-processor that size."
            raise ValueError(msg)
        # Autocast rounds the products, but the sum that runs through the blocks stays in the weights' precision.
        patches = visual.conv1(images).flatten(2).transpose(1, 2).to(visual.class_embedding.dtype)
        cls = visual.class_embedding.expand(patches.shape[0], 1, -1)
        tokens = visual.ln_pre(torch.cat([cls, patches], dim=1) + visual.positional_embedding)
        cls_tokens, patch_tokens = [], []
        blocks, by_value = visual.transformer.resblocks, self.patch_attention == "value"
        for number, block in enumerate(blocks, start=1):
            cls_only = by_value and number == len(blocks)  # of its output only the CLS token is used
            only = torch.zeros(tokens.shape[0], 1, dtype=torch.long, device=tokens.device) if cls_only else None
            tokens, past = run_block(block, tokens, only=only)
            if number in self.layers:
                cls_tokens.append(tokens[:, 0])
                patch_tokens.append(attend_by_value(block, past[1]).to(tokens.dtype) if by_value else tokens[:, 1:])
        # Decides on class names, by differences that are smaller than what autocast rounds.
        with torch.autocast(images.device.type, enabled=False):
            embedding = F.normalize(visual.ln_post(tokens[:, 0]) @ visual.proj, dim=-1)
        patches = tuple(visual.ln_post(layer) for layer in patch_tokens)
        return ImageTokens(patches, torch.stack(cls_tokens, dim=1), visual.ln_post(cls_tokens[-1]), embedding)

    def encode_prefix(self, embeddings: Tensor) -> Tensor:
        """Compute keys and values of prefixes ``(K, P, d_t)``: ``(blocks, 2, 1, heads, K * P, d_t / heads)``."""
        places = self._places([embeddings.shape[1]] * embeddings.shape[0], 0)
        tokens = self._add_positions(embeddings.flatten(0, 1).unsqueeze(0), places)
        mask = _causal_mask(places, places)
        prefix = []
        for block in self.model.transformer.resblocks:
            tokens, keys_values = run_block(block, tokens, mask)
            prefix.append(keys_values)
        return torch.stack(prefix)

    def encode_prompts(
        self, embeddings: Tensor, lengths: Sequence[int], eos: Tensor, prefix: Tensor | None = None
    ) -> Tensor:
        """Run the text tower on token embeddings of prompts; text features ``(S, K, d)``, unit length, with gradients.

        A sequence may hold several prompts one after the other, which do not see each other. Shorter prompts may be
        padded with anything after [EOS], because the tower is causal.

        Args:
            embeddings (Tensor): Token embeddings of K prompts from [SOS], or from their prefixes on, ``(S, L, d_t)``.
            lengths (Sequence[int]): Their K lengths, whose sum is L; with its prefix each fits into the context.
            eos (Tensor): Positions of their [EOS] in ``embeddings``, ``(S, K)``, integers.
            prefix (Tensor | None): From :meth:`encode_prefix`. ``None`` if the embeddings begin with [SOS].
        """
        model = self.model
        start = 0 if prefix is None else prefix.shape[-2] // len(lengths)
        places = self._places(lengths, start)
        mask = _causal_mask(places, torch.cat([self._places([start] * len(lengths), 0), places], dim=1))
        tokens = self._add_positions(embeddings, places)
        blocks = model.transformer.resblocks
        for number, block in enumerate(blocks):
            past = None if prefix is None else prefix[number]
            tokens, _ = run_block(block, tokens, mask, past, only=eos if number == len(blocks) - 1 else None)
        features, projection = model.ln_final(tokens), model.text_projection
        features = projection(features) if isinstance(projection, nn.Module) else features @ projection
        return F.normalize(features, dim=-1)

    def _places(self, lengths: Sequence[int], start: int) -> Tensor:
        """Return for each token of a sequence its prompt and its position in it, from ``start`` on: ``(2, L)``."""
        device = self.model.positional_embedding.device
        positions = [torch.arange(start, start + length, device=device) for length in lengths]
        prompts = [torch.full_like(position, number) for number, position in enumerate(positions)]
        return torch.stack([torch.cat(prompts), torch.cat(positions)])

    def _add_positions(self, embeddings: Tensor, places: Tensor) -> Tensor:
        return embeddings + self.model.positional_embedding[places[1]].to(embeddings.dtype)

    def embed(self, token_ids: Sequence[int]) -> Tensor:
        """Look up token embeddings, ``(len(token_ids), d_t)``."""
        weight = self.model.token_embedding.weight
        return weight[torch.tensor(token_ids, dtype=torch.long, device=weight.device)]

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Encode prompts given as text without special tokens, in one pass: ``(len(texts), d)``, unit length."""
        prompts = [[self.sos_id, *self.tokenizer.encode(text), self.eos_id] for text in texts]
        for text, ids in zip(texts, prompts, strict=True):
            if len(ids) > (most := self.model.context_length):
                msg = f"The prompt {text[:60]!r}... has {len(ids)} tokens, the text tower takes {most}."
                raise ValueError(msg)
        embeddings = nn.utils.rnn.pad_sequence([self.embed(ids) for ids in prompts], batch_first=True)
        eos = torch.tensor([[len(ids) - 1] for ids in prompts], device=embeddings.device)
        return self.encode_prompts(embeddings, [embeddings.shape[1]], eos)[:, 0]


def _causal_mask(queries: Tensor, keys: Tensor) -> Tensor:
    """Return which keys each query attends to: those of the same prompt up to its own position, bool."""
    return (queries[0].unsqueeze(1) == keys[0]) & (queries[1].unsqueeze(1) >= keys[1])


def run_block(
    block: nn.Module, tokens: Tensor, mask: Tensor | None = None, past: Tensor | None = None, only: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute the same as open_clip's block, batch-first for every version of open_clip.

    Its modules are called one by one: it takes no earlier keys and values, and its own fast path is slow.

    Args:
        block (nn.Module): open_clip's ``ResidualAttentionBlock``.
        tokens (Tensor): ``(S, L, width)``.
        mask (Tensor | None): Which of the P + L tokens each of these attends to, ``(L, P + L)``, bool.
        past (Tensor | None): Keys and values of P earlier tokens of all sequences, ``(2, 1, heads, P, width / heads)``.
        only (Tensor | None): Positions of the only K tokens of each sequence to compute, ``(S, K)``.

    Returns:
        tuple[Tensor, Tensor]: Outputs ``(S, L or K, width)``; keys and values ``(2, S, heads, L, width / heads)``.
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
    """Compute patch tokens ``(B, N, width)`` by AnomalyCLIP's value-value attention, without residual and MLP (ours).

    ``values`` are those of :func:`run_block`, CLS token first, ``(B, heads, 1 + N, width / heads)``.
    """
    attended = F.scaled_dot_product_attention(values[:, :, 1:], values, values)
    return block.ls_1(block.attn.out_proj(attended.transpose(1, 2).flatten(2)))
