# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Examples of the page."""

from pathlib import Path

from anomalib_genclip.app.examples import write_examples


def test_examples_are_the_same_each_time_and_one_is_normal(tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    first, second = write_examples(tmp_path / "first"), write_examples(tmp_path / "second")
    assert len(dict(first)) == len(first) > 3
    assert [path.endswith("_good.png") for path, _ in first].count(True) == 1
    for (one, name), (other, _) in zip(first, second, strict=True):
        assert Path(one).read_bytes() == Path(other).read_bytes()
        assert Path(one).stem.replace("_", " ").startswith(name)
