# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""A model tested on a datamodule."""

import pytest
from helpers import data_trees
from helpers.comparisons import LOADING

from anomalib_genclip.pipelines.measure import build_target, keep_normal_images


def test_target_is_tested_whole(tmp_path):
    # By default a Folder moves half of its test images to validation.
    data_trees.folder(tmp_path / "screws", normal=4, anomalous=4)
    folders = {"normal_dir": "good", "normal_test_dir": "good_test", "abnormal_dir": "bad", "mask_dir": "mask"}
    init_args = {"name": "screws", "root": str(tmp_path / "screws"), **folders, **LOADING}
    target = build_target({"class_path": "Folder", "init_args": init_args}, None, seed=0)
    target.setup()
    assert len(target.test_data) == 8


def test_training_set_is_reduced_to_images_that_depend_on_the_seed_alone(tmp_path):
    def kept(seed: int, k_shot: int = 3) -> list[str]:
        data = data_trees.mvtec_ad(tmp_path / "data", normal=12)
        keep_normal_images(data, k_shot, seed)
        data.setup("fit")
        assert len(data.train_data) == k_shot
        assert len(data.test_data) == 16  # all of them
        return sorted(data.train_data.samples.image_path)

    assert kept(0) == kept(0) != kept(1)
    assert set(kept(0)) <= set(kept(0, k_shot=5))
    with pytest.raises(ValueError, match="k_shot=13, but there are only 12 training images"):
        kept(0, k_shot=13)
