# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""What a job does, here or in a process of its own."""

from types import SimpleNamespace

import torch
from helpers.comparisons import mvtec, rows_of

from anomalib_genclip.evaluation.result import METRIC_NAMES
from anomalib_genclip.pipelines import task


def test_model_that_anomalib_does_not_know_is_named(tmp_path):
    settings = {"action": "test", "model": {"class_path": "NoSuchModel"}, "accelerator": "cpu", "seed": 0, "k_shot": 0}
    assert "NoSuchModel" in task.run_here(settings, tmp_path / "log")["error"]
    assert "Traceback" in (tmp_path / "log").read_text()


def test_same_seed_gives_the_same_figures_even_for_random_weights(compared, comparison_data, tmp_path):
    model = compared.settings["models"][2]["model"]
    settings = {"action": "test", "model": model, "protocol": "one_class", "trainer": {}}
    settings |= {
        "target": mvtec(comparison_data / "target"),
        "category": "wood",
        "accelerator": "cpu",
        "seed": 1,
        "k_shot": 0,
    }
    settings |= {"checkpoint": None, "seed": 1, "k_shot": 0}
    torch.rand(7)
    again = task.run_here(settings, tmp_path / "log")
    row = rows_of(compared.tables, "PatchCore")[1]
    assert {name: again[name] for name in METRIC_NAMES} == {name: row[name] for name in METRIC_NAMES}


def test_process_that_dies_is_a_failure_with_its_code(monkeypatch, tmp_path):
    monkeypatch.setattr(task.subprocess, "run", lambda *_args, **_kwargs: SimpleNamespace(returncode=-9))
    error = task.run_isolated({"action": "test"}, tmp_path / "log")["error"]
    assert "code -9" in error
    assert "memory" in error


def test_process_that_cannot_write_its_answer_is_a_failure(tmp_path, monkeypatch):
    class Full:
        """A temporary folder in which nothing can be written."""

        def __enter__(self):
            return str(tmp_path / "absent")

        def __exit__(self, *_):
            return None

    monkeypatch.setattr(task, "TemporaryDirectory", Full)
    result = task.run_isolated({"action": "nonsense"}, tmp_path / "log.txt")
    assert "the process ended with code 1" in result["error"]
