# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Files are written as a whole or not at all, and read with their checksums."""

import errno
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from pickle import UnpicklingError

import pytest
import torch
from helpers.damage import cut

from anomalib_genclip.utils.files import (
    atomic_open,
    atomic_write,
    atomic_write_folder,
    check_archive,
    is_file,
    why_unreadable,
)

# Writing


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("before", [None, b"the last good one"])
def test_a_file_that_cannot_be_finished_leaves_what_was_there(tmp_path, error, before):
    path = tmp_path / "model.ckpt"
    if before:
        path.write_bytes(before)
    with pytest.raises(type(error)) as caught, atomic_open(path) as file:  # noqa: PT012  # it is broken off inside
        file.write(b"half of it")
        assert (path.read_bytes() if path.exists() else None) == before
        raise error
    assert (path.read_bytes() if path.exists() else None) == before
    assert [other for other in tmp_path.iterdir() if other != path] == []
    if isinstance(error, OSError):
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("sync", [True, False])
def test_only_what_must_outlive_a_power_failure_is_synchronized(tmp_path, monkeypatch, sync):
    calls = []
    monkeypatch.setattr(os, "fsync", calls.append)
    atomic_write(tmp_path / "a", b"1", sync=sync)
    assert len(calls) == sync


def test_an_error_without_a_number_stays_as_it_is(tmp_path):
    """Pillow raises OSErrors of its own."""
    error = OSError("cannot write mode")
    with pytest.raises(OSError, match=r"^cannot write mode$"), atomic_open(tmp_path / "a.png"):
        raise error
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_filled_when_all_files_are_there(tmp_path):
    target = tmp_path / "new" / "weights"

    def write(folder: Path) -> Path:
        assert not list(target.glob("[!.]*"))
        (folder / "data").mkdir()
        (folder / "data" / "model.bin").write_bytes(b"2")
        (folder / "model.xml").write_bytes(b"1")
        return folder / "model.xml"

    assert atomic_write_folder(target, write) == target / "model.xml"
    files = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    assert files == {"model.xml", "data/model.bin"}


def test_a_folder_that_cannot_be_filled_keeps_its_files(tmp_path):
    (tmp_path / "model.xml").write_bytes(b"good")

    def write(folder: Path) -> Path:
        (folder / "model.xml").write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space left"):
        atomic_write_folder(tmp_path, write)
    assert [path.name for path in tmp_path.iterdir()] == ["model.xml"]
    assert (tmp_path / "model.xml").read_bytes() == b"good"


def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path):
    path = tmp_path / ("x" * 251 + ".png")
    assert atomic_write(path, b"1").read_bytes() == b"1"


def test_an_error_names_the_file_alone(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match=rf"'{tmp_path}/taken'$"):
        atomic_write(tmp_path / "taken", b"1")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_threads_that_write_one_file_leave_one_of_its_contents(tmp_path):
    path = tmp_path / "entry"
    contents = [bytes([number]) * 2_000_000 for number in range(4)]
    atomic_write(path, contents[0], sync=False)
    with ThreadPoolExecutor(4) as pool:
        written = [pool.submit(atomic_write, path, content, sync=False) for content in contents * 5]
        while not all(job.done() for job in written):
            assert path.read_bytes() in contents
    assert [job.result() for job in written] == [path] * 20
    assert list(tmp_path.iterdir()) == [path]


def test_a_process_killed_while_it_writes_leaves_the_last_good_file(tmp_path):
    path = tmp_path / "model.ckpt"
    atomic_write(path, b"good")
    code = (
        "import os, signal, pathlib, anomalib_genclip.utils.files as files\n"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"files.atomic_write(pathlib.Path({str(path)!r}), b'new')"
    )
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert killed.returncode == -9
    assert path.read_bytes() == b"good"
    assert atomic_write(path, b"new").read_bytes() == b"new"


@pytest.mark.parametrize("text", ["", "\0", "x" * 5000, 5, None, ["a"], "{folder}", "{folder}/absent"])
def test_only_the_path_of_a_file_is_one(tmp_path, text):
    path = tmp_path / "a"
    path.touch()
    assert is_file(path)
    assert is_file(str(path))
    assert not is_file(text.format(folder=tmp_path) if isinstance(text, str) else text)


def test_an_archive_is_read_whole(tmp_path):
    path, tensor = tmp_path / "model.ckpt", torch.rand(1000)
    torch.save({"a": tensor}, path)
    check_archive(path)
    content = bytearray(path.read_bytes())
    content[content.find(tensor.numpy().tobytes()) + 42] ^= 1
    path.write_bytes(content)
    assert torch.load(path, weights_only=True)["a"].shape == (1000,)  # torch does not notice
    with pytest.raises(ValueError, match=r"model\.ckpt is damaged or cut off \(.*/data/0\)"):
        check_archive(path)
    cut(path)
    with pytest.raises(ValueError, match=r"model\.ckpt is damaged or cut off \(File is not a zip file\)"):
        check_archive(path)
    with pytest.raises(FileNotFoundError, match=r"absent\.ckpt"):
        check_archive(tmp_path / "absent.ckpt")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("the reason\nand a long story"), "the reason"),
        (EOFError(), "EOFError"),
        (UnpicklingError("Weights only load failed. Try weights_only=False"), "it is damaged, or contains objects"),
    ],
)
def test_reason_is_one_line_that_does_not_advise_to_run_code(error, reason):
    assert why_unreadable(error).startswith(reason)
    assert "\n" not in why_unreadable(error)
    assert "weights_only" not in why_unreadable(error)
