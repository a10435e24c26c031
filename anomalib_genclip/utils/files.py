# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Files that appear whole or not at all, and what is wrong with others."""

import os
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4


def is_file(text: str | Path) -> bool:
    """Tell whether a text is the path of a file; one that can be no path at all is not."""
    try:
        return isinstance(text, str | Path) and Path(text).is_file()
    except (OSError, ValueError):  # too long for a path, or with a null byte
        return False


def why_unreadable(error: Exception) -> str:
    """Say in one line why a file of tensors could not be read.

    Args:
        error (Exception): What its reader raised.

    Returns:
        str: The reason.
    """
    # By name: the class is in pickle, and torch's own words are advice to let the file run.
    if type(error).__name__ == "UnpicklingError":
        return "it is broken, or holds objects other than tensors, which could run code"
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def check_archive(path: Path) -> None:
    """Check a zip archive, such as torch's files are, against its checksums: torch does not look at them.

    Args:
        path (Path): The file.

    Raises:
        OSError: If it cannot be opened.
        ValueError: If its contents are not those that were written; names it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001  # a broken archive can make its reader trip over anything
        broken = why_unreadable(error)
    if broken:
        msg = f"{path} is damaged or cut off ({broken}). Copy or make it again."
        raise ValueError(msg)


def atomic_write(path: Path, content: bytes, *, sync: bool = True) -> Path:
    """Write a file so that a reader, or an interruption, never sees half of it.

    Args:
        path (Path): The file, in a folder that is there.
        content (bytes): What goes into it.
        sync (bool): Whether to wait for the disk, so that a power failure finds the file whole, too. Defaults to
            ``True``.

    Returns:
        Path: The file.

    Raises:
        OSError: If it cannot be written; names the file. What was there before stays.
    """
    # No part of the name: it may be as long as the file system allows. No number of the process: it is no other's
    # on this machine only, and two threads have the same.
    partial = path.with_name(f".{uuid4().hex}.part")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
    return path


def atomic_write_folder(target: Path, write: Callable[[Path], Path]) -> Path:
    """Write files for a folder, and put them there when all of them are written.

    Args:
        target (Path): The folder. It is made; what is in it stays, but for files of the same names.
        write (Callable[[Path], Path]): Writes into the folder that it is given, and returns the file to open first.

    Returns:
        Path: That file, in its place.
    """
    target.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".", suffix=".part", dir=target) as folder:
        first = write(Path(folder))
        for file in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
            place = target / file.relative_to(folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            file.replace(place)
    return target / first.relative_to(folder)
