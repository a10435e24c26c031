# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Class names and their filter."""

import pytest
import torch

from anomalib_genclip.components.class_names import clean_class_name


def test_class_name_filter_decides_for_each_image(model):
    """With embeddings that are the text features themselves, the answer is known."""
    index = model.class_index(["cable", "cable", "bolt"])
    features = model.class_names.features
    embedding = torch.stack([features[index[0]], features[0], features[index[2]]])
    assert model.class_names.filter(embedding, index).tolist() == [index[0], 0, index[2]]


def test_underscores_become_spaces():
    assert clean_class_name("printed_circuit  board ") == "printed circuit board"


@pytest.mark.parametrize("name", ["", "_", "  "])
def test_empty_class_name_is_an_error(model, name):
    with pytest.raises(ValueError, match="is empty"):
        model.class_index([name])


def test_long_class_name_is_an_error_that_says_how_long(model):
    names = list(model.class_names.names)
    with pytest.raises(ValueError, match=r"has 300 tokens.*room for 66"):
        model.class_index(["screw " * 300])
    assert model.class_names.names == names
