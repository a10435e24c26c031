# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Text for messages."""

import pytest

from anomalib_genclip.utils.text import summarize


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([], ""),
        (["a"], "a"),
        (iter(range(5)), "0, 1, 2, 3, 4"),
        (range(6), "0, 1, 2, 3, 4 and 1 more"),
        ({"a": 1} | {str(i): i for i in range(1000)}, "a, 0, 1, 2, 3 and 996 more"),
    ],
)
def test_a_few_values_are_shown_and_the_others_counted(values, text):
    assert summarize(values) == text
