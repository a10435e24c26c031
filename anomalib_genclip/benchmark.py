# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Compare models on the same images: ``python -m anomalib_genclip.benchmark --config configs/comparison.yaml``."""

import sys
from collections.abc import Sequence

from .pipelines.comparison import Comparison


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison that a settings file describes.

    Args:
        arguments (Sequence[str] | None): The command line. Defaults to ``None``: this process's.

    Returns:
        int: 0, or 1 if no job gave a result.
    """
    tables = Comparison().run(Comparison.get_parser().parse_args(arguments))
    return 0 if any("error" not in row for row in tables.rows) else 1


if __name__ == "__main__":
    sys.exit(main())
