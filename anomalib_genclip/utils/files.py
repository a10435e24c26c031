# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Atomic writing, hashes, checks of files that are read, and the settings files of the package."""

import hashlib
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO
from uuid import uuid4

_PACKAGE = Path(__file__).parents[1]


def is_file(text: str | Path) -> bool:
    """Return whether a string is the path of a file; ``False`` if it is not a valid path."""
    try:
        return isinstance(text, str | Path) and Path(text).is_file()
    except (OSError, ValueError):  # too long for a path, or with a null byte
        return False


def file_hash(*paths: str | Path) -> str:
    """Return the SHA-256 of the contents of files; an ``OSError`` names a file that cannot be read."""
    result = hashlib.sha256()
    for path in paths:
        with Path(path).open("rb") as file:
            while block := file.read(2**20):
                result.update(block)
    return result.hexdigest()


def why_unreadable(error: Exception) -> str:
    """Summarize in one line without a period why a file could not be read."""
    # Compared by name, because the class is in pickle. torch's message advises to allow code in the file.
    if type(error).__name__ == "UnpicklingError":
        return "it is damaged, or contains objects other than tensors, which could run code"
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")


def check_archive(path: Path) -> None:
    """Verify the checksums of a zip archive; torch's files are such archives, and torch does not verify them."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001  # the reader raises various types for a corrupt archive
        broken = why_unreadable(error)
    if broken:
        msg = f"{path} is damaged or cut off ({broken}). Copy or create it again."
        raise ValueError(msg)


@contextmanager
def atomic_open(path: Path, *, sync: bool = True) -> Iterator[BinaryIO]:
    """Open a temporary file that becomes ``path`` if nothing is raised: nobody ever sees a partial file.

    The folder must exist. ``sync`` calls fsync, so that the file is complete even after a power failure. If it cannot
    be written, an ``OSError`` names it, and an existing file stays unchanged.
    """
    # A random name: the file's may be too long, and process IDs are not unique across machines and threads.
    partial = path.with_name(f".{uuid4().hex}.part")
    try:
        with partial.open("wb") as file:
            yield file
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


def atomic_write(path: Path, content: bytes, *, sync: bool = True) -> Path:
    """Write a file with :func:`atomic_open`, and return its path."""
    with atomic_open(path, sync=sync) as file:
        file.write(content)
    return path


def atomic_write_folder(target: Path, write: Callable[[Path], Path]) -> Path:
    """Write files to a temporary folder, and move them to their folder when all of them are written."""
    target.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".", suffix=".part", dir=target) as folder:
        first = write(Path(folder))
        for file in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
            place = target / file.relative_to(folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            file.replace(place)
    return target / first.relative_to(folder)


def config_folder() -> Path:
    """Return the folder of the settings files: inside an installed package, and beside it in a checkout."""
    installed = _PACKAGE / "configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def list_configs() -> list[str]:
    """List the names of the settings files, such as ``"quickstart"`` and ``"data/visa_to_mvtec"``."""
    folder = config_folder()
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def find_config(name: str | Path) -> Path:
    """Find a settings file by its path or its name; a ``FileNotFoundError`` lists the names."""
    if is_file(name):
        return Path(name)
    known = list_configs()
    if (plain := str(name).removesuffix(".yaml")) in known:
        return config_folder() / f"{plain}.yaml"
    msg = f"There is no settings file {str(name)!r}. Give a path, or one of: {', '.join(known)}."
    raise FileNotFoundError(msg)
