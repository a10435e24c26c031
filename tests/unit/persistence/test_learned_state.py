# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""What is learned, on its way to checkpoints and prompts files and back."""

import pytest
import torch
from helpers.runs import build, learned

from anomalib_genclip import GenCLIP
from anomalib_genclip.persistence.prompts_file import load_weights


def test_checkpoint_holds_no_clip_and_loads_with_weights_only(trained):
    checkpoint = torch.load(trained.checkpoint, weights_only=True)
    assert not [key for key in checkpoint["state_dict"] if ".clip." in key]
    loaded = GenCLIP.load_from_checkpoint(trained.checkpoint)
    torch.testing.assert_close(learned(loaded), learned(trained.model), rtol=0, atol=0)
    assert loaded.post_processor.raw_thresholds() == trained.model.post_processor.raw_thresholds()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"backbone": "ViT-S-16-alt"}, ["'ViT-S-32-alt'", "'ViT-S-16-alt'"]),
        ({"layers": [6, 12]}, [r"\[3, 6, 9, 12\]", r"\[6, 12\]"]),
        ({"patch_attention": "value"}, ["patch_attention 'clip'", "this model has 'value'"]),
        ({"prompt_length": 2}, ["prompt_length 4", "this model has 2"]),
        ({"backbone": "ViT-S-32-alt-quickgelu"}, ["'ViT-S-32-alt'", "'ViT-S-32-alt-quickgelu'"]),
    ],
)
def test_checkpoint_of_another_model_is_refused_by_name(trained, settings, named):
    checkpoint = torch.load(trained.checkpoint, weights_only=True)
    with pytest.raises(ValueError, match=".*".join(["The checkpoint", *named])):
        build(**settings).on_load_checkpoint(checkpoint)


def test_prompts_know_that_their_clip_had_quickgelu(tmp_path):
    model = build(backbone="ViT-S-32-alt-quickgelu")
    path = model.save_weights(tmp_path / "prompts.safetensors")
    again = GenCLIP(weights=path, visualizer=False)
    assert again.model.fingerprint == model.model.fingerprint
    assert load_weights(path).signature.backbone == again.model.backbone == "ViT-S-32-alt-quickgelu"
