# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Text for users: lists in messages, tables in Markdown."""

from collections.abc import Iterable, Sequence

_SHOWN = 5


def summarize(values: Iterable[object]) -> str:
    """List the first few values and the number of the others."""
    values = list(values)
    more = f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""
    return ", ".join(map(str, values[:_SHOWN])) + more


def markdown_table(header: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """Format a table; all columns except the first are right-aligned.

    Args:
        header (Sequence[str]): Names of the columns.
        body (Iterable[Sequence[str]]): Cells of the rows, any text.

    Returns:
        str: The table, without a line break at the end.
    """
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *([_cell(text) for text in row] for row in body)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    """Escape a text for a cell."""
    return " ".join(text.replace("|", "\\|").split())
