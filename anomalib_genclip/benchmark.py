# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Compare models on the same images: ``python -m anomalib_genclip.benchmark --config configs/comparison.yaml``."""

import sys
from collections.abc import Sequence

from jsonargparse import ArgumentParser

from .pipelines.comparison import Comparison, read_settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison that a settings file describes.

    Args:
        arguments (Sequence[str] | None): The command line. Defaults to ``None``: this process's.

    Returns:
        int: 0, or 1 if no job gave a result.
    """
    parser = ArgumentParser(prog="python -m anomalib_genclip.benchmark")
    parser.add_argument("--config", type=str, default="configs/comparison.yaml", help="Settings file.")
    settings = read_settings(parser.parse_args(arguments).config)
    tables = Comparison().run_settings(settings)
    return 0 if any("error" not in row for row in tables.rows) else 1


if __name__ == "__main__":
    sys.exit(main())
