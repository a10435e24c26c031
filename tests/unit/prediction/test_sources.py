# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Which images are found, and in which order."""

import io
import os
import sys
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PureWindowsPath
from types import SimpleNamespace

import fsspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anomalib_genclip.prediction import sources
from anomalib_genclip.prediction.sources import find_images
from anomalib_genclip.prediction.storage import ResultFolder


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def names(data, **options):
    return [source.name for source in find_images(str(data), **options)]


def test_images_of_a_folder_come_sorted_by_name_folder_by_folder(tmp_path):
    touch(tmp_path, "b.png", "a/2.jpg", "a/10.JPG", "a/deep/x.tiff", "a.webp", "notes.txt", "c.PNG")
    assert names(tmp_path) == ["a/10.JPG", "a/2.jpg", "a/deep/x.tiff", "a.webp", "b.png", "c.PNG"]
    assert next(find_images(f"{tmp_path}/")).path == f"{tmp_path}/a/10.JPG"
    touch(tmp_path, ".config/images.v2/x/1.JPG")
    assert names(tmp_path / ".config" / "images.v2") == names(tmp_path / ".config/images.v2/*/*.JPG") == ["x/1.JPG"]


def test_hidden_files_own_results_a_mask_and_linked_folders_are_passed_over(tmp_path):
    touch(tmp_path, "a.png", ".hidden.png", ".cache/b.png", "out/pictures/a.png", "elsewhere/c.png", "deep/mask.png")
    (tmp_path / "linked").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    (tmp_path / "mask.png").symlink_to(tmp_path / "deep" / "mask.png")
    found = ["a.png", "deep/mask.png", "elsewhere/c.png", "link.png", "mask.png"]
    assert names(tmp_path, leave_out=(str(tmp_path / "out"), None)) == found
    for mask in ("mask.png", "linked/deep/mask.png"):
        left_out = (str(tmp_path / "out"), str(tmp_path / mask))
        assert names(tmp_path, leave_out=left_out) == ["a.png", "elsewhere/c.png", "link.png"]
    assert names(tmp_path / "deep/../*.png", leave_out=[f"{tmp_path}/mask.png"]) == ["a.png", "link.png"]


def test_patterns_match_whole_parts_of_a_path(tmp_path, monkeypatch):
    touch(tmp_path, "screw/good/1.png", "screw/bad/2.png", "nut/good/3.png", "nut/good/4.jpg", "[x]/5.png")
    assert names(tmp_path / "*/good/*.png") == ["nut/good/3.png", "screw/good/1.png"]
    assert names(f"{tmp_path}/nut/**/*") == ["good/3.png", "good/4.jpg"]
    assert names(f"{tmp_path}/[x]") == ["5.png"]  # what exists is no pattern
    monkeypatch.chdir(tmp_path)
    assert [source.path for source in find_images("*/bad/*.png")] == ["screw/bad/2.png"]


def test_a_list_keeps_its_order_and_its_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").write_bytes(b"b.png\n\n../x/a.png\r\nna\xffme.png\n")
    found = list(find_images("list.txt"))
    assert [os.fsencode(source.path) for source in found] == [b"b.png", b"../x/a.png", b"na\xffme.png"]
    assert all(not source.name.startswith(("/", "..")) for source in found)
    assert found[1].name == str(tmp_path.parent / "x/a.png").lstrip("/")


