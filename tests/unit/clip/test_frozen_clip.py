# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The frozen towers compute what open_clip does."""

import open_clip
import pytest
import torch
from helpers.models import BACKBONE, attended_by_value
from torch.nn import functional as F  # noqa: N812

from anomalib_genclip.clip.frozen_clip import FrozenCLIP


def test_image_embedding_is_open_clips_own(model, images):
    with torch.no_grad():
        expected = F.normalize(model.clip.model.encode_image(images), dim=-1)
    torch.testing.assert_close(model.clip.encode_image(images).embedding, expected)


def test_texts_cut_after_eos_equal_open_clips_full_context(model):
    """The tower is causal: 77 tokens and the shortest possible prompt give the same feature."""
    texts = ["a photo of a bottle cap", "a photo of an object"]
    with torch.no_grad():
        expected = F.normalize(model.clip.model.encode_text(open_clip.get_tokenizer(BACKBONE)(texts)), dim=-1)
    torch.testing.assert_close(model.clip.encode_texts(texts), expected, atol=1e-6, rtol=1e-5)


def test_untrained_patch_features_are_clips_projection(model, images):
    with torch.no_grad():
        model.clip.model.visual.output_tokens = True
        _, tokens = model.clip.model.visual(images)
        model.clip.model.visual.output_tokens = False
    torch.testing.assert_close(model.clip.encode_image(images).patches[-1], tokens)
    assert all(torch.equal(psi, model.clip.model.visual.proj) for psi in model.projections)


@pytest.mark.parametrize("layers", [[2, 12], [5]], ids=["last block", "earlier block"])
def test_patch_attention_changes_the_patch_features_alone(model, images, layers):
    clip = model.clip.model
    plain, own = (FrozenCLIP(clip, layers, kind).encode_image(images) for kind in ("clip", "value"))
    for name in ("cls", "pooled", "embedding"):
        torch.testing.assert_close(getattr(own, name), getattr(plain, name))
    outputs = _outputs_of_blocks(clip, images)
    for number, patches in zip(layers, own.patches, strict=True):
        expected = attended_by_value(clip.visual.transformer.resblocks[number - 1], outputs[number - 1])
        torch.testing.assert_close(patches, clip.visual.ln_post(expected)[:, 1:], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def _outputs_of_blocks(clip, images):
    outputs, blocks = [images], clip.visual.transformer.resblocks
    hooks = [block.register_forward_hook(lambda _, __, output: outputs.append(output)) for block in blocks]
    clip.encode_image(images)
    for hook in hooks:
        hook.remove()
    return outputs if blocks[0].attn.batch_first else [output.transpose(0, 1) for output in outputs]


def test_images_of_another_size_are_refused(model):
    with pytest.raises(ValueError, match=r"64 x 96 pixels, .* built for 96 x 96"):
        model(torch.randn(1, 3, 64, 96))
