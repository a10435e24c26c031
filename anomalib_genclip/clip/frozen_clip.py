# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Frozen CLIP: vision-encoder outputs of several layers, text features of token embeddings."""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .block import run_block


@cache
def clip_tokenizer() -> SimpleTokenizer:
    """Return CLIP's tokenizer, which is the same for all backbones."""
    return SimpleTokenizer()


class ImageTokens(NamedTuple):
    """Vision-encoder outputs for a batch.

    Args:
        patches (tuple[Tensor, ...]): Patch tokens of each feature layer after CLIP's final norm, ``(B, N, d_v)``, in
            row-major order of the patch grid.
        cls (Tensor): CLS tokens ``c^i`` of the feature layers, without norm, ``(B, M, d_v)``.
        pooled (Tensor): CLS token of the last feature layer after CLIP's final norm, ``(B, d_v)``.
        embedding (Tensor): CLIP's own image embedding, ``(B, d)``, unit length.
    """

    patches: tuple[Tensor, ...]
    cls: Tensor
    pooled: Tensor
    embedding: Tensor


class FrozenCLIP(nn.Module):
    """open_clip's unmodified model, which returns tokens of several layers and takes token embeddings as text.

    Args:
        model (CLIP): A model of :func:`anomalib_genclip.clip.backbone.load_clip`. It is frozen.
        layers (Sequence[int]): Feature layers: blocks of the vision tower, counted from 1, ascending.
    """

    def __init__(self, model: CLIP, layers: Sequence[int]) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(requires_grad=False)
        self.layers = tuple(layers)
        self.tokenizer = clip_tokenizer()
        self.grid_size: tuple[int, int] = tuple(model.visual.grid_size)

    def train(self, mode: bool = True) -> "FrozenCLIP":  # noqa: ARG002
        """Stay in evaluation mode, whatever the mode of the parent module."""
        return super().train(mode=False)

    @torch.no_grad()
    def encode_image(self, images: Tensor) -> ImageTokens:
        """Run the vision tower once.

        Args:
            images (Tensor): Normalized images, ``(B, 3, H, W)``, of the size that the model was built for.

        Returns:
            ImageTokens: Tokens of the feature layers and CLIP's image embedding.

        Raises:
            ValueError: If the images have another size.
        """
        visual = self.model.visual
        size, expected = tuple(images.shape[-2:]), tuple(visual.image_size)
        if size != expected:
            msg = (
                f"The images have {size[0]} x {size[1]} pixels, but the model was built for {expected[0]} x "
                f"{expected[1]}: set image_size, or give the pre-processor that size."
            )
            raise ValueError(msg)
        patches = visual.conv1(images).flatten(2).transpose(1, 2)
        cls = visual.class_embedding.to(patches.dtype).expand(patches.shape[0], 1, -1)
        tokens = torch.cat([cls, patches], dim=1)
        tokens = visual.ln_pre(tokens + visual.positional_embedding.to(tokens.dtype))
        tapped = []
        for number, block in enumerate(visual.transformer.resblocks, start=1):
            tokens, _ = run_block(block, tokens)
            if number in self.layers:
                tapped.append(tokens)
        return ImageTokens(
            patches=tuple(visual.ln_post(layer[:, 1:]) for layer in tapped),
            cls=torch.stack([layer[:, 0] for layer in tapped], dim=1),
            pooled=visual.ln_post(tapped[-1][:, 0]),
            embedding=F.normalize(visual.ln_post(tokens[:, 0]) @ visual.proj, dim=-1),
        )

    def encode_prefix(self, embeddings: Tensor) -> Tensor:
        """Run the text tower on the prefixes of prompts.

        The tower is causal: keys and values of the first tokens do not depend on the tokens that follow.

        Args:
            embeddings (Tensor): Token embeddings from [SOS] on, ``(s, P, d_t)``.

        Returns:
            Tensor: Keys and values in each block, ``(blocks, 2, s, heads, P, d_t / heads)``. Gradients reach
                ``embeddings``.
        """
        tokens, mask = self._place(embeddings, 0)
        prefix = []
        for block in self.model.transformer.resblocks:
            tokens, keys_values = run_block(block, tokens, mask)
            prefix.append(keys_values)
        return torch.stack(prefix)

    def encode_prompts(self, embeddings: Tensor, eos: Tensor, prefix: Tensor | None = None) -> Tensor:
        """Run the text tower on prompts given as token embeddings.

        The tower is causal, so tokens after [EOS] have no effect: prompts may be cut after the [EOS] of the longest
        one, and shorter ones padded with anything.

        Args:
            embeddings (Tensor): Token embeddings from [SOS], or from the end of the prefix, to at least [EOS],
                ``(S, L, d_t)``; with the prefix at most the tower's context length.
            eos (Tensor): Position of each prompt's [EOS] in ``embeddings``, ``(S,)``, integers.
            prefix (Tensor | None): From :meth:`encode_prefix`: prompt ``j`` continues prefix ``j mod s``.
                ``None`` if the embeddings begin with [SOS].

        Returns:
            Tensor: Text features, ``(S, d)``, unit length. Gradients reach ``embeddings`` and ``prefix``.
        """
        model = self.model
        tokens, mask = self._place(embeddings, 0 if prefix is None else prefix.shape[-2])
        blocks = model.transformer.resblocks
        for number, block in enumerate(blocks):
            past = None if prefix is None else prefix[number]
            # Only the output at [EOS] is used.
            tokens, _ = run_block(block, tokens, mask, past, only=eos if number == len(blocks) - 1 else None)
        features = model.ln_final(tokens[:, 0])
        projection = model.text_projection
        features = projection(features) if isinstance(projection, nn.Module) else features @ projection
        return F.normalize(features, dim=-1)

    def _place(self, embeddings: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Add the positions from ``start`` on, and cut the causal mask to their rows: ``(L, start + L)``."""
        stop = start + embeddings.shape[1]
        positions = self.model.positional_embedding[start:stop]
        return embeddings + positions.to(embeddings.dtype), self.model.attn_mask[start:stop, :stop]

    def embed(self, token_ids: Sequence[int]) -> Tensor:
        """Look up token embeddings, ``(len(token_ids), d_t)``."""
        weight = self.model.token_embedding.weight
        return weight[torch.tensor(token_ids, dtype=torch.long, device=weight.device)]

    @property
    def sos_id(self) -> int:
        """Token ID of [SOS]."""
        return self.tokenizer.sot_token_id

    @property
    def eos_id(self) -> int:
        """Token ID of [EOS]."""
        return self.tokenizer.eot_token_id

    @torch.no_grad()
    def encode_text(self, text: str) -> Tensor:
        """Encode one prompt given as text.

        Args:
            text (str): The prompt, without special tokens.

        Returns:
            Tensor: Text feature, ``(d,)``, unit length.

        Raises:
            ValueError: If the prompt exceeds the text tower's context length.
        """
        ids = [self.sos_id, *self.tokenizer.encode(text), self.eos_id]
        if len(ids) > self.model.context_length:
            msg = (
                f"The prompt {text[:60]!r}... has {len(ids)} tokens, the text tower takes {self.model.context_length}."
            )
            raise ValueError(msg)
        embeddings = self.embed(ids).unsqueeze(0)
        return self.encode_prompts(embeddings, torch.tensor([len(ids) - 1], device=embeddings.device))[0]