def test_a_byte_order_mark_hides_no_image(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf/x/a.png\n/x/b.png\n")
    assert [source.path for source in find_images(f"{tmp_path}/list.txt")] == ["/x/a.png", "/x/b.png"]


def test_lists_come_through_pipes(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a.png\nb.png\n")))
    assert [source.path for source in find_images("-")] == ["a.png", "b.png"]
    read, write = os.pipe()  # as `find ... | genclip predict --data /dev/stdin`
    os.write(write, b"c.png\n")
    os.close(write)
    assert [source.path for source in find_images(f"/dev/fd/{read}")] == ["c.png"]
    os.close(read)


def test_colons_of_a_path_are_no_file_systems(tmp_path):
    touch(tmp_path, "a::b/c.png")
    assert names(tmp_path / "a::b") == ["c.png"]
    assert ResultFolder(f"{tmp_path}/a::b").names() == {"c.png"}


def test_paths_of_windows_give_class_and_file_names(tmp_path, monkeypatch):
    (tmp_path / "list.txt").write_text("C:\\data\\screw\\1.png\n\\\\server\\share\\nut\\2.png\ns3://bucket/cap/3.png\n")
    place = str(tmp_path / "list.txt")
    monkeypatch.setattr(sources, "_absolute", PureWindowsPath)
    found = list(find_images(place))
    assert [source.folder for source in found] == ["screw", "nut", "cap"]
    assert [source.name for source in found] == ["C/data/screw/1.png", "server/share/nut/2.png", "s3/bucket/cap/3.png"]


def test_what_is_no_image_is_counted_by_suffix(tmp_path):
    touch(tmp_path, "a.png", "b.GIF", "c/d.gif", "c/README", ".hidden.txt", "out/scores.csv", "list.txt")
    skipped = Counter()
    assert len(list(find_images(str(tmp_path), [f"{tmp_path}/out"], skipped))) == 1
    assert skipped == {".gif": 2, "none": 1, ".txt": 1}
    for number in range(100):
        (tmp_path / f"x.{number}").touch()
    list(find_images(str(tmp_path), (), skipped := Counter()))
    assert len(skipped) <= 21


def test_addresses_are_walked_as_folders_are():
    storage = fsspec.filesystem("memory")
    for name in ("b.png", "a/2.jpg", "a/10.jpg", "a/notes.txt", ".hidden.png"):
        storage.pipe_file(f"/bucket/images/{name}", b"")
    storage.pipe_file("/bucket/list.txt", b"memory://bucket/images/b.png\n")
    try:
        assert names("memory://bucket/images") == ["a/10.jpg", "a/2.jpg", "b.png"]
        assert [source.path for source in find_images("memory://bucket/images/a/*.jpg")] == [
            "memory://bucket/images/a/10.jpg",
            "memory://bucket/images/a/2.jpg",
        ]
        assert names("memory://bucket/list.txt") == ["memory/bucket/images/b.png"]
    finally:
        storage.rm("/bucket", recursive=True)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ("none", FileNotFoundError, "no image, folder or list .*none"),
        ("none/*.png", FileNotFoundError, "no folder .*none"),
        ("empty", ValueError, r"no images in .*empty.*\.png"),
        ("empty/*.png", ValueError, "no images"),
        ("empty.txt", ValueError, "no images"),
        ("weights.bin", ValueError, "weights.bin is neither"),
        ("nosuch://bucket/x", ValueError, "nosuch"),
    ],
)
def test_what_is_not_there_is_named(tmp_path, data, error, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "weights.bin").write_bytes(b"\x89\0\1")
    with pytest.raises(error, match=message):
        next(find_images(data if "://" in data else f"{tmp_path}/{data}"))


def test_a_folder_that_may_not_be_read_is_an_image_that_cannot_be(tmp_path, monkeypatch):
    touch(tmp_path, "a.png", "closed/b.png", "d.png")
    scandir = os.scandir

    def refuse(folder):
        if str(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    assert names(tmp_path) == ["a.png", "closed", "d.png"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(min_size=1, max_size=12).filter(lambda b: not set(b) & set(b"\0/.")), unique=True))
def test_any_file_names_are_found_once_and_sorted(tmp_path_factory, stems):
    root = tmp_path_factory.mktemp("images")
    for stem in stems:
        (root / os.fsdecode(stem + b".png")).touch()
    expected = sorted(stem + b".png" for stem in stems)
    found = [os.fsencode(source.name) for source in sources._walk(str(root), fsspec.filesystem("file"), "", Counter())]
    assert found == expected


def test_memory_does_not_grow_with_the_number_of_files(monkeypatch):
    @contextmanager
    def many(_) -> Iterator:
        yield (SimpleNamespace(name=f"{7919 * i % 30_011:06}.png", is_dir=lambda **_: False) for i in range(30_000))

    monkeypatch.setattr(os, "scandir", many)
    tracemalloc.start()
    found = sources._walk("/images", fsspec.filesystem("file"), "", Counter())
    count, last = 0, ""
    for source in found:
        assert source.name > last
        count, last = count + 1, source.name
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 30_000
    assert peak < 2**19  # the names alone would take four times as much
