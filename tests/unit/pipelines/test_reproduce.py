# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The paper's protocols."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from anomalib_genclip import cli
from anomalib_genclip.evaluation import METRIC_NAMES
from anomalib_genclip.pipelines import reproduce
from anomalib_genclip.pipelines.comparison import Comparison, training_jobs, validated

SETTINGS = {"model": "model/genclip", "protocols": ["absent.yaml"]}


def test_protocol_that_cannot_be_read_is_a_row(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (row,) = reproduce.reproduce(SETTINGS).rows
    assert row["data"] == "absent"
    assert "absent.yaml" in row["note"]


@pytest.mark.parametrize("change", [{"protocols": []}, {"protocols": "absent.yaml"}, {"modle": "x"}])
def test_wrong_settings_are_refused(change):
    with pytest.raises(ValueError, match=f"{next(iter(change))}: .*Settings of a reproduction: model, protocols"):
        reproduce.reproduce(SETTINGS | change)


def test_published_results_stand_beside_measured_ones_and_sources_share_a_training(tmp_path, monkeypatch):
    """The comparisons themselves are not run here."""
    keys = {}

    def compared(settings):
        comparison = validated(Comparison, settings)
        (training,) = training_jobs(comparison)
        keys[comparison.results_dir.name] = training.key
        assert comparison.jobs_dir == Path("results")
        assert comparison.target[0].init_args["eval_batch_size"] == 32
        if comparison.results_dir.name == "mvtec_to_mpdd":
            msg = "There is no MPDD"
            raise FileNotFoundError(msg)
        return SimpleNamespace(models=SimpleNamespace(rows=[dict.fromkeys(METRIC_NAMES, 0.75)]))

    monkeypatch.setattr(reproduce, "compare", compared)
    monkeypatch.chdir(tmp_path)
    names = ("visa_to_mvtec", "mvtec_to_visa", "mvtec_to_btech", "mvtec_to_mpdd", "mvtec_to_dagm")
    settings = {"results_dir": "results", "model": "model/genclip_class_names"}
    Path("own.yaml").write_text(yaml.safe_dump({**settings, "protocols": [f"data/{name}" for name in names]}))
    assert cli.main(["reproduce", "--config", "own.yaml"]) == 0

    rows = json.loads(Path("results/reproduce.json").read_text())["rows"]
    assert [(row["data"], row["model"], row["source"].split()[0]) for row in rows] == [
        ("Visa to MVTecAD", "WinCLIP", "published"),
        ("Visa to MVTecAD", "AnomalyCLIP", "published"),
        ("Visa to MVTecAD", "GenCLIP", "measured"),
        ("MVTecAD to Visa", "WinCLIP", "published"),
        ("MVTecAD to Visa", "AnomalyCLIP", "published"),
        ("MVTecAD to Visa", "GenCLIP", "measured"),
        ("MVTecAD to BTech", "GenCLIP", "measured"),
        ("MVTecAD to MPDD", "GenCLIP", "measured"),
        ("MVTecAD to DAGM", "GenCLIP", "measured"),
    ]
    assert (rows[0]["image_AUROC"], rows[0]["pixel_AUROC"]) == (0.918, 0.851)
    assert (rows[4]["image_AP"], rows[4]["pixel_AUPRO"]) == (0.853, 0.867)
    assert rows[2]["pixel_AUROC"] == 0.75
    assert rows[7]["image_AUROC"] is None
    assert rows[7]["note"] == "failed: FileNotFoundError: There is no MPDD"
    assert len({keys[name] for name in names[1:]}) == 1
    assert len(set(keys.values())) == 2
