# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Text for messages."""

from collections.abc import Iterable

_SHOWN = 5


def summarize(values: Iterable[object]) -> str:
    """List the first few values and the number of the others."""
    values = list(values)
    more = f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""
    return ", ".join(map(str, values[:_SHOWN])) + more


def counted(number: int, noun: str) -> str:
    """Return ``"1 image"`` or ``"2 images"`` for a number and a noun in the singular."""
    return f"{number} {noun}" + "s" * (number != 1)
