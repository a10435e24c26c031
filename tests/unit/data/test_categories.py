# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Categories of a datamodule; through CrossDataset in ``test_cross_dataset.py``."""

import pytest
from helpers import data_trees

from anomalib_genclip.data.categories import (
    category_of,
    check_categories,
    expand_each,
    full_name,
    known_categories,
)


def test_a_datamodule_without_categories_is_one_of_its_own_name(tmp_path):
    screws, bottle = data_trees.folder(tmp_path / "folder"), data_trees.mvtec_ad(tmp_path / "mvtec")
    assert (category_of(screws), category_of(bottle)) == ("screws", "bottle")
    assert known_categories(screws) == ("screws",)
    assert {"bottle", "zipper"} <= set(known_categories(bottle))
    assert full_name(screws) == f"screws (root {tmp_path / 'folder'})"
    assert full_name(bottle) == f"MVTecAD category 'bottle' (root {tmp_path / 'mvtec'})"


@pytest.mark.parametrize("value", [5, True, [1], [None], [""], {"a": 1}, "bottle"])
def test_categories_are_a_list_of_names(value):
    assert check_categories(("bottle", "cable"), "target_categories") == ["bottle", "cable"]
    hint = r".* Write \['bottle'\]\." if value == "bottle" else ""
    with pytest.raises(TypeError, match=f"^target_categories must be a list of category names{hint}"):
        check_categories(value, "target_categories")


@pytest.mark.parametrize("name", ["../elsewhere", "..", "/etc", "bottle/../../elsewhere", "bottle/."])
def test_category_is_a_folder_of_its_data_set(tmp_path, name):
    data_trees.mvtec_ad(tmp_path / "elsewhere" / "x")
    data = data_trees.mvtec_ad(tmp_path / "mvtec")
    with pytest.raises(ValueError, match=r"target_categories.*not found"):
        expand_each([data], [name], "target_categories")
