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
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score

from anomalib_genclip.clip.backbone import backbone_spec, load_clip
from anomalib_genclip.demo.synthetic import DEFECTS_OF, UNSEEN_BY_TINY, render
from anomalib_genclip.demo.tiny_clip import TEXT, TINY_CLIP_FILE, TRAINED_IDS, tiny_config, tiny_state_dict

EXPORT = Path(__file__).parents[3] / "examples" / "export_tiny_clip.py"


@pytest.fixture(scope="module")
def model() -> CLIP:
    """The bundled model."""
    return load_clip(backbone_spec("tiny"), None, (112, 112))


def _pictures(category: str, kinds: list[str | None], seed: int = 5) -> torch.Tensor:
    """Render normalised pictures ``(n, 3, 112, 112)``."""
    rng = np.random.default_rng(seed)
    images = np.stack([render(category, kind, 112, rng)[0] for kind in kinds])
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
    return (pixels - mean) / std


def test_file_is_small_and_half_precision() -> None:
    """The package stays small: 16 MB with everything, no rows that were never trained."""
    state = load_file(str(TINY_CLIP_FILE))
    assert TINY_CLIP_FILE.stat().st_size < 15_000_000
    assert {str(value.dtype) for value in state.values() if value.ndim >= 2} == {"torch.float16"}
    assert all(torch.isfinite(value.float()).all() for value in state.values())
    assert len(state[TRAINED_IDS]) < 1000


def test_unknown_tokens_get_the_mean_trained_row() -> None:
    """A token that training never met reads as "some thing"."""
    trained = load_file(str(TINY_CLIP_FILE))[TRAINED_IDS].long()
    weight = tiny_state_dict()["token_embedding.weight"]
    assert weight.shape == (TEXT["vocab_size"], TEXT["width"])
    never = torch.ones(len(weight), dtype=torch.bool)
    never[trained] = False
    torch.testing.assert_close(weight[never], weight[trained].mean(0).expand(int(never.sum()), -1))


def test_plain_open_clip_loads_the_export_and_agrees(
    model: CLIP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The example writes a state dict that open_clip's own class takes, with the same features."""
    target = tmp_path / "full.safetensors"
    monkeypatch.setattr(sys, "argv", [str(EXPORT), "--out", str(target)])
    runpy.run_path(str(EXPORT), run_name="__main__")
    config = tiny_config()
    plain = CLIP(
        config["embed_dim"],
        CLIPVisionCfg(**config["vision_cfg"]),
        CLIPTextCfg(**config["text_cfg"]),
        quick_gelu=config["quick_gelu"],
    ).eval()
    plain.load_state_dict(load_file(str(target)))
    pictures = _pictures("gear", [None, "scratch"])
    tokens = open_clip.tokenize(["a photo of a perfect gear", "a photo of a damaged object"])
    with torch.inference_mode():
        torch.testing.assert_close(plain.encode_image(pictures), model.encode_image(pictures))
        torch.testing.assert_close(plain.encode_text(tokens), model.encode_text(tokens))


def test_text_is_causal_and_77_tokens_long(model: CLIP) -> None:
    """What follows [EOS] cannot change a text feature, as in OpenAI's CLIP."""
    tokens = open_clip.tokenize(["a photo of a damaged brushed metal"])
    assert tokens.shape == (1, TEXT["context_length"])
    longer = tokens.clone()
    longer[0, int(tokens.argmax()) + 1 :] = 320
    with torch.inference_mode():
        torch.testing.assert_close(model.encode_text(tokens), model.encode_text(longer))


def test_hand_written_prompts_tell_damaged_from_perfect_on_unseen_categories(model: CLIP) -> None:
    """Zero-shot image AUROC on categories it never saw is far from chance; random weights are not."""
    tokens = open_clip.tokenize(["a photo of a perfect object", "a photo of a damaged object"])
    scores = []
    with torch.inference_mode():
        text = torch.nn.functional.normalize(model.encode_text(tokens), dim=-1)
        for category in UNSEEN_BY_TINY:
            kinds = [None] * 12 + [DEFECTS_OF[category][k % 5] for k in range(12)]
            image = torch.nn.functional.normalize(model.encode_image(_pictures(category, kinds)), dim=-1)
            margin = (image @ (text[1] - text[0])).numpy()
            scores.append(roc_auc_score([0] * 12 + [1] * 12, margin))
    assert np.mean(scores) > 0.7
