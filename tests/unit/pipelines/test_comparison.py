# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The comparison of models on tiny data."""

import json
from itertools import product
from statistics import fmean, stdev

import pytest
from helpers import data_trees
from helpers.comparisons import LOADING, SMALL, rows_of, settings_for
from helpers.runs import engine
from PIL import Image

from anomalib_genclip import GenCLIP
from anomalib_genclip.data.normal_images import file_hash
from anomalib_genclip.evaluation import CategoryEvaluator
from anomalib_genclip.evaluation.result import METRIC_NAMES
from anomalib_genclip.pipelines import task
from anomalib_genclip.pipelines.comparison import compare, target_parts
from anomalib_genclip.pipelines.measure import measure


def test_every_model_is_tested_on_every_category_with_the_same_images_and_metrics(compared):
    for model in ("GenCLIP", "whitest", "PatchCore"):
        rows = rows_of(compared.tables, model)
        assert [row["category"] for row in rows] == ["bottle", "wood"]
        assert all(row["images"] == 8 and set(METRIC_NAMES) <= row.keys() for row in rows), model


def test_zero_shot_model_of_anomalibs_kind_finds_the_white_squares(compared):
    # anomalib's own benchmark job cannot run such a model: it has no `val_dataloader`.
    assert all(row["image_AUROC"] == row["pixel_AUROC"] == 1 for row in rows_of(compared.tables, "whitest"))


def test_model_that_fails_is_a_row_that_says_why(compared):
    rows = rows_of(compared.tables, "absent")
    assert len(rows) == 2
    assert all("FileNotFoundError" in row["error"] and "absent.safetensors" in row["error"] for row in rows)
    summary = compared.tables.models.rows[-1]
    assert summary["categories"] == "0 of 2"
    assert summary["image_AUROC"] is None
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
    markdown = (compared.folder / "comparison.md").read_text()
    assert "| whitest | zero_shot | 2 of 2 | 100.0 |" in markdown
    assert "different categories" in markdown or "0 of 2" in markdown
    assert Image.open(compared.folder / "comparison.png").size[0] > 500
    assert "bottle" in (compared.folder / "comparison_by_category.csv").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modles": []}, "unknown settings modles"),
        ({"models": []}, "at least one"),
        ({"models": [{"name": "a", "protocol": "few_shot", "model": {}}]}, "protocol 'few_shot' is unknown"),
        ({"models": [{"name": "a", "protocol": "cross_dataset", "model": {}}]}, "needs a source"),
        ({"models": [{"name": "a", "protocol": "zero_shot", "model": {}, "epochs": 1}]}, "unknown settings epochs"),
        ({"models": [{"name": "a", "protocol": "zero_shot", "model": {}}] * 2}, "unique name"),
        ({"models": [{"name": "a", "protocol": "zero_shot", "model": {}, "seeds": 3}]}, "must be a list"),
        ({"models": [{"name": "a", "protocol": "zero_shot", "model": {}, "k_shot": 4}]}, "k_shot=4 must be a list"),
        ({"models": [{"name": "a", "protocol": "one_class", "model": {}, "k_shot": [0, 1]}]}, "at least 1"),
        ({"target_categories": ["spoon"]}, "spoon"),
        ({"target": {"class_path": "MVTecADD"}}, "no datamodule 'MVTecADD'"),
        ({"target": {"init_args": {}}}, "The target lacks class_path"),
    ],
)
def test_wrong_settings_are_refused_before_anything_runs(comparison_data, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        compare({**settings_for(comparison_data, tmp_path), **change})
    assert not (tmp_path / "jobs").exists()


def test_seeds_are_trained_and_tested_one_by_one_and_shown_as_mean_and_spread(comparison_data, tmp_path):
    settings = settings_for(comparison_data, tmp_path)
    settings["models"] = [settings["models"][0] | {"seeds": [0, 1]}]
    tables = compare(settings)
    assert [(row["seed"], row["category"]) for row in tables.rows] == list(product([0, 1], ["bottle", "wood"]))
    assert len(list((tmp_path / "checkpoints").glob("*.ckpt"))) == 2
    (summary,) = tables.models.rows
    means = [fmean(row["pixel_AUROC"] for row in tables.rows if row["seed"] == seed) for seed in (0, 1)]
    assert summary["pixel_AUROC"] == pytest.approx(fmean(means))
    assert summary["pixel_AUROC_std"] == pytest.approx(stdev(means)) != 0
    assert summary["categories"] == "2 of 2"
    assert f"{100 * fmean(means):.1f} ± {100 * stdev(means):.1f}" in tables.models.as_markdown()


def test_shots_are_rows_and_every_model_gets_the_same_images(comparison_data, tmp_path, monkeypatch):
    given = {}

    def measured(model, target, **options):
        result = measure(model, target, **options)
        files = target.train_data.samples.image_path
        given[options["protocol"], options["seed"], len(files)] = set(files)
        if options["protocol"] == "zero_shot":
            (references,) = model.model.references.describe() or [{"images": []}]
            assert set(references["images"]) == {file_hash(file) for file in files}.intersection(references["images"])
            assert len(references["images"]) == model.product.k_shot
        return result

    monkeypatch.setattr(task, "measure", measured)
    settings = settings_for(comparison_data, tmp_path) | {"target_categories": ["wood"]}
    genclip = {"class_path": "GenCLIP", "init_args": SMALL}
    patchcore = settings["models"][2]["model"]
    settings["models"] = [
        {"name": "GenCLIP", "protocol": "zero_shot", "model": genclip, "k_shot": [0, 2], "seeds": [0, 1]},
        {"name": "PatchCore", "protocol": "one_class", "model": patchcore, "k_shot": [2], "seeds": [0, 1]},
    ]
    tables = compare(settings)
    names = ["GenCLIP, k = 0", "GenCLIP, k = 2", "PatchCore, k = 2"]
    assert [row["model"] for row in tables.models.rows] == names
    assert not any("error" in row for row in tables.rows)
    for seed in (0, 1):
        assert given["zero_shot", seed, 2] == given["one_class", seed, 2]
    assert given["zero_shot", 0, 2] != given["zero_shot", 1, 2]
    assert "pixel_AUROC_std" in tables.models.rows[1]


def test_categories_are_shared_out_among_targets(tmp_path):
    targets = []
    for category in ("bottle", "wood"):
        data_trees.mvtec_ad(tmp_path / category, (category,), normal=2, anomalous=2)
        init_args = {"root": str(tmp_path / category), "category": category}
        targets.append({"class_path": "MVTecAD", "init_args": init_args})
    parts = target_parts(targets, ["wood", "bottle"])
    assert [(part.label, part.target) for part in parts] == [("bottle", targets[0]), ("wood", targets[1])]
    with pytest.raises(ValueError, match="not found: tile"):
        target_parts(targets, ["wood", "bottle", "tile"])
