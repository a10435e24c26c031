# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

r"""Write the demonstration CLIP's weights.

From a training checkpoint to the package's file (half precision, without tokens that were never trained)::

    python examples/export_tiny_clip.py --checkpoint runs/tiny/last.pt \
        --out anomalib_genclip/demo/assets/tiny_clip.safetensors

From the package's file to a complete state dict, which plain open_clip loads (and which has OpenAI's layout)::

    python examples/export_tiny_clip.py --out tiny_clip_openclip.safetensors
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional

from anomalib_genclip.demo.tiny_clip import TRAINED_IDS, TRAINED_ROWS, VISION, tiny_state_dict


def scale_embedding(kernel: torch.Tensor, side: int) -> torch.Tensor:
    """Scale a patch embedding ``(d_v, 3, p, p)`` to patches of ``side`` pixels, to see the same in a scaled image."""
    return functional.adaptive_avg_pool2d(kernel, side) * (kernel.shape[-1] / side) ** 2


def compact_state(checkpoints: Sequence[Path]) -> dict[str, torch.Tensor]:
    """Convert checkpoints of one vocabulary, of which the mean is taken, to the tensors of the package's file."""
    models, (ids, *_) = zip(*map(_load, checkpoints), strict=True)
    mean = {key: torch.stack([model[key] for model in models]).mean(0) for key in models[0]}
    mean["visual.conv1.weight"] = scale_embedding(mean["visual.conv1.weight"], VISION["patch_size"])
    state = {key: value.half().contiguous() for key, value in mean.items()}
    state[TRAINED_ROWS] = state.pop("token_embedding.weight")
    state[TRAINED_IDS] = torch.tensor(ids, dtype=torch.int32)
    # Half precision would round the temperature, which is an exponent.
    state["logit_scale"] = mean["logit_scale"]
    return state


def _load(checkpoint: Path) -> tuple[dict[str, torch.Tensor], list[int]]:
    saved = torch.load(checkpoint, weights_only=True)
    return {key: value.float() for key, value in saved["model"].items()}, saved["ids"]


def main() -> None:
    """Parse the command line and write the file atomically."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    help_text = "training checkpoints, the mean of several; without any the package's own weights"
    parser.add_argument("--checkpoint", type=Path, nargs="+", help=help_text)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    state = compact_state(args.checkpoint) if args.checkpoint else tiny_state_dict()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    partial = args.out.with_name(args.out.name + ".partial")
    save_file(state, str(partial))
    partial.replace(args.out)
    print(f"{args.out}: {args.out.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
