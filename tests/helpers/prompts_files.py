# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Prompts files that say something else, with a hash that fits."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from anomalib_genclip.utils.tensors import digest


def rewritten(
    source: Path,
    target: Path,
    tensors: Callable[[dict[str, Tensor]], Any] = lambda _: None,
    description: Callable[[dict[str, Any]], Any] = lambda description: description,
) -> Path:
    """Copy a prompts file with other contents."""
    with safe_open(source, "pt") as file:
        metadata = json.loads(file.metadata()["genclip"])
    metadata.pop("digest")
    content = load_file(source)
    tensors(content)
    metadata = description(metadata)
    if isinstance(metadata, dict):
        metadata["digest"] = digest(content, metadata)
    save_file(content, target, {"genclip": json.dumps(metadata)})
    return target
