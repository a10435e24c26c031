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
from torchvision.transforms.v2 import Compose, RandomVerticalFlip, Resize

from anomalib_genclip import GenCLIP
from anomalib_genclip.data import CategoryBatch, CategoryItem
from anomalib_genclip.data.category_dataset import CategoryDataset
from anomalib_genclip.utils.tensors import IGNORED


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


@pytest.mark.parametrize("make", [data_trees.mvtec_ad, data_trees.folder])
def test_ignored_pixels_of_a_source_travel_in_its_masks(tmp_path, monkeypatch, make):
    """Through augmentations and batches; what the mask says below them changes nothing."""
    monkeypatch.chdir(tmp_path)
    source, target = make(Path("data"), normal=3, anomalous=3), data_trees.mvtec_ad(tmp_path / "target")
    flipped = Compose([RandomVerticalFlip(1), Resize((64, 64))])

    def train_data() -> CategoryDataset:
        both = cross(source, target, augmentations=flipped)
        both.setup()
        assert all(item.gt_mask.dtype == torch.bool for item in [*both.val_data, *both.test_data])
        return both.train_data

    plain = train_data()
    (first, *_) = plain.samples.index[plain.samples.label_index == 1]
    image, mask = map(Path, plain.samples.loc[first, ["image_path", "mask_path"]])
    file = Path("data/ignore") / image.relative_to(Path("data").absolute()).with_suffix(".png")
    file.parent.mkdir(parents=True)
    top = np.zeros((32, 32), np.uint8)
    top[:16] = 255
    Image.fromarray(top).save(file)
    for _ in range(2):
        marked = train_data()
        masks = marked.collate_fn([*marked]).gt_mask
        assert masks.dtype == torch.uint8
        assert (masks[first, 32:] == IGNORED).all()
        for row, item in enumerate(plain):
            kept = slice(32 if row == first else 64)
            assert torch.equal(masks[row, kept].bool(), item.gt_mask[kept])
        Image.fromarray(np.maximum(np.asarray(Image.open(mask)), top)).save(mask)  # wrong, but ignored
    Image.fromarray(top[:20]).save(file)
    with pytest.raises(ValueError, match=rf"mask .*ignore.*{file.name} \(32 x 20 pixels\) does not have the shape of"):
        train_data()


def test_anomalibs_arrays_have_no_names():
    """Its visualizers and inferencers ask for them."""
    names = {"image_path": "0.png", "category": "nut", "dataset": "screws"}
    items = [CategoryItem(image=torch.rand(3, 4, 4), gt_label=torch.tensor(label), **names) for label in (False, True)]
    batch, item = CategoryBatch.collate(items).to_numpy(), items[1].to_numpy()
    assert (type(batch), type(item)) == (NumpyImageBatch, NumpyImageItem)
    np.testing.assert_array_equal(batch.image[1], item.image)
    assert batch.gt_label.tolist() == [False, True]
    assert not hasattr(batch, "category")
