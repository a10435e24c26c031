# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Files that appear whole or not at all, and text that goes into them."""

import os
from pathlib import Path


def write_whole(path: Path, content: bytes) -> Path:
    """Write a file so that a reader, or an interruption, never sees half of it.

    Args:
        path (Path): The file, in a folder that is there.
        content (bytes): What goes into it.

    Returns:
        Path: The file.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        partial.write_bytes(content)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def markdown_cell(text: str) -> str:
    """Fit a text into a cell of a Markdown table."""
    return " ".join(text.replace("|", "\\|").split())
