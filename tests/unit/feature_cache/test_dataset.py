# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Features in place of images, and never damaged ones."""

from pathlib import Path

import pytest
import torch
from helpers.damage import cut, flip
from safetensors.torch import save_file

from anomalib_genclip.feature_cache.dataset import read_features
from anomalib_genclip.utils.tensors import digest

SHAPES = {"patches": (2, 4, 6), "cls": (2, 6), "pooled": (6,), "embedding": (5,)}


def write_features(path: Path) -> dict[str, torch.Tensor]:
    tensors = {name: torch.rand(shape) for name, shape in SHAPES.items()}
    tensors["patches"] = tensors["patches"].half()
    tensors["mask"] = torch.rand(8, 8) > 0.5
    save_file(tensors, path, {"checksum": digest(tensors, {})})
    return tensors


@pytest.mark.parametrize("damage", [cut, lambda path: flip(path, -1), Path.unlink])
def test_damaged_tensors_are_refused_by_name(tmp_path, damage):
    path = tmp_path / "a.safetensors"
    write_features(path)
    damage(path)
    with pytest.raises(ValueError, match=rf"{path} of the feature cache is damaged\. Delete it"):
        read_features(path)
