# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Class names, which one an image gets, and their filter."""

import pytest

from anomalib_genclip.components.class_names import NameRule


@pytest.mark.parametrize(
    ("name", "message"), [("", "empty"), ("_", "empty"), (" ", "empty"), ("screw " * 300, r"300 tokens.*room for 66")]
)
def test_names_that_cannot_be_used_are_refused_and_not_kept(model, name, message):
    names = list(model.class_names.names)
    with pytest.raises(ValueError, match=message):
        model.class_index([name])
    assert model.class_names.names == names


@pytest.mark.parametrize(
    ("class_name", "of_file", "category", "name", "products"),
    [
        ("bolt", "nut", "metal_nut", "bolt", ["metal nut", "bolt"]),
        ("bolt", "nut", None, "bolt", ["bolt"]),
        (None, "nut", "metal_nut", "metal nut", ["metal nut"]),
        (None, "metal_nut", None, "metal nut", ["metal nut"]),
        (None, None, None, "object", []),
        ({"01": "hex_bolt"}, None, "01", "hex bolt", ["01", "hex bolt"]),
        ({"01": "hex_bolt"}, "01", None, "hex bolt", ["01"]),
        ({"metal_nut": "nut"}, None, "metal nut", "nut", ["metal nut", "nut"]),
    ],
)
def test_name_is_the_given_one_then_the_categorys_then_the_files(class_name, of_file, category, name, products):
    rule = NameRule.of(class_name, of_file, 68)
    assert rule.name_of(category) == name
    assert rule.products_of(category) == products


@pytest.mark.parametrize("keys", [{1: "cable"}, {"a": "b", True: "cable"}])
def test_categories_are_texts(keys):
    with pytest.raises(ValueError, match="Put it in quotes"):
        NameRule.of(keys, None, 68)
    with pytest.raises(ValueError, match="must be a name, or map categories"):
        NameRule.of([*keys], None, 68)
