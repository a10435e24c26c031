# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Items and batches with category and data set."""

import numpy as np
import torch
from anomalib.data import NumpyImageBatch, NumpyImageItem
from torchvision.tv_tensors import Image, Mask

from anomalib_genclip.data import CategoryBatch, CategoryItem

ITEMS = [
    CategoryItem(
        image=Image(torch.full((3, 4, 4), number / 2)),
        gt_label=torch.tensor(bool(number)),
        gt_mask=Mask(torch.full((4, 4), bool(number))),
        image_path=f"{number}.png",
        category=category,
        dataset="MVTecAD",
    )
    for number, category in enumerate(("bottle", "cable"))
]


def test_anomalibs_arrays_have_no_names():
    """Its visualizers and inferencers ask for them."""
    batch, item = CategoryBatch.collate(ITEMS).to_numpy(), ITEMS[1].to_numpy()
    assert (type(batch), type(item)) == (NumpyImageBatch, NumpyImageItem)
    np.testing.assert_array_equal(batch.image[1], item.image)
    assert batch.gt_label.tolist() == [False, True]
    assert item.image_path == "1.png"
    assert not hasattr(batch, "category")
