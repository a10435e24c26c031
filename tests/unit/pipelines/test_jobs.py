# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Jobs are done once, whatever else changes, here or in a process of their own."""

import json
from types import SimpleNamespace

import pytest
from helpers.comparisons import rows_of

from anomalib_genclip.pipelines import jobs
from anomalib_genclip.pipelines.comparison import compare
from anomalib_genclip.pipelines.jobs import Job, read_result, run_here, run_isolated


@pytest.fixture
def started(monkeypatch) -> list[tuple[str, str | None]]:
    started = []

    def note(action, settings, path):
        started.append((action, settings.get("category")))
        path.write_text('{"error": "stopped"}')

    monkeypatch.setattr(jobs, "run_here", note)
    return started


def test_finished_jobs_are_not_run_again_and_failed_ones_are(compared, started):
    again = compare(compared.settings)
    assert started == [("test", "bottle"), ("test", "wood")]  # the model that is absent
    for model in ("GenCLIP", "whitest", "PatchCore"):
        assert rows_of(again, model) == rows_of(compared.tables, model)
    assert all(row["error"] == "stopped" for row in rows_of(again, "absent"))


def test_other_settings_are_another_job(compared, started):
    tables = compare({**compared.settings, "seed": 2})
    # The training fails, so GenCLIP's tests are not even tried.
    assert started == [("train", None), *[("test", "bottle"), ("test", "wood")] * 3]
    assert all("training failed: stopped" in row["error"] for row in rows_of(tables, "GenCLIP"))


def test_lost_checkpoint_is_trained_again(compared, started, tmp_path):
    (checkpoint,) = (compared.folder / "checkpoints").glob("*.ckpt")
    hidden = checkpoint.rename(tmp_path / checkpoint.name)
    compare(compared.settings)
    hidden.rename(checkpoint)
    assert started[0] == ("train", None)


def test_key_depends_on_the_contents_of_named_files(tmp_path):
    file = tmp_path / "prompts.safetensors"
    settings = {"model": {"init_args": {"weights": str(file), "layers": [1, 2]}}}
    keys = [Job("test", settings, {}).key]
    for content in (b"one", b"two"):
        file.write_bytes(content)
        keys.append(Job("test", settings, {}).key)
    assert len(set(keys)) == 3
    assert Job("test", settings, {}).key == keys[-1]


def test_kept_result_does_not_name_a_checkpoint_elsewhere(tmp_path):
    job = Job("train", {}, {"model": "x"})
    checkpoint, kept = tmp_path / "checkpoints" / f"{job.key}.ckpt", tmp_path / "jobs" / f"{job.key}.json"
    for file in (checkpoint, kept):
        file.parent.mkdir()
        file.write_text(json.dumps({"checkpoint": "/somewhere/else.ckpt", "epochs": 1}))
    assert job.run(tmp_path, isolate=False) == {"model": "x", "checkpoint": str(checkpoint), "epochs": 1}


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff\xfe", b"[" * 100_000, b'{"error": "no memory"}'])
def test_kept_result_that_is_none_is_made_again(tmp_path, monkeypatch, content):
    monkeypatch.setattr(jobs, "run_here", lambda _action, _settings, path: path.write_text('{"epochs": 1}'))
    job = Job("test", {}, {"model": "x"})
    kept = tmp_path / "jobs" / f"{job.key}.json"
    kept.parent.mkdir()
    kept.write_bytes(content)
    assert job.run(tmp_path, isolate=False) == {"model": "x", "epochs": 1}


def test_failure_is_a_result_in_one_line_and_a_traceback_in_the_log(tmp_path):
    settings = {"model": {"class_path": "NoSuchModel"}, "seed": 0, "k_shot": 0, "protocol": "zero_shot"}
    for run in (run_here, run_isolated):
        run("test", settings, tmp_path / f"{run.__name__}.json")
        result = read_result(tmp_path / f"{run.__name__}.json")
        assert result == {"error": "ValueError: anomalib has no model 'NoSuchModel'."}
        assert "Traceback" in (tmp_path / f"{run.__name__}.log").read_text()


def test_process_that_dies_is_a_failure_with_its_code(monkeypatch, tmp_path):
    monkeypatch.setattr(jobs.subprocess, "run", lambda *_args, **_kwargs: SimpleNamespace(returncode=-9))
    run_isolated("test", {}, tmp_path / "job.json")
    error = read_result(tmp_path / "job.json")["error"]
    assert "code -9" in error
    assert "memory" in error
