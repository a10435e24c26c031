# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Find images, one by one, in an order that does not depend on the file system.

The list of images is never in memory, so that their number is not limited by it.
"""

import glob
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import PurePosixPath
from typing import NamedTuple

from anomalib.data.utils.image import IMG_EXTENSIONS, is_image_file
from fsspec.core import url_to_fs
from fsspec.spec import AbstractFileSystem
from fsspec.utils import glob_translate

_BINARY = b"\0"


class Source(NamedTuple):
    """An image.

    Args:
        path (str): Path or URL, as a user would write it.
        name (str): Name of its result files, relative to their folder: the path relative to the given folder.
    """

    path: str
    name: str


def is_url(path: str) -> bool:
    """Return whether a path is a URL such as ``s3://bucket/folder``."""
    return "://" in path


def find_images(data: str | Iterable[str | os.PathLike], leave_out: str = "") -> Iterator[Source]:
    """Find images.

    Files and folders whose names start with a dot are skipped, and links to folders are not followed.

    Args:
        data (str | Iterable[str | os.PathLike]): A folder with its subfolders, an image, a pattern, a text file with a
            path per line, a URL of one of these, or an iterable of paths.
        leave_out (str): A folder that is skipped. Defaults to ``""``.

    Yields:
        Source: Images of a folder or pattern sorted by name, folder by folder; images of a list in its order.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ValueError: If there is no image.
    """
    found = False
    for source in _sources(data, leave_out):
        found = True
        yield source
    if not found:
        what = f"no images in {data}" if isinstance(data, str) else "no images"
        msg = f"There are {what}. Images end in {', '.join(sorted(IMG_EXTENSIONS))}."
        raise ValueError(msg)


def _sources(data: str | Iterable[str | os.PathLike], leave_out: str) -> Iterator[Source]:
    if isinstance(data, os.PathLike):
        data = os.fspath(data)
    if not isinstance(data, str):
        return (_named(os.fspath(path)) for path in data)
    data = os.path.expanduser(data)  # noqa: PTH111  # the shell does not expand ~ in quotes; Path would drop "./"
    storage, place = _storage(data)
    if storage.isdir(place):
        return _walk(data, storage, leave_out)
    if storage.isfile(place):
        image = Source(data, PurePosixPath(data).name)
        return iter([image]) if is_image_file(data) else _read_list(data, storage)
    if glob.has_magic(data):
        return _match(data, storage, leave_out)
    msg = f"There is no image, folder or list {data}."
    raise FileNotFoundError(msg)


def _storage(path: str) -> tuple[AbstractFileSystem, str]:
    """Return the file system of a path or a URL, and the path in it.

    Raises:
        ValueError: If the URL has an unknown protocol, or needs a package that is not installed; names it.
    """
    try:
        return url_to_fs(path)
    except (ImportError, ValueError) as error:
        msg = f"{path} cannot be opened: {error}"
        raise ValueError(msg) from error


def _match(pattern: str, storage: AbstractFileSystem, leave_out: str) -> Iterator[Source]:
    """Yield the images that match a pattern, from the folder before its first wildcard on."""
    parts = pattern.split("/")
    first = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    root = "/".join(parts[:first]) or ("/" if first else ".")
    if not storage.isdir(_storage(root)[1]):
        msg = f"There is no folder {root} for the pattern {pattern}."
        raise FileNotFoundError(msg)
    matches = re.compile(glob_translate("/".join(parts[first:]))).match
    for source in _walk(root, storage, leave_out):
        if matches(source.name):
            yield source if first else Source(source.name, source.name)


def _read_list(path: str, storage: AbstractFileSystem) -> Iterator[Source]:
    """Yield the images listed in a text file."""
    with storage.open(_storage(path)[1], "rb") as file:
        for line in file:
            if _BINARY in line:
                msg = f"{path} is neither an image nor a text file with a path per line."
                raise ValueError(msg)
            if line.strip():
                yield _named(os.fsdecode(line.rstrip(b"\r\n")))


def _named(path: str) -> Source:
    """Name an image of a list by its absolute path, because the images may have no common folder."""
    whole = path if is_url(path) else os.path.abspath(path)  # noqa: PTH100  # resolve() would follow links
    # Without "..", so that no result file is written outside the results folder.
    parts = [part for part in whole.replace("://", "/").split("/") if part not in {"", ".", ".."}]
    return Source(path, "/".join(parts))


def _walk(root: str, storage: AbstractFileSystem, leave_out: str) -> Iterator[Source]:
    """Yield the images of a folder and its subfolders, sorted by name, folder by folder."""
    list_folder = _list_remote(storage) if is_url(root) else _list_local
    prefix = root.rstrip("/") + "/"
    leave_out = leave_out if is_url(leave_out) else os.path.realpath(leave_out)

    def images(folder: str, entries: Iterator[tuple[str, bool]]) -> Iterator[Source]:
        for name, is_folder in entries:
            path = f"{folder}{name}"
            if name.startswith("."):
                continue
            if is_folder and (path if is_url(path) else os.path.realpath(path)) != leave_out:
                try:
                    below = list_folder(path)
                except PermissionError:
                    below = iter(())
                    yield Source(path, path.removeprefix(prefix))  # an error when it is read
                yield from images(f"{path}/", below)
            elif not is_folder and is_image_file(name):
                yield Source(path, path.removeprefix(prefix))

    return images(prefix, list_folder(root))


def _list_local(folder: str) -> Iterator[tuple[str, bool]]:
    """List the entries of a folder, sorted by name: name, and whether it is a folder.

    SQLite sorts them, because it uses a temporary file when there are many.
    """
    table = sqlite3.connect("")
    table.execute("CREATE TABLE entries (name BLOB, is_folder INTEGER)")
    with os.scandir(folder) as entries:
        rows = ((os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in entries)
        table.executemany("INSERT INTO entries VALUES (?, ?)", rows)

    def sorted_entries() -> Iterator[tuple[str, bool]]:
        with closing(table):
            for name, is_folder in table.execute("SELECT name, is_folder FROM entries ORDER BY name"):
                yield os.fsdecode(name), bool(is_folder)

    return sorted_entries()


def _list_remote(storage: AbstractFileSystem):  # noqa: ANN202  # as _list_local
    """Return a function like :func:`_list_local` for a file system of fsspec; one folder at a time is in memory."""

    def list_folder(folder: str) -> Iterator[tuple[str, bool]]:
        entries = storage.ls(_storage(folder)[1], detail=True)
        names = ((entry["name"].rstrip("/").rsplit("/", 1)[-1], entry["type"] == "directory") for entry in entries)
        return iter(sorted(names))

    return list_folder
