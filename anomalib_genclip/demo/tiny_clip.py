# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The bundled demonstration CLIP: OpenAI's architecture, a few million parameters, trained on rendered images.

With it, runs and tests give meaningful results without a download. It does not replace a real CLIP; training data and
results are in ``docs/tiny_clip_model_card.md``.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

TINY_CLIP_FILE = Path(__file__).parent / "assets" / "tiny_clip.safetensors"

EMBED_DIM = 128
VISION = {"image_size": 112, "patch_size": 8, "width": 128, "layers": 8, "head_width": 64}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 2, "layers": 3}

# Names of the trained token embeddings and of their token IDs in the file.
TRAINED_ROWS, TRAINED_IDS = "token_embedding.trained_rows", "token_embedding.trained_ids"


def tiny_config() -> dict[str, Any]:
    """Return the architecture in the form of open_clip's own model configurations."""
    return {"embed_dim": EMBED_DIM, "quick_gelu": True, "vision_cfg": dict(VISION), "text_cfg": dict(TEXT)}


def expand_vocabulary(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rebuild the token embedding ``(vocabulary, d_t)`` from trained rows ``(T, d_t)`` and token IDs ``(T,)``, if any.

    Tokens not in training get the trained rows' mean, used there for invented names: an unknown word is "some object".
    """
    if TRAINED_ROWS not in state:
        return state
    rows, ids = state[TRAINED_ROWS].float(), state[TRAINED_IDS].long()
    weight = rows.mean(0).repeat(TEXT["vocab_size"], 1)
    weight[ids] = rows
    full = {key: value.float() for key, value in state.items() if key not in (TRAINED_ROWS, TRAINED_IDS)}
    return full | {"token_embedding.weight": weight}


def tiny_state_dict() -> dict[str, torch.Tensor]:
    """Read the bundled weights as a complete float32 state dict in open_clip's (and OpenAI's) layout."""
    return expand_vocabulary(load_file(TINY_CLIP_FILE))
