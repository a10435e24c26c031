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

MODELS = {"GenCLIP": ["model/genclip_class_names"], "paper": ["model/genclip_class_names", "model/paper"]}
SETTINGS = {"models": MODELS, "protocols": ["absent.yaml"]}


def test_protocol_that_cannot_be_read_is_a_row(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = reproduce.reproduce(SETTINGS).rows
    assert [(row["data"], row["model"]) for row in rows] == [("absent", "GenCLIP"), ("absent", "paper")]
    assert all("absent.yaml" in row["note"] for row in rows)


@pytest.mark.parametrize(
    "change", [{"protocols": []}, {"protocols": "absent.yaml"}, {"modle": "x"}, {"models": {"a": []}}]
)
def test_wrong_settings_are_refused(change):
    with pytest.raises(ValueError, match=f"{next(iter(change))}.*: .*Settings of a reproduction: models, protocols"):
        reproduce.reproduce(SETTINGS | change)


def test_published_results_stand_beside_measured_ones_and_sources_share_a_training(tmp_path, monkeypatch):
    """The comparisons themselves are not run here."""
    keys = {}

    def compared(settings):
        comparison = validated(Comparison, settings)
        keys[comparison.results_dir.name] = tuple(job.key for job in training_jobs(comparison))
        ours, paper = (entry.model.init_args for entry in comparison.models)
        assert ours["class_name"] == paper["class_name"]
        assert (paper["score_weight"], paper["training"]["vision_dropout"]) == (0, 0)
        assert comparison.jobs_dir == Path("results")
        assert comparison.target[0].init_args["eval_batch_size"] == 32
        if comparison.results_dir.name == "mvtec_to_mpdd":
            msg = "There is no MPDD"
            raise FileNotFoundError(msg)
        found = {**dict.fromkeys(METRIC_NAMES, 0.75), "image_AUROC_low": 0.7, "image_AUROC_high": 0.8}
        return SimpleNamespace(models=SimpleNamespace(rows=[{"model": name, **found} for name in MODELS]))

    monkeypatch.setattr(reproduce, "compare", compared)
    monkeypatch.chdir(tmp_path)
    names = ("visa_to_mvtec", "mvtec_to_visa", "mvtec_to_btech", "mvtec_to_mpdd", "mvtec_to_dagm")
    settings = {"results_dir": "results", "models": MODELS}
    Path("own.yaml").write_text(yaml.safe_dump({**settings, "protocols": [f"data/{name}" for name in names]}))
    assert cli.main(["reproduce", "--config", "own.yaml"]) == 0

    rows = json.loads(Path("results/reproduce.json").read_text())["rows"]
    others = [model for model, *_ in reproduce.PUBLISHED["Visa"]]
    assert len(others) == 8
    published = {"Visa to MVTecAD": others, "MVTecAD to Visa": others}
    labels = (*published, "MVTecAD to BTech", "MVTecAD to MPDD", "MVTecAD to DAGM")
    assert [(row["data"], row["model"]) for row in rows] == [
        (label, model) for label in labels for model in (*published.get(label, []), *MODELS)
    ]
    assert all(row["source"].startswith("measured" if row["model"] in MODELS else "published (") for row in rows)
    of = {(row["data"], row["model"]): row for row in rows}
    winclip, adaptclip = (of["MVTecAD to Visa", name] for name in ("WinCLIP", "AdaptCLIP"))
    assert [winclip[name] for name in ("image_AUROC", "pixel_AUROC", "pixel_AUPRO")] == [0.781, 0.796, 0.568]
    assert (adaptclip["image_AUROC"], adaptclip["pixel_AUROC"]) == (0.848, None)
    measured, failed = of["Visa to MVTecAD", "paper"], of["MVTecAD to MPDD", "GenCLIP"]
    assert (measured["pixel_AUROC"], measured["image_AUROC_low"]) == (0.75, 0.7)
    assert (failed["image_AUROC"], failed["note"]) == (None, "failed: FileNotFoundError: There is no MPDD")
    assert len({keys[name] for name in names[1:]}) == 1
    assert len({key for own in keys.values() for key in own}) == 4  # of each source one training for each model
