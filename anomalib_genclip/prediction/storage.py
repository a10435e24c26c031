# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The results folder, on a disk or on any file system of fsspec."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from anomalib_genclip.utils.files import atomic_open


class ResultFolder:
    """Files of a results folder, written atomically.

    Args:
        path (str): Path or URL of the folder. It is created when the first file is written.

    Raises:
        ValueError: If the URL cannot be opened, or the path is a file.
    """

    def __init__(self, path: str) -> None:
        self.path = path.rstrip("/") or "/"
        try:
            self.storage, self.root = url_to_fs(self.path)
        except (ImportError, ValueError) as error:
            msg = f"{path} cannot be opened: {error}"
            raise ValueError(msg) from error
        if self.storage.isfile(self.root):
            msg = f"{path} is a file: the results need a folder."
            raise ValueError(msg)
        # On a disk, files are written under another name and then renamed. Object stores show only complete files.
        self.is_local = isinstance(self.storage, LocalFileSystem)

    @contextmanager
    def open(self, name: str, *, sync: bool = True) -> Iterator[BinaryIO]:
        """Open a file for writing.

        Args:
            name (str): Path relative to the folder. Missing folders are created.
            sync (bool): Whether to call fsync. Defaults to ``True``.

        Yields:
            BinaryIO: The file, which appears under its name if nothing is raised.

        Raises:
            OSError: If the file cannot be written; names it.
        """
        place = self._place(name)
        self.storage.makedirs(place.rsplit("/", 1)[0], exist_ok=True)
        if self.is_local:
            with atomic_open(Path(place), sync=sync) as file:
                yield file
            return
        with self.storage.transaction, self.storage.open(place, "wb") as file:
            yield file

    def write(self, name: str, content: bytes, *, sync: bool = True) -> None:
        """Write a file; arguments as in :meth:`open`."""
        with self.open(name, sync=sync) as file:
            file.write(content)

    def read(self, name: str) -> bytes | None:
        """Read a file; ``None`` if there is none."""
        try:
            return self.storage.cat_file(self._place(name))
        except FileNotFoundError:
            return None

    def remove(self, *names: str) -> None:
        """Remove files and folders, if they exist."""
        for name in names:
            if self.storage.exists(self._place(name)):
                self.storage.rm(self._place(name), recursive=True)

    def is_empty(self) -> bool:
        """Return whether the folder is empty or does not exist."""
        return not self.storage.isdir(self.root) or not self.storage.ls(self.root, detail=False)

    def _place(self, name: str) -> str:
        return f"{self.root}/{name}"
