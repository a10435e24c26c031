# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Features in place of images, and never damaged ones."""

from pathlib import Path

import pytest
import torch
from helpers import data_trees
from helpers.damage import cut, flip
from safetensors.torch import save_file

from anomalib_genclip.data import CategoryBatch
from anomalib_genclip.feature_cache.dataset import FeatureBatch, FeatureDataset, images_of, read_features
from anomalib_genclip.utils.tensors import digest

SHAPES = {"patches": (2, 4, 6), "cls": (2, 6), "pooled": (6,), "embedding": (5,)}


def write_features(path: Path) -> dict[str, torch.Tensor]:
    tensors = {name: torch.rand(shape) for name, shape in SHAPES.items()}
    tensors["patches"] = tensors["patches"].half()
    tensors["mask"] = torch.rand(8, 8) > 0.5
    save_file(tensors, path, {"checksum": digest(tensors, {})})
    return tensors


def test_a_batch_gives_what_is_in_the_files_of_its_images(tmp_path):
    """There are no images any more."""
    data = data_trees.mvtec_ad(tmp_path / "data", normal=2, anomalous=2)
    data.setup()
    files = [tmp_path / f"{index}.safetensors" for index in range(len(data.test_data))]
    written = [write_features(file) for file in files]
    for image in (tmp_path / "data").rglob("*.png"):
        image.unlink()
    features = FeatureDataset(data.test_data, list(map(str, files)))
    assert (features.name, features.category) == ("MVTecAD", "bottle")
    batch = features.collate_fn([features[0], features[3]])
    assert isinstance(batch, FeatureBatch)
    assert isinstance(batch, CategoryBatch)
    assert len(batch) == batch.batch_size == 2
    assert batch.image is batch.category is None  # a data set of one category has none
    rows = features.samples.iloc[[0, 3]]
    assert batch.image_path == list(rows.image_path)
    assert batch.gt_label.tolist() == list(rows.label_index)
    assert torch.equal(batch.gt_mask[1], written[3]["mask"])
    tokens = images_of(batch, torch.float64)
    assert len(tokens.patches) == 2  # a tensor per layer
    for layer, patches in enumerate(tokens.patches):
        torch.testing.assert_close(patches[1], written[3]["patches"][layer].double())
        assert patches.is_contiguous()
    for name in ("cls", "pooled", "embedding"):
        torch.testing.assert_close(getattr(tokens, name)[1], written[3][name].double())


@pytest.mark.parametrize("damage", [cut, lambda path: flip(path, -1), Path.unlink])
def test_damaged_tensors_are_refused_by_name(tmp_path, damage):
    path = tmp_path / "a.safetensors"
    write_features(path)
    damage(path)
    with pytest.raises(ValueError, match=rf"{path} of the feature cache is damaged\. Delete it"):
        read_features(path)
