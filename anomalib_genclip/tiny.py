# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The bundled demonstration CLIP: OpenAI's architecture, a few million parameters, trained on rendered pictures.

It makes every run and every test mean something without a download. It is no replacement for a real CLIP; what it
has seen and how well it does is in ``docs/tiny_clip_model_card.md``.
"""

from pathlib import Path
from typing import Any

import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from safetensors.torch import load_file

TINY_CLIP_FILE = Path(__file__).parent / "assets" / "tiny_clip.safetensors"

EMBED_DIM = 128
VISION = {"image_size": 112, "patch_size": 8, "width": 128, "layers": 8, "head_width": 64}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 2, "layers": 3}

# How the file names the token embeddings that were trained and their places in CLIP's vocabulary.
TRAINED_ROWS, TRAINED_IDS = "token_embedding.trained_rows", "token_embedding.trained_ids"


def tiny_config() -> dict[str, Any]:
    """Return the architecture in the form of open_clip's own model configurations."""
    return {"embed_dim": EMBED_DIM, "quick_gelu": True, "vision_cfg": dict(VISION), "text_cfg": dict(TEXT)}


def build_tiny_clip(vocab_size: int = TEXT["vocab_size"]) -> CLIP:
    """Build the demonstration CLIP with random weights.

    Args:
        vocab_size: Rows of the token embedding; only training uses fewer than CLIP's own.

    Returns:
        The model, float32, in training mode.
    """
    text = TEXT | {"vocab_size": vocab_size}
    return CLIP(
        embed_dim=EMBED_DIM,
        vision_cfg=CLIPVisionCfg(**VISION),
        text_cfg=CLIPTextCfg(**text),
        quick_gelu=True,
    )


def expand_vocabulary(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rebuild the full token embedding from the stored rows.

    Tokens that training never met get the mean trained row: training used that row for made-up names, so that an
    unknown word reads as "some thing".

    Args:
        state: The file's tensors: an open_clip state dict without ``token_embedding.weight``, plus trained rows
            ``(T, d_t)`` and their token numbers ``(T,)``.

    Returns:
        A complete float32 state dict in open_clip's (and OpenAI's) layout.
    """
    rows, ids = state[TRAINED_ROWS].float(), state[TRAINED_IDS].long()
    weight = rows.mean(0).repeat(TEXT["vocab_size"], 1)
    weight[ids] = rows
    full = {key: value.float() for key, value in state.items() if key not in (TRAINED_ROWS, TRAINED_IDS)}
    return full | {"token_embedding.weight": weight}


def tiny_state_dict(path: Path | str = TINY_CLIP_FILE) -> dict[str, torch.Tensor]:
    """Read the bundled weights as a complete float32 state dict in open_clip's (and OpenAI's) layout."""
    return expand_vocabulary(load_file(str(path)))


def load_tiny_clip(path: Path | str = TINY_CLIP_FILE) -> CLIP:
    """Load the bundled demonstration CLIP.

    Args:
        path: Weights file; by default the one inside the package.

    Returns:
        An ``open_clip`` model in float32 and evaluation mode. It takes pictures of 112 x 112 pixels with CLIP's own
        mean and standard deviation, and CLIP's own tokens.

    Example:
        >>> model = load_tiny_clip()
        >>> model.encode_image(torch.zeros(1, 3, 112, 112)).shape
        torch.Size([1, 128])
    """
    model = build_tiny_clip()
    model.load_state_dict(tiny_state_dict(path))
    return model.eval()
