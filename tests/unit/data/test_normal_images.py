# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Normal images of folders and datamodules; drawn as references in ``callbacks/test_reference_images.py``."""

from pathlib import Path

import torch
from helpers import data_trees
from torchvision.transforms.v2 import Resize

from anomalib_genclip.data.normal_images import images_of_datamodule


def test_a_datamodule_gives_its_normal_training_images_as_they_are_on_disk(tmp_path):
    data = data_trees.mvtec_ad(tmp_path, normal=3, anomalous=2)
    data.setup()
    data.train_data.augmentations = Resize((8, 8))
    data.train_data.samples.loc[1, "label_index"] = 1
    ((category, images),) = images_of_datamodule(data)
    assert category == "bottle"
    assert [Path(file).name for file in images.files] == ["000.png", "002.png"]
    data.train_data.augmentations = None
    assert torch.equal(images.read(1), data.train_data[2].image)
