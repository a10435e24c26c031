# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Test a trained GenCLIP without its parts: ``python -m anomalib_genclip.ablation --weights FILE --data FILE``."""

import sys
from collections.abc import Sequence

from .pipelines.ablation import Ablation


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the ablation.

    Args:
        arguments (Sequence[str] | None): The command line. Defaults to ``None``: this process's.

    Returns:
        int: 0, or 1 if no test gave a result.
    """
    table = Ablation().run_settings(Ablation.get_parser().parse_args(arguments))
    return 0 if any("images" in row for row in table.rows) else 1


if __name__ == "__main__":
    sys.exit(main())
