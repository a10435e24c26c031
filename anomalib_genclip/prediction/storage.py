# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The results folder, on a disk or on any file system of fsspec."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractFileSystem

from anomalib_genclip.utils.files import atomic_open


def is_url(path: str) -> bool:
    """Return whether a path is a URL such as ``s3://bucket/folder``."""
    return "://" in path


def open_storage(path: str) -> tuple[AbstractFileSystem, str]:
    """Return the file system of a path or a URL, and the path in it; a ``ValueError`` names what a URL lacks."""
    if not is_url(path):  # fsspec would read "a::b" as a chain of file systems
        return LocalFileSystem(), os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111
    try:
        return url_to_fs(path)
    except (ImportError, ValueError) as error:
        msg = f"{path} cannot be opened: {error}"
        raise ValueError(msg) from error


class ResultFolder:
    """Files of a results folder, written atomically; their names are relative to it.

    It is created when the first file is written. A ``ValueError`` names a URL that cannot be opened, or a file.
    """

    def __init__(self, path: str) -> None:
        self.path = path.rstrip("/") or "/"
        self.storage, self.root = open_storage(self.path)
        if self.storage.isfile(self.root):
            msg = f"{path} is a file: the results need a folder."
            raise ValueError(msg)

    @contextmanager
    def open(self, name: str, *, sync: bool = True) -> Iterator[BinaryIO]:
        """Open a file that appears under its name if nothing is raised; an ``OSError`` names it."""
        place = self._place(name)
        self.storage.makedirs(place.rsplit("/", 1)[0], exist_ok=True)
        if isinstance(self.storage, LocalFileSystem):
            with atomic_open(Path(place), sync=sync) as file:
                yield file
        else:  # object stores show only complete files
            with self.storage.transaction, self.storage.open(place, "wb") as file:
                yield file

    def write(self, name: str, content: bytes, *, sync: bool = True) -> None:
        """Write a file; see :meth:`open`."""
        with self.open(name, sync=sync) as file:
            file.write(content)

    def read(self, name: str) -> bytes | None:
        """Read a file; ``None`` if there is none."""
        try:
            return self.storage.cat_file(self._place(name))
        except FileNotFoundError:
            return None

    def exists(self, name: str) -> bool:
        """Return whether there is such a file or folder."""
        return self.storage.exists(self._place(name))

    def names(self, folder: str = "") -> set[str]:
        """List a folder, without files that are being written; empty if there is none."""
        self.storage.invalidate_cache()  # other machines write, too
        if not self.exists(folder):
            return set()
        names = {path.rstrip("/").rsplit("/", 1)[-1] for path in self.storage.ls(self._place(folder), detail=False)}
        return {name for name in names if not (name.startswith(".") and name.endswith(".part"))}

    def remove(self, *names: str) -> None:
        """Remove files and folders, if they exist."""
        for name in filter(self.exists, names):
            self.storage.rm(self._place(name), recursive=True)

    def _place(self, name: str) -> str:
        return f"{self.root}/{name}".rstrip("/")
