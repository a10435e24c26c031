# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Samples of several data sets as one; through CrossDataset in ``test_cross_dataset.py``."""

from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import NumpyImageBatch, NumpyImageItem
from helpers import data_trees
from helpers.data_trees import cross
from PIL import Image

from anomalib_genclip import GenCLIP
from anomalib_genclip.data import CategoryBatch, CategoryItem


def _rewrite(mask: Path, how: str) -> None:
    pixels = np.asarray(Image.open(mask))
    pictures = {
        "0 and 1": Image.fromarray((pixels > 0).astype(np.uint8)),
        "RGB": Image.fromarray(pixels).convert("RGB"),
        "1 bit": Image.fromarray(pixels > 0),
        "16 bit": Image.fromarray((pixels > 0).astype(np.uint16)),
        "larger": Image.fromarray(pixels.repeat(2, axis=0).repeat(2, axis=1)),
    }
    pictures[how].save(mask)


@pytest.mark.parametrize("how", ["0 and 1", "RGB", "1 bit", "16 bit", "larger"])
def test_masks_of_every_kind_are_the_same_mask(tmp_path, how):
    resize = GenCLIP.configure_pre_processor((64, 64)).transform.transforms[0]

    def masks(folder: Path) -> torch.Tensor:
        data = data_trees.mvtec_ad(folder, normal=1, anomalous=2)
        if folder.name == "other":
            for mask in folder.rglob("*_mask.png"):
                _rewrite(mask, how)
        both = cross(data, data, augmentations=resize)
        both.setup()
        return torch.stack([item.gt_mask for item in both.test_data])

    assert torch.equal(masks(tmp_path / "plain"), masks(tmp_path / "other"))


def test_anomalibs_arrays_have_no_names():
    """Its visualizers and inferencers ask for them."""
    names = {"image_path": "0.png", "category": "nut", "dataset": "screws"}
    items = [CategoryItem(image=torch.rand(3, 4, 4), gt_label=torch.tensor(label), **names) for label in (False, True)]
    batch, item = CategoryBatch.collate(items).to_numpy(), items[1].to_numpy()
    assert (type(batch), type(item)) == (NumpyImageBatch, NumpyImageItem)
    np.testing.assert_array_equal(batch.image[1], item.image)
    assert batch.gt_label.tolist() == [False, True]
    assert not hasattr(batch, "category")
