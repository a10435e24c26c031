# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Files are written as a whole or not at all, and read with their checksums."""

import errno
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers.damage import cut

from anomalib_genclip.utils.files import (
    atomic_open,
    atomic_write,
    check_archive,
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
