# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The comparison of models on tiny data."""

import json

import pytest
from helpers import data_trees
from helpers.comparisons import LOADING, SMALL, rows_of, settings_for
from helpers.runs import engine
from PIL import Image

from anomalib_genclip import GenCLIP
from anomalib_genclip.evaluation import METRIC_NAMES, CategoryEvaluator
from anomalib_genclip.pipelines.comparison import Comparison, compare, target_parts, test_jobs, training_jobs, validated

test_jobs.__test__ = False


def test_every_model_is_tested_on_every_category_with_the_same_images_and_metrics(compared):
    for model in ("GenCLIP", "whitest", "PatchCore"):
        rows = rows_of(compared.tables, model)
        assert [row["category"] for row in rows] == ["bottle", "wood"]
        assert all(row["images"] == 8 and set(METRIC_NAMES) <= row.keys() for row in rows), model
    # anomalib's own benchmark job cannot run such a model: it has no `val_dataloader`.
    assert all(row["image_AUROC"] == row["pixel_AUROC"] == 1 for row in rows_of(compared.tables, "whitest"))


def test_model_that_fails_is_a_row_that_says_why(compared):
    rows = rows_of(compared.tables, "absent")
    assert len(rows) == 2
    assert all("FileNotFoundError" in row["error"] and "absent.safetensors" in row["error"] for row in rows)
    summary = compared.tables.models.rows[-1]
    assert (summary["categories"], summary["image_AUROC"]) == ("0 of 2", None)
    assert "FileNotFoundError" in summary["note"]


def test_figures_are_those_of_testing_the_checkpoint_by_hand(compared, comparison_data, tmp_path):
    (checkpoint,) = (compared.folder / "checkpoints").glob("*.ckpt")
    model = GenCLIP(**SMALL, visualizer=False, evaluator=CategoryEvaluator(report=False))
    target = data_trees.MVTecAD(root=comparison_data / "target", category="wood", **LOADING)
    (result,) = engine(tmp_path).test(model, datamodule=target, ckpt_path=checkpoint)
    row = rows_of(compared.tables, "GenCLIP")[1]
    assert {name: row[name] for name in METRIC_NAMES} == pytest.approx(result, abs=1e-6)


def test_files_are_written(compared):
    content = json.loads((compared.folder / "comparison.json").read_text())
    assert [row["model"] for row in content["rows"]] == ["GenCLIP", "whitest", "PatchCore", "absent"]
    assert "| whitest | zero_shot | 2 of 2 | 100.0 [100.0, 100.0] |" in (compared.folder / "comparison.md").read_text()
    assert Image.open(compared.folder / "comparison.png").size[0] > 500
    assert "bottle" in (compared.folder / "comparison_by_category.csv").read_text()
    pairs = json.loads((compared.folder / "comparison_differences.json").read_text())["rows"]
    assert [(row["model"], row["other"]) for row in pairs] == [
        ("GenCLIP", "whitest"),
        ("GenCLIP", "PatchCore"),
        ("whitest", "PatchCore"),
    ]
    assert pairs[0]["pixel_AUROC"] == pytest.approx(content["rows"][0]["pixel_AUROC"] - 1)


MODEL = {"name": "a", "protocol": "zero_shot", "model": {"class_path": "Padim"}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modles": []}, "modles: Extra inputs are not permitted.*Settings of a comparison: target, target_categories"),
        ({"models": []}, "models: List should have at least 1 item"),
        ({"models": [5]}, "models.0: Input should be a valid dictionary"),
        ({"models": [MODEL | {"protocol": "few_shot"}]}, "protocol: Input should be 'cross_dataset', 'zero_shot' or"),
        ({"models": [MODEL | {"protocol": "cross_dataset"}]}, "needs a source"),
        ({"models": [MODEL | {"source": {"class_path": "Visa"}}]}, "no other protocol takes one"),
        ({"models": [MODEL | {"epochs": 1}]}, "models.0.epochs: Extra inputs are not permitted"),
        ({"models": [MODEL, MODEL]}, "unique name"),
        ({"models": [MODEL | {"k_shot": [-1]}]}, "k_shot.0: Input should be greater than or equal to 0"),
        ({"models": [MODEL | {"protocol": "one_class", "k_shot": [0, 1]}]}, "at least 1"),
        ({"target_categories": ["spoon"]}, "spoon"),
        ({"target": {"class_path": "MVTecADD"}}, "no datamodule 'MVTecADD'"),
        ({"target": {"init_args": {}}}, "target.0.class_path: Field required"),
    ],
)
def test_wrong_settings_are_refused_before_anything_runs(comparison_data, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        compare({**settings_for(comparison_data, tmp_path), **change})
    assert not (tmp_path / "jobs").exists()


def test_there_is_a_training_for_each_seed_and_a_test_for_each_seed_category_and_number_of_images(
    comparison_data, tmp_path
):
    settings = settings_for(comparison_data, tmp_path)
    settings["models"][0] |= {"seeds": [0, 1], "k_shot": [0, 2]}
    settings["models"] = settings["models"][:2]
    comparison = validated(Comparison, settings)
    training = training_jobs(comparison)
    assert [job.labels for job in training] == [{"model": "GenCLIP", "seed": 0}, {"model": "GenCLIP", "seed": 1}]
    assert len({job.key for job in training}) == 2
    trained = [{**training[0].labels, "checkpoint": "0.ckpt"}, {**training[1].labels, "error": "no memory"}]
    jobs = test_jobs(comparison, target_parts(comparison), trained)
    assert [list(job.labels.values()) for job in jobs] == [
        *(
            [f"GenCLIP, k = {k}", "cross_dataset", category, seed]
            for k in (0, 2)
            for seed in (0, 1)
            for category in ("bottle", "wood")
        ),
        ["whitest", "zero_shot", "bottle", 1],
        ["whitest", "zero_shot", "wood", 1],
    ]
    assert [job.settings["checkpoint"] for job in jobs[:4]] == ["0.ckpt", "0.ckpt", None, None]
    assert [job.failure for job in jobs[1:3]] == ["", "training failed: no memory"]
    assert [job.settings["k_shot"] for job in jobs] == [0] * 4 + [2] * 4 + [0] * 2
