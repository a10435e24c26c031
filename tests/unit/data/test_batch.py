# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Items and batches with category and data set."""

import numpy as np
import pytest
import torch
from anomalib.data import NumpyImageBatch, NumpyImageItem
from torchvision.tv_tensors import Image, Mask

from anomalib_genclip.data import CategoryBatch, CategoryItem


@pytest.fixture
def items() -> list[CategoryItem]:
    """Images of two categories."""
    return [
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


def test_names_stay_with_their_images(items):
    batch = CategoryBatch.collate(items)
    assert (batch.category, batch.dataset) == (["bottle", "cable"], ["MVTecAD", "MVTecAD"])
    for item, back in zip(items, batch, strict=True):
        assert isinstance(back, CategoryItem)
        assert (back.category, back.dataset, back.image_path) == (item.category, item.dataset, item.image_path)
        assert torch.equal(back.image, item.image)


def test_names_survive_the_results_of_a_model(items):
    batch = CategoryBatch.collate(items).update(pred_score=torch.tensor([0.1, 0.9]))
    assert batch.category == ["bottle", "cable"]
    assert batch.items[1].pred_score == torch.tensor(0.9)


def test_anomalibs_arrays_have_no_names(items):
    """Its visualizers and inferencers ask for them."""
    batch, item = CategoryBatch.collate(items).to_numpy(), items[1].to_numpy()
    assert type(batch) is NumpyImageBatch
    assert type(item) is NumpyImageItem
    np.testing.assert_array_equal(batch.image[1], item.image)
    assert batch.gt_label.tolist() == [False, True]
    assert item.image_path == "1.png"
    assert not hasattr(batch, "category")


def test_names_may_be_left_out():
    batch = CategoryBatch(image=torch.zeros(2, 3, 4, 4))
    assert (batch.category, batch.dataset) == (None, None)
