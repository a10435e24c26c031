# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Examples of the page."""

from pathlib import Path

from anomalib_genclip.app.examples import write_examples


def test_one_example_is_normal(tmp_path):
    examples = {Path(path).stem: name for path, name in write_examples(tmp_path)}
    assert len(list(tmp_path.iterdir())) == len(examples) > 3
    assert [stem.endswith("_good") for stem in examples].count(True) == 1
    assert all(stem.replace("_", " ").startswith(name) for stem, name in examples.items())
