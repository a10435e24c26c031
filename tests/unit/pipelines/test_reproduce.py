# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The paper's protocols."""

import json
from pathlib import Path

import pytest
import yaml
from helpers import data_trees
from helpers.comparisons import ROOT, SMALL

from anomalib_genclip import cli
from anomalib_genclip.evaluation.result import METRIC_NAMES
from anomalib_genclip.pipelines.reproduce import reproduce as reproduce_protocols


def test_protocol_that_cannot_be_read_is_a_row(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {"model": "model.yaml", "protocols": ["absent.yaml"]}
    (row,) = reproduce_protocols(settings).rows
    assert row["data"] == "absent"
    assert "absent.yaml" in row["note"]
    for protocols in ([], "absent.yaml"):
        with pytest.raises(ValueError, match="protocols must be a list"):
            reproduce_protocols({**settings, "protocols": protocols})


def test_reproduction_puts_published_beside_measured_and_trains_once_per_source(tmp_path, monkeypatch):
    data_trees.mvtec_ad(tmp_path / "datasets" / "MVTecAD", ("bottle",), normal=6, anomalous=6)
    data_trees.visa(tmp_path / "datasets" / "visa", ("candle",), normal=6, anomalous=6)
    data_trees.btech(tmp_path / "datasets" / "BTech", ("01",))
    model = yaml.safe_load((ROOT / "configs" / "model" / "genclip_class_names.yaml").read_text())
    model["init_args"] |= SMALL
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(model))
    names = ("visa_to_mvtec", "mvtec_to_visa", "mvtec_to_btech", "mvtec_to_mpdd")
    for name in names:
        content = yaml.safe_load((ROOT / "configs" / "data" / f"{name}.yaml").read_text())
        content["init_args"]["num_workers"] = 0
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
    settings = {
        "results_dir": "results",
        "accelerator": "cpu",
        "isolate": False,
        "trainer": {"max_epochs": 1},
        "model": "model.yaml",
        "protocols": [f"{name}.yaml" for name in names],
    }
    (tmp_path / "reproduce.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["reproduce", "--config", "reproduce.yaml"]) == 0

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
    ]
    assert (rows[0]["image_AUROC"], rows[0]["pixel_AUROC"]) == (0.918, 0.851)
    assert (rows[4]["image_AP"], rows[4]["pixel_AUPRO"]) == (0.853, 0.867)
    assert all(0 <= rows[i][name] <= 1 for i in (2, 5, 6) for name in METRIC_NAMES)
    assert rows[7]["image_AUROC"] is None
    assert "failed" in rows[7]["note"]
    assert len(list(Path("results/checkpoints").glob("*.ckpt"))) == 2
