# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Examples for the page: rendered when it starts."""

from pathlib import Path

import numpy as np
from PIL import Image

from anomalib_genclip.demo.synthetic import render

# Category, defect, seed. With tiny-demo three defects are found, one in part, the missing tooth not. The last: normal.
_SCENES = (
    ("corrugated_cardboard", "crack", 7),
    ("leather", "hole", 9),
    ("carpet", "stain", 2),
    ("coin", "stain", 3),
    ("gear", "missing", 8),
    ("leather", None, 7),
)


def write_examples(folder: Path) -> list[tuple[str, str]]:
    """Render the examples to an existing folder: their files and class names."""
    examples = []
    for category, defect, seed in _SCENES:
        image, _ = render(category, defect, 320, np.random.default_rng(seed))
        path = folder / f"{category}_{defect or 'good'}.png"
        Image.fromarray(image).save(path)
        examples.append((str(path), category.replace("_", " ")))
    return examples
