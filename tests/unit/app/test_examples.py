# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Examples of the page."""

from PIL import Image

from anomalib_genclip.app.examples import write_examples


def test_examples_are_the_same_each_time_and_one_is_normal(tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    first, second = write_examples(tmp_path / "first"), write_examples(tmp_path / "second")
    assert len({example.path for example in first}) == len(first) > 3
    assert [example.title.endswith(": good") for example in first].count(True) == 1
    for one, other in zip(first, second, strict=True):
        assert Image.open(one.path).tobytes() == Image.open(other.path).tobytes()
        assert one.title.startswith(one.class_name)
