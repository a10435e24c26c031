# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Where trained weights are: a file, the bundled prompts, or the Hugging Face Hub."""

from importlib.resources import files
from pathlib import Path

from anomalib_genclip.utils.files import is_file

from .hub import SCHEME, download_prompts

BUNDLED_PROMPTS = {"tiny-demo": "demo/assets/tiny_demo.safetensors"}


def resolve_weights(weights: str | Path) -> Path:
    """Find the file of trained weights; ``FileNotFoundError`` or ``ConnectionError`` if there is none to be had."""
    if weights in BUNDLED_PROMPTS:
        return Path(str(files("anomalib_genclip") / BUNDLED_PROMPTS[str(weights)]))
    path = download_prompts(weights) if isinstance(weights, str) and weights.startswith(SCHEME) else Path(weights)
    if not is_file(path):
        msg = f"There are no weights {weights}. Give a file, or one of the bundled: {', '.join(BUNDLED_PROMPTS)}."
        raise FileNotFoundError(msg)
    return path


def files_of(path: Path) -> list[Path]:
    """List the files of a model: the one that is given and, for exported models, its tensors beside it."""
    others = {".onnx": [Path(f"{path}.data")], ".xml": [path.with_suffix(".bin")]}.get(path.suffix, [])
    return [path, *(other for other in others if other.is_file())]
