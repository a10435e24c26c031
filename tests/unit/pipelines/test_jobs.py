# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Jobs are done once, whatever else changes."""

import pytest
from helpers.comparisons import rows_of

from anomalib_genclip.pipelines.comparison import compare
from anomalib_genclip.pipelines.jobs import Job, read_result, write_result


def test_finished_jobs_are_not_run_again_and_failed_ones_are(compared, monkeypatch):
    started = []

    def note(settings, _log):
        started.append((settings["model"]["class_path"], settings["category"]))
        return {"error": "still not there"}

    monkeypatch.setattr("anomalib_genclip.pipelines.jobs.run_here", note)
    again = compare(compared.settings)
    assert started == [("GenCLIP", "bottle"), ("GenCLIP", "wood")]  # the model that is absent
    for model in ("GenCLIP", "whitest", "PatchCore"):
        assert rows_of(again, model) == rows_of(compared.tables, model)
    assert all(row["error"] == "still not there" for row in rows_of(again, "absent"))


def test_other_settings_are_another_job(compared, monkeypatch):
    started = []
    monkeypatch.setattr(
        "anomalib_genclip.pipelines.jobs.run_here",
        lambda settings, _log: started.append(settings["action"]) or {"error": "stopped"},
    )
    tables = compare({**compared.settings, "seed": 2})
    # The training fails, so GenCLIP's tests are not even tried.
    assert started == ["train"] + ["test"] * 6
    assert all("training failed: stopped" in row["error"] for row in rows_of(tables, "GenCLIP"))


def test_lost_checkpoint_is_trained_again(compared, monkeypatch, tmp_path):
    (checkpoint,) = (compared.folder / "checkpoints").glob("*.ckpt")
    hidden = tmp_path / checkpoint.name
    checkpoint.rename(hidden)
    started = []
    monkeypatch.setattr(
        "anomalib_genclip.pipelines.jobs.run_here",
        lambda settings, _log: started.append(settings["action"]) or {"error": "stopped"},
    )
    compare(compared.settings)
    hidden.rename(checkpoint)
    assert started[0] == "train"


def test_key_depends_on_the_contents_of_named_files(tmp_path):
    file = tmp_path / "prompts.safetensors"
    settings = {"model": {"init_args": {"weights": str(file), "layers": [1, 2]}}}
    keys = [Job(settings, {}).key]
    for content in (b"one", b"two"):
        file.write_bytes(content)
        keys.append(Job(settings, {}).key)
    assert len(set(keys)) == 3
    assert Job(settings, {}).key == keys[-1]


def test_kept_result_does_not_name_a_checkpoint_elsewhere(tmp_path):
    job = Job({"action": "train"}, {"model": "x"})
    checkpoint = tmp_path / "checkpoints" / f"{job.key}.ckpt"
    checkpoint.parent.mkdir()
    checkpoint.touch()
    write_result(tmp_path / "jobs" / f"{job.key}.json", {"checkpoint": "/somewhere/else.ckpt", "epochs": 1})
    row = job.run(tmp_path, isolate=False)
    assert row == {"model": "x", "checkpoint": str(checkpoint), "epochs": 1}


@pytest.mark.parametrize(
    "content", [b"", b"[1]", b"{", b"\xff\xfe", b"[" * 100_000, b'{"result": {"epochs": 9}, "digest": "1"}']
)
def test_kept_result_that_is_none_is_made_again(tmp_path, monkeypatch, caplog, content):
    monkeypatch.setattr("anomalib_genclip.pipelines.jobs.run_here", lambda *_: {"epochs": 1})
    job = Job({"action": "test"}, {"model": "x"})
    kept = tmp_path / "jobs" / f"{job.key}.json"
    kept.parent.mkdir()
    kept.write_bytes(content)
    assert job.run(tmp_path, isolate=False) == {"model": "x", "epochs": 1}
    assert kept.name in caplog.text
    assert read_result(kept) == {"epochs": 1}
