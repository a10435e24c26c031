# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The frozen towers compute what open_clip does."""

import open_clip
import pytest
import torch
from helpers.models import BACKBONE, SIZE, torch_model
from torch.nn import functional as F  # noqa: N812


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


def test_layers_are_counted_from_one_and_read_in_order():
    model = torch_model(BACKBONE, pretrained=None, image_size=SIZE, layers=[5, 2])
    outputs = {}
    for number, block in enumerate(model.clip.model.visual.transformer.resblocks, start=1):
        block.register_forward_hook(lambda _, __, output, number=number: outputs.update({number: output}))
    image = torch.randn(1, 3, SIZE, SIZE)
    with torch.no_grad():
        model.clip.model.encode_image(image)
    tokens = model.clip.encode_image(image)
    batch_first = model.clip.model.visual.transformer.resblocks[0].attn.batch_first
    expected = [outputs[n][:, 0] if batch_first else outputs[n][0] for n in (2, 5)]
    assert model.layers == [2, 5]
    torch.testing.assert_close(tokens.cls, torch.stack(expected, dim=1))


def test_images_of_another_size_are_refused(model):
    with pytest.raises(ValueError, match=r"64 x 96 pixels, .* built for 96 x 96"):
        model(torch.randn(1, 3, 64, 96))
