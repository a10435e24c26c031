# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""A model tested on a datamodule."""

from helpers import data_trees
from helpers.comparisons import LOADING

from anomalib_genclip.pipelines.measure import build_target


def test_target_is_tested_whole(tmp_path):
    # By default a Folder moves half of its test images to validation.
    data_trees.folder(tmp_path / "screws", normal=4, anomalous=4)
    folders = {"normal_dir": "good", "normal_test_dir": "good_test", "abnormal_dir": "bad", "mask_dir": "mask"}
    init_args = {"name": "screws", "root": str(tmp_path / "screws"), **folders, **LOADING}
    target = build_target({"class_path": "Folder", "init_args": init_args}, None, seed=0)
    target.setup()
    assert len(target.test_data) == 8
