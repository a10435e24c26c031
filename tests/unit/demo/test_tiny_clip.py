# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The bundled demonstration CLIP: it is a plain open_clip model, small, and tells damaged from perfect."""

import runpy
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.model import CLIP
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score

from anomalib_genclip.clip.backbone import backbone_spec, load_clip
from anomalib_genclip.demo.synthetic import DEFECTS_OF, UNSEEN_BY_TINY, render
from anomalib_genclip.demo.tiny_clip import tiny_config


@pytest.fixture(scope="module")
def model():
    return load_clip(backbone_spec("tiny"), "bundled", (112, 112))


def images_of(category, kinds):
    rng = np.random.default_rng(5)
    images = np.stack([render(category, kind, 112, rng)[0] for kind in kinds])
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
    return (pixels - mean) / std


def test_plain_open_clip_loads_the_export_and_agrees(model, tmp_path, monkeypatch):
    target, script = tmp_path / "full.safetensors", str(Path(__file__).parents[3] / "examples" / "export_tiny_clip.py")
    monkeypatch.setattr(sys, "argv", [script, "--out", str(target)])
    runpy.run_path(script, run_name="__main__")
    plain = CLIP(**tiny_config()).eval()
    plain.load_state_dict(load_file(target))
    images = images_of("gear", [None, "scratch"])
    tokens = open_clip.tokenize(["a photo of a perfect gear", "a photo of a damaged object"])
    with torch.inference_mode():
        torch.testing.assert_close(plain.encode_image(images), model.encode_image(images))
        torch.testing.assert_close(plain.encode_text(tokens), model.encode_text(tokens))


def test_hand_written_prompts_tell_damaged_from_perfect_on_unseen_categories(model):
    tokens, scores = open_clip.tokenize(["a photo of a perfect object", "a photo of a damaged object"]), []
    with torch.inference_mode():
        text = torch.nn.functional.normalize(model.encode_text(tokens), dim=-1)
        for category in UNSEEN_BY_TINY:
            kinds = [None] * 12 + [DEFECTS_OF[category][k % 5] for k in range(12)]
            image = torch.nn.functional.normalize(model.encode_image(images_of(category, kinds)), dim=-1)
            scores.append(roc_auc_score([0] * 12 + [1] * 12, (image @ (text[1] - text[0])).numpy()))
    assert np.mean(scores) > 0.7
