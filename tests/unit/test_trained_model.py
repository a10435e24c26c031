# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Loading a trained model from whichever file it was saved to."""

import shutil
from importlib.resources import files

import pytest
import torch

from anomalib_genclip import GenCLIP, cli
from anomalib_genclip.trained_model import load_trained


def test_clip_weights_that_have_been_moved_are_asked_for_and_can_be_given(tmp_path, capsys):
    clip, moved = tmp_path / "clip.safetensors", tmp_path / "elsewhere.safetensors"
    shutil.copy(str(files("anomalib_genclip") / "demo/assets/tiny_clip.safetensors"), clip)
    model = GenCLIP(backbone="tiny", pretrained=str(clip))
    prompts = str(model.save_weights(tmp_path / "prompts.safetensors"))
    clip.rename(moved)
    message = r"prompts\.safetensors was trained with other CLIP weights, which must be given as pretrained: .*clip\."
    with pytest.raises(ValueError, match=message):
        load_trained(prompts)
    loaded = load_trained(prompts, pretrained=str(moved))
    torch.testing.assert_close(loaded.model.prompts.query, model.model.prompts.query)
    arguments = ["--weights", prompts, "--image", str(tmp_path / "none.png")]
    assert cli.main(["explain", *arguments]) == 2
    assert "given as pretrained" in capsys.readouterr().err
    assert cli.main(["explain", *arguments, "--pretrained", str(moved)]) == 2  # there is no such image
    assert "none.png" in capsys.readouterr().err
