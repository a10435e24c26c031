# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""A model tested on a datamodule."""

import pytest
import torch
from helpers import data_trees
from helpers.comparisons import GENCLIP, LOADING, PATCHCORE, mvtec, rows_of

from anomalib_genclip.evaluation import METRIC_NAMES
from anomalib_genclip.pipelines import jobs
from anomalib_genclip.pipelines.jobs import build_model, build_target, keep_normal_images
from anomalib_genclip.utils.files import file_hash


def settings(root, model: dict, protocol: str, **others) -> dict:
    fixed = {"category": "wood", "accelerator": "cpu", "seed": 1, "k_shot": 0, "trainer": {}, "checkpoint": None}
    return {"model": model, "protocol": protocol, "target": mvtec(root), **fixed, **others}


def test_same_seed_gives_the_same_figures_even_for_random_weights(compared, comparison_data):
    torch.rand(7)
    again = jobs.test_model(settings(comparison_data / "target", PATCHCORE, "one_class"))
    row = rows_of(compared.tables, "PatchCore")[1]
    assert {name: again[name] for name in METRIC_NAMES} == {name: row[name] for name in METRIC_NAMES}


def test_references_are_the_images_that_are_drawn(comparison_data):
    model = build_model(GENCLIP, k_shot=2)
    target = build_target(mvtec(comparison_data / "target"), "wood", seed=1)
    keep_normal_images(target, 2, seed=1)
    result = jobs.measure(model, target, 1, "cpu")
    (references,) = model.model.references.memories
    assert set(references.images) == {file_hash(file) for file in target.train_data.samples.image_path}
    assert result["images"] == 8


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
    with pytest.raises(ValueError, match="k_shot=13, but the number of training images is 12"):
        kept(0, k_shot=13)
