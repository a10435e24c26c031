# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Training that is interrupted: it goes on as if nothing had happened, and no file is left in pieces."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.run_training import train
from safetensors.torch import load_file

from anomalib_genclip import GenCLIP

TESTS = Path(__file__).parents[1]
STEPS = {"labels": 15, "synthetic": 18}  # of three epochs


def checkpoint(root: Path, out: str) -> str:
    (path,) = (root / out).rglob("*.ckpt")
    return str(path)


def run_apart(root: Path, **run) -> subprocess.CompletedProcess:
    settings = json.dumps({"root": str(root), **run})
    command = [sys.executable, "-m", "helpers.run_training", settings]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS)}  # loaders fork
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(torch.nan_to_num(one[key]), torch.nan_to_num(other[key])) for key in one
    )


# Going on


# Lightning goes two different ways where a checkpoint was saved after validation and where there is none.
@pytest.mark.parametrize(("data", "limits"), [("labels", {}), ("synthetic", {"limit_val_batches": 0})])
def test_a_resumed_training_ends_with_the_weights_of_one_that_was_never_interrupted(tmp_path, data, limits):
    whole = train(tmp_path, "whole", data, **limits)
    stop = int(np.random.default_rng(0).integers(STEPS[data] // 3 + 1, STEPS[data]))
    with pytest.raises(RuntimeError, match="stopped"):
        train(tmp_path, "stopped", data, stop, "error", **limits)
    resumed = train(tmp_path, "resumed", data, ckpt=checkpoint(tmp_path, "stopped"), **limits)
    assert same(resumed, whole)


@pytest.mark.slow
@pytest.mark.parametrize(("data", "workers"), [("labels", 2), ("synthetic", 0)])
def test_a_training_killed_at_any_step_goes_on_from_its_last_checkpoint(tmp_path, data, workers):
    settings = {"data": data, "workers": workers}
    assert run_apart(tmp_path, out="whole", **settings).returncode == 0
    whole = load_file(tmp_path / "whole" / "prompts.safetensors")
    steps = np.arange(STEPS[data] // 3 + 1, STEPS[data])
    for stop in np.random.default_rng(1).choice(steps, 3, replace=False).tolist():
        killed, resumed = f"killed at {stop}", f"resumed at {stop}"
        assert run_apart(tmp_path, out=killed, stop=stop, **settings).returncode == -9
        assert run_apart(tmp_path, out=resumed, ckpt=checkpoint(tmp_path, killed), **settings).returncode == 0
        assert same(load_file(tmp_path / resumed / "prompts.safetensors"), whole)


@pytest.mark.slow
def test_ctrl_c_is_an_error_and_leaves_the_last_checkpoint(tmp_path):
    stopped = run_apart(tmp_path, out="stopped", stop=8, how="SIGINT")
    assert stopped.returncode == 1
    assert "KeyboardInterrupt" in stopped.stderr
    content = torch.load(checkpoint(tmp_path, "stopped"), weights_only=True)
    assert (content["epoch"], content["global_step"]) == (0, 5)
    assert not (tmp_path / "stopped" / "prompts.safetensors").exists()


def test_a_disk_that_takes_no_more_is_an_error_and_leaves_the_last_good_checkpoint(tmp_path, monkeypatch):
    class Disk:
        """Takes one checkpoint."""

        taken = 0

        def fsync(self, _):
            self.taken += 1
            if self.taken > 1:
                raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", Disk().fsync)
    with pytest.raises(OSError, match=r"No space left on device: '.*model\.ckpt'"):
        train(tmp_path, "full")
    path = Path(checkpoint(tmp_path, "full"))
    assert torch.load(path, weights_only=True)["epoch"] == 0
    assert not list(path.parent.glob(".*"))


def test_prompts_and_exports_appear_whole_or_not_at_all(tmp_path, monkeypatch):
    def fsync(_):
        raise KeyboardInterrupt

    def save(obj, f):
        del obj
        Path(f).write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    model = GenCLIP(weights="tiny-demo")
    good = model.to_torch(tmp_path)
    content = good.read_bytes()
    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(OSError, match="No space left"):
        model.to_torch(tmp_path)
    assert good == tmp_path / "weights" / "torch" / "model.pt"
    assert good.read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]
    prompts = model.save_weights(tmp_path / "prompts.safetensors")
    content = prompts.read_bytes()
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(KeyboardInterrupt):
        model.save_weights(prompts)
    assert prompts.read_bytes() == content
    assert {path.name for path in tmp_path.iterdir()} == {"weights", "prompts.safetensors"}
