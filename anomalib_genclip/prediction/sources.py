# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Find images one by one, never all in memory, in an order that does not depend on the file system."""

import codecs
import glob
import os
import re
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, nullcontext
from pathlib import PurePath, PurePosixPath
from typing import NamedTuple

from anomalib.data.utils.image import IMG_EXTENSIONS, is_image_file
from fsspec.spec import AbstractFileSystem
from fsspec.utils import glob_translate

from .storage import is_url, open_storage

_BINARY = b"\0"
_MOST_SUFFIXES = 20  # that are told apart, because each file could have one of its own


class Source(NamedTuple):
    """An image: path or URL, as a user would write it, and name of its result files, the path in the given folder."""

    path: str
    name: str

    @property
    def folder(self) -> str:
        """Name of the folder that the image is in."""
        return (PurePosixPath(self.path) if is_url(self.path) else _absolute(self.path)).parent.name


def find_images(data: str, leave_out: Iterable[str | None] = (), skipped: Counter | None = None) -> Iterator[Source]:
    """Find images outside of files and folders to leave out, of links to folders, and of names that start with a dot.

    A ``FileNotFoundError`` names data that is not there, a ``ValueError`` data without an image.
    """
    left_out = {place if is_url(place) else os.path.realpath(place) for place in leave_out if place}
    sources = _sources(data, left_out, Counter() if skipped is None else skipped)
    if (first := next(sources, None)) is None:
        msg = f"There are no images in {data}. Images end in {', '.join(sorted(IMG_EXTENSIONS))}."
        raise ValueError(msg)
    yield first
    yield from sources


def _sources(data: str, left_out: set[str], skipped: Counter) -> Iterator[Source]:
    if data == "-":
        return _read_list(data, nullcontext(sys.stdin.buffer))
    data = os.path.expanduser(data)  # noqa: PTH111  # the shell does not expand ~ in quotes; Path would drop "./"
    storage, place = open_storage(data)
    if storage.isdir(place):
        return _walk(data, storage, left_out, skipped)
    if storage.isfile(place) and is_image_file(data):
        return iter([Source(data, PurePath(data).name)])
    if storage.exists(place):  # a file, or a pipe such as /dev/stdin, which fsspec cannot open
        return _read_list(data, storage.open(place, "rb") if is_url(data) else open(place, "rb"))  # noqa: PTH123
    if glob.has_magic(data):
        return _match(data, storage, left_out, skipped)
    msg = f"There is no image, folder or list {data}."
    raise FileNotFoundError(msg)


def _match(pattern: str, storage: AbstractFileSystem, left_out: set[str], skipped: Counter) -> Iterator[Source]:
    """Yield the images that match a pattern, from the folder before its first wildcard on."""
    parts = pattern.split("/")
    first = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    root = "/".join(parts[:first]) or ("/" if first else ".")
    if not storage.isdir(open_storage(root)[1]):
        msg = f"There is no folder {root} for the pattern {pattern}."
        raise FileNotFoundError(msg)
    matches = re.compile(glob_translate("/".join(parts[first:]))).match
    for source in _walk(root, storage, left_out, skipped, matches):
        yield source if first else Source(source.name, source.name)


def _read_list(path: str, opened) -> Iterator[Source]:  # noqa: ANN001  # a context of a binary file
    """Yield the images listed in a text file."""
    with opened as file:
        for number, line in enumerate(file):
            if _BINARY in line:
                msg = f"{path} is neither an image nor a text file in UTF-8 with a path per line."
                raise ValueError(msg)
            text = line.rstrip(b"\r\n").removeprefix(b"" if number else codecs.BOM_UTF8)
            if text.strip():
                yield _named(os.fsdecode(text))


def _named(path: str) -> Source:
    """Name an image of a list by its absolute path, because the images may have no common folder."""
    if is_url(path):
        parts = path.replace("://", "/").split("/")
    else:
        whole = _absolute(path)  # on Windows with a drive, "C:" or "\\server\share", that file names must not have
        parts = [*whole.drive.replace(":", "").split("\\"), *whole.parts[1:]]
    # Without "..", so that no result file is written outside the results folder.
    return Source(path, "/".join(part for part in parts if part not in {"", ".", ".."}))


def _absolute(path: str) -> PurePath:
    return PurePath(os.path.abspath(path))  # noqa: PTH100  # resolve() would follow links


def _walk(
    root: str, storage: AbstractFileSystem, left_out: set[str], skipped: Counter, matches: Callable | None = None
) -> Iterator[Source]:
    """Yield the images of a folder and its subfolders, sorted by name, folder by folder."""
    prefix = root.rstrip("/") + "/"
    has_files = any(map(os.path.isfile, left_out))  # else the links of no image are followed, which takes time

    def images(folder: str, entries: Iterator[tuple[str, bool]]) -> Iterator[Source]:
        for name, is_folder in entries:
            path = f"{folder}{name}"
            source = Source(path, path.removeprefix(prefix))
            real = os.path.realpath(path) if (is_folder or has_files) and not is_url(path) else path
            if name.startswith(".") or real in left_out:
                continue
            if is_folder:
                try:
                    below = _list_folder(path, storage)
                except PermissionError:
                    below = iter(())
                    yield source  # an error when it is read
                yield from images(f"{path}/", below)
            elif matches is None or matches(source.name):
                if is_image_file(name):
                    yield source
                    continue
                suffix = PurePath(name).suffix.lower() or "none"
                skipped[suffix if suffix in skipped or len(skipped) < _MOST_SUFFIXES else "others"] += 1

    return images(prefix, _list_folder(root, storage))


def _list_folder(folder: str, storage: AbstractFileSystem) -> Iterator[tuple[str, bool]]:
    """List the entries of a folder, sorted by name: name, and whether it is a folder.

    SQLite sorts them, because it uses a temporary file when there are many. Of a URL, fsspec lists a folder in memory.
    """
    table = sqlite3.connect("")
    table.execute("CREATE TABLE entries (name BLOB, is_folder INTEGER)")
    table.executemany("INSERT INTO entries VALUES (?, ?)", _entries(folder, storage))

    def sorted_entries() -> Iterator[tuple[str, bool]]:
        with closing(table):
            for name, is_folder in table.execute("SELECT name, is_folder FROM entries ORDER BY name"):
                yield os.fsdecode(name), bool(is_folder)

    return sorted_entries()


def _entries(folder: str, storage: AbstractFileSystem) -> Iterator[tuple[bytes, bool]]:
    if is_url(folder):
        for found in storage.ls(open_storage(folder)[1], detail=True):
            yield os.fsencode(found["name"].rstrip("/").rsplit("/", 1)[-1]), found["type"] == "directory"
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            yield os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)
