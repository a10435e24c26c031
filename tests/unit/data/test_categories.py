# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Categories of a datamodule; through CrossDataset in ``test_cross_dataset.py``."""

import pytest
from helpers import data_trees

from anomalib_genclip.data.categories import (
    categories_on_disk,
    category_of,
    check_categories,
    expand_each,
    folders_on_disk,
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


def test_categories_on_disk_have_a_file_in_one_of_two_places(tmp_path):
    data = data_trees.mvtec_ad(tmp_path, ("bottle",))
    (tmp_path / "cable").mkdir()  # empty
    data_trees.write_normal(tmp_path / "1cls" / "tile" / "train" / "good" / "0.png")  # as in VisA's split tree
    assert categories_on_disk(data, ["tile", "cable", "wood", "bottle"]) == ["tile", "bottle"]
    assert folders_on_disk(data) == ["1cls", "bottle", "cable"]


def test_expanding_leaves_the_datamodules_alone(tmp_path):
    mvtec = data_trees.mvtec_ad(tmp_path / "mvtec", ("bottle", "cable"))
    screws = data_trees.folder(tmp_path / "folder")
    for categories, expected in (
        (None, [["bottle"], ["screws"]]),
        ("all", [["bottle", "cable"], ["screws"]]),
        (["screws", "cable", "cable"], [["cable"], ["screws"]]),
    ):
        parts = expand_each([mvtec, screws], categories, "source_categories")
        assert [[category_of(part) for part in own] for own in parts] == expected
        assert not {id(mvtec), id(screws)} & {id(part) for own in parts for part in own}
    assert mvtec.category == "bottle"


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
