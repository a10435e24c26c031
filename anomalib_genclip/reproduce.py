# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Run the paper's protocols: ``python -m anomalib_genclip.reproduce --config configs/reproduce.yaml``."""

import sys
from collections.abc import Sequence

from jsonargparse import ArgumentParser

from .pipelines.comparison import read_settings
from .pipelines.reproduce import reproduce


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the protocols that a settings file names.

    Args:
        arguments (Sequence[str] | None): The command line. Defaults to ``None``: this process's.

    Returns:
        int: 0, or 1 if no protocol gave a result.
    """
    parser = ArgumentParser(prog="python -m anomalib_genclip.reproduce")
    parser.add_argument("--config", type=str, default="configs/reproduce.yaml", help="Settings file.")
    settings = read_settings(parser.parse_args(arguments).config)
    table = reproduce(settings)
    measured = [row for row in table.rows if row["figures"] == "measured"]
    return 0 if any(row["image_AUROC"] is not None for row in measured) else 1


if __name__ == "__main__":
    sys.exit(main())
