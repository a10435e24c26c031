# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Predictions whose process is killed: they go on, and no image is scored twice or left out."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.predictions import Brightness, results, settings_for, small_chunks, use_model, write_images

from anomalib_genclip.prediction.run import run

OPTIONS = {"on_error": "record", "regions": True, "maps": "npy"}


def _run_until(root: Path, operations: int) -> None:
    left = iter(range(operations, -1, -1))
    for name in ("fsync", "replace", "unlink"):
        real = getattr(os, name)

        def counted(*args, real=real, **kwargs):
            if next(left) == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        setattr(os, name, counted)
    run(settings_for(root, **OPTIONS))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_run_killed_between_any_two_changes_to_the_disk_ends_with_the_same_bytes(tmp_path, monkeypatch):
    small_chunks(monkeypatch, 8)
    use_model(monkeypatch, Brightness())
    write_images(tmp_path / "images", 22, broken=(3,))
    run(settings_for(tmp_path, **OPTIONS, out=str(tmp_path / "whole")))
    fork = multiprocessing.get_context("fork")
    kills = 0
    while True:
        process = fork.Process(target=_run_until, args=(tmp_path, 2 + kills))
        process.start()
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        kills += 1
    assert kills > 5
    assert results(tmp_path / "out") == results(tmp_path / "whole")


@pytest.mark.slow
def test_a_command_killed_at_random_moments_ends_with_the_same_bytes(tmp_path):
    write_images(tmp_path / "images", 600, broken=(17,))
    command = [sys.executable, "-m", "anomalib_genclip.cli", "predict", "--weights", "tiny-demo", "--batch_size", "4"]
    command += ["--data", str(tmp_path / "images"), "--on_error", "record", "--pictures", "all", "--accelerator", "cpu"]
    whole = subprocess.run([*command, "--out", str(tmp_path / "whole")], check=False, capture_output=True)
    assert whole.returncode == 11
    moments, kills = random.Random(0), 0  # noqa: S311  # no secret
    for _ in range(5):
        with subprocess.Popen([*command, "--out", str(tmp_path / "out")], stdout=subprocess.PIPE) as process:
            while process.poll() is None and not (tmp_path / "out" / "manifest.json").exists():
                time.sleep(0.1)
            time.sleep(moments.uniform(0, 5))
            process.kill()
            kills += process.wait() == -signal.SIGKILL
    done = subprocess.run([*command, "--out", str(tmp_path / "out")], check=False, capture_output=True)
    assert kills
    assert done.returncode == (11 if "complete" not in done.stdout.decode() else 0)
    assert results(tmp_path / "out") == results(tmp_path / "whole")
