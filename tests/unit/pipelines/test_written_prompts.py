# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Baselines with hand-written prompts."""

import pytest
import torch
from anomalib import LearningType

from anomalib_genclip.components.anomaly_map import TEMPERATURE, abnormal_probability, similarity_logits
from anomalib_genclip.components.references import ReferenceMemory
from anomalib_genclip.pipelines.jobs import build_model


@pytest.mark.parametrize("prompts", ["pair", "ensemble"])
def test_map_compares_patches_with_the_written_states(prompts):
    """Through CLIP's own projection, with the image's class name; the last layer alone."""
    init_args = {"backbone": "tiny", "layers": [8], "prompts": prompts, "class_name_filter": False}
    model = build_model({"class_path": "WrittenPrompts", "init_args": init_args})
    assert model.learning_type == LearningType.ZERO_SHOT
    torch_model, images = model.model.eval(), torch.randn(2, 3, 112, 112)
    with torch.no_grad():
        maps = torch_model.branch_maps(images, torch_model.class_index(["coin", "object"])).maps["written"]
        scores = torch_model(images, torch_model.class_index(["coin", "object"])).pred_score
        tokens, clip = torch_model.clip.encode_image(images), torch_model.clip.model
        patches = tokens.patches[0] @ clip.visual.proj
    if prompts == "pair":
        texts = [f"a photo of a {state} coin" for state in ("perfect", "damaged")]
        text = torch_model.clip.encode_texts(texts)
        expected = abnormal_probability(similarity_logits(patches[:1], text))
        torch.testing.assert_close(maps[0].flatten(), expected[0])
        # The score orders images as CLIP's own comparison with the whole image does.
        torch.testing.assert_close(scores[0], (tokens.embedding[0] @ text.T / TEMPERATURE).softmax(-1)[1])
    assert maps.shape == (2, 1, 14, 14)
    assert not torch.allclose(maps[0], maps[1])


def test_references_have_their_part_in_the_score():
    model = build_model({"class_path": "WrittenPrompts", "init_args": {"backbone": "tiny"}}).model.eval()
    images = torch.randn(2, 3, 112, 112)
    before = model(images).pred_score
    tokens = model.clip.encode_image(images[:1])
    known = (torch.nn.functional.normalize(part, dim=-1) for part in (torch.cat(tokens.patches), tokens.pooled[None]))
    model.references.set({"cap": ReferenceMemory(*known, torch.tensor(0.5), torch.tensor(0.5), ["hash"])})
    assert not torch.allclose(model(images).pred_score, before, atol=1e-3)


def test_class_names_are_mapped_and_weights_refused():
    init_args = {"backbone": "tiny", "class_name": "cable"}
    model = build_model({"class_path": "WrittenPrompts", "init_args": init_args}).model
    assert model.class_names.names[int(model.default_class)] == "cable"
    with pytest.raises(ValueError, match="takes no weights"):
        build_model({"class_path": "WrittenPrompts", "init_args": {"weights": "tiny-demo"}})
