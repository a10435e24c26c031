# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Metrics per category, of tests and while training: values, keys, several runs and processes, report."""

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from anomalib import LearningType
from anomalib.callbacks import ModelCheckpoint
from anomalib.data import ImageBatch
from anomalib.engine import Engine
from anomalib.models.components import AnomalibModule
from helpers import data_trees
from helpers.runs import engine
from helpers.scored import SIZE, anomalib_metrics, collate, scored
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping
from torch.utils.data import DataLoader

from anomalib_genclip import CrossDataset, GenCLIP
from anomalib_genclip.evaluation import METRIC_NAMES, CategoryEvaluator, EvaluationResult

pytestmark = pytest.mark.usefixtures("one_thread")


def trainer_in(folder: Path, *categories: str) -> SimpleNamespace:
    """What the evaluator asks of a trainer, with a loader for each category of a dataset called MVTecAD."""
    name = "MVTecAD" if categories else None
    loaders = [SimpleNamespace(dataset=SimpleNamespace(name=name, category=own)) for own in categories or [None]]
    metrics = {"callback_metrics": {}, "logged_metrics": {}, "test_dataloaders": loaders}
    run = {"global_rank": 0, "world_size": 1, "is_global_zero": True, "barebones": True, "datamodule": None}
    run["test_loop"] = SimpleNamespace()
    stage = {"training": False, "validating": False, "sanity_checking": False, "testing": True}
    return SimpleNamespace(default_root_dir=folder, **run, **metrics, **stage)


def run(evaluator: CategoryEvaluator, items: list[dict], trainer: SimpleNamespace, batch_size: int = 4) -> dict:
    """Test scored images; returns what is logged."""
    evaluator.on_test_start(trainer, None)
    for number, start in enumerate(range(0, len(items), batch_size)):
        evaluator.on_test_batch_end(trainer, None, None, collate(items[start : start + batch_size]), number)
    evaluator.on_test_epoch_end(trainer, None)
    evaluator.on_test_end(trainer, None)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def evaluate(items: list[dict], folder: Path, batch_size: int = 4, **arguments) -> EvaluationResult:
    evaluator = CategoryEvaluator(**{"report": False} | arguments)
    run(evaluator, items, trainer_in(folder), batch_size)
    return evaluator.result


@pytest.fixture(scope="module")
def data() -> list[dict]:
    """Three categories of unequal size, an odd number of images."""
    return scored("bottle", 10) + scored("cable", 7) + scored("screw", 4)


@pytest.fixture(scope="module")
def result(data, tmp_path_factory) -> EvaluationResult:
    """The exact result on them."""
    return evaluate(data, tmp_path_factory.mktemp("run"))


def test_each_category_equals_anomalib_alone_and_is_logged(data, result, tmp_path):
    shuffled = [data[index] for index in torch.randperm(len(data)).tolist()]
    evaluator = CategoryEvaluator(report=False)
    logged = run(evaluator, shuffled, trainer_in(tmp_path), batch_size=5)
    assert evaluator.result == result
    assert list(result.categories) == ["bottle", "cable", "screw"]
    assert len(logged) == 4 * len(METRIC_NAMES)
    rows = {name: anomalib_metrics([item for item in data if item["category"] == name]) for name in result.categories}
    for category, row in rows.items():
        assert {name: logged[f"{category}/{name}"] for name in METRIC_NAMES} == pytest.approx(row, abs=1e-6)
    for name in METRIC_NAMES:
        assert logged[name] == pytest.approx(sum(row[name] for row in rows.values()) / 3, abs=1e-6)


@pytest.mark.parametrize("images", [0, 3, 20, 21])
def test_beyond_the_budget_nothing_is_lost_and_one_map_per_category_is_kept(data, result, tmp_path, images):
    evaluator, trainer, kept = CategoryEvaluator(pixel_budget=images * SIZE**2, report=False), trainer_in(tmp_path), []
    for number, item in enumerate(data):
        evaluator.on_test_batch_end(trainer, None, None, collate([item]), number)
        kept.append(sum(len(category.maps) for category in evaluator._categories.values()))
    evaluator.on_test_epoch_end(trainer, None)
    exact = images == len(data)
    assert evaluator.result.streamed == ([] if exact else list(result.categories))
    for category, row in result.categories.items():
        assert evaluator.result.categories[category] == pytest.approx(row, abs=0 if exact else 1e-3)
    assert max(kept) <= max(3, images)
    assert not evaluator._categories


def test_datasets_are_named_where_they_share_a_category(tmp_path):
    both = scored("bottle", 4, "A") + scored("nut", 4, "A") + scored("bottle", 6, "B")
    assert set(evaluate(both, tmp_path).categories) == {"A/bottle", "B/bottle", "nut"}


@pytest.mark.parametrize("barebones", [False, True])
def test_engine_returns_the_figures_and_shows_one_table(data, result, tmp_path, capsys, barebones):

    class ZeroShot(AnomalibModule):
        learning_type = LearningType.ZERO_SHOT
        trainer_arguments = {}  # noqa: RUF012

        def validation_step(self, batch, *_args):
            return batch

        test_step = validation_step

    evaluator = CategoryEvaluator(report=not barebones)
    model = ZeroShot(pre_processor=False, post_processor=False, visualizer=False, evaluator=evaluator)
    arguments = {"barebones": True} if barebones else {"logger": False, "enable_progress_bar": False}
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", **arguments)
    loader = DataLoader(data, batch_size=4, collate_fn=collate)
    returned = engine.test(model, dataloaders=loader)[0]
    shown = capsys.readouterr().out
    assert ("Test metrics in percent" in shown) == (not barebones)
    assert "DataLoader 0" not in shown  # Lightning's table
    assert returned == pytest.approx(result.logged(), abs=1e-6)
    assert engine.trainer.callback_metrics.keys() == returned.keys()


class Epochs(Callback):
    """Write down what the validation of each epoch logs."""

    def __init__(self) -> None:
        self.figures = []

    def on_train_epoch_end(self, trainer, pl_module):
        """Write down the figures, before a checkpoint is written."""
        del pl_module
        self.figures.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def test_training_stops_early_and_keeps_the_epoch_that_is_best_in_a_test_on_the_held_out_images(tmp_path):
    source = data_trees.mvtec_ad(tmp_path / "source", ("cable", "tile"), normal=6, anomalous=6)
    target = data_trees.mvtec_ad(tmp_path / "target")
    categories = {"source_categories": ["cable", "tile"], "val_split_ratio": 0.5}
    data = CrossDataset(source=source, target=target, **categories, **data_trees.LOADING)
    stop = EarlyStopping("pixel_AUPRO", mode="max", patience=2, min_delta=1)  # nothing improves by so much
    best, epochs = ModelCheckpoint(monitor="pixel_AUPRO", mode="max"), Epochs()
    run = engine(tmp_path / "results", max_epochs=20, callbacks=[stop, best, epochs])
    model = GenCLIP(backbone="tiny", image_size=32, visualizer=False, seed=0)
    run.fit(model, datamodule=data)
    assert (stop.stopped_epoch, len(epochs.figures)) == (2, 3)
    highest = max(epochs.figures, key=lambda figures: figures["pixel_AUPRO"])
    assert float(best.best_model_score) == highest["pixel_AUPRO"]
    (tested,) = run.test(model, dataloaders=data.val_dataloader(), verbose=False)
    assert {name: tested[name] for name in METRIC_NAMES} == pytest.approx(
        {name: highest[name] for name in METRIC_NAMES}, abs=1e-6
    )


def test_plain_batches_belong_to_their_loaders_category(tmp_path):
    fields = vars(collate(scored("tile", 4)))
    fields = {
        name.lstrip("_"): value for name, value in fields.items() if name.strip("_") not in {"category", "dataset"}
    }
    for categories, names in ((["tile", "wood", ""], ["MVTecAD", "tile", "wood"]), ([], ["test"])):
        evaluator, trainer = CategoryEvaluator(report=False), trainer_in(tmp_path, *categories)
        for number in range(len(trainer.test_dataloaders)):
            evaluator.on_test_batch_end(trainer, None, None, ImageBatch(**fields), 0, number)
        evaluator.on_test_epoch_end(trainer, None)
        assert list(evaluator.result.categories) == names
        assert len(trainer.callback_metrics) == (4 if categories else 1) * len(METRIC_NAMES)  # of one the means alone


def test_what_is_undefined_is_not_logged_and_a_warning(data, result, tmp_path, caplog):
    items = data[:10] + scored("cable", 7, gt_mask=None)
    with caplog.at_level(logging.WARNING):
        logged = run(CategoryEvaluator(report=False), items, trainer_in(tmp_path), batch_size=1)
    assert "cable: pixel metrics undefined" in caplog.text
    assert logged["pixel_AUROC"] == pytest.approx(result.categories["bottle"]["pixel_AUROC"])
    assert "cable/pixel_AUROC" not in logged
    assert "cable/image_AUROC" in logged


def test_the_report_names_the_categories_whose_maps_differ_in_size(data, tmp_path):
    """Such maps cannot be computed exactly, whatever the budget is."""
    cut = scored("cable", 4, anomaly_map=torch.rand(SIZE, 5), gt_mask=torch.rand(SIZE, 5) > 0.5)
    result = evaluate(scored("cable", 7)[4:] + cut + data[:10], tmp_path, batch_size=1)
    assert result.streamed == ["cable"]
    assert result.table().remarks[0].startswith("Pixel metrics: streaming for cable (histograms")


def test_map_and_mask_of_different_size_are_refused(data, tmp_path):
    bad = [item | {"gt_mask": item["gt_mask"][:5]} for item in data]
    with pytest.raises(ValueError, match=r"one size, got \(4, 24, 24\) and \(4, 5, 24\)"):
        evaluate(bad, tmp_path)


def test_runs_do_not_leak_into_each_other(data, result, tmp_path):
    evaluator, trainer = CategoryEvaluator(report=False), trainer_in(tmp_path)
    run(evaluator, scored("bottle", 8), trainer)
    evaluator.on_test_batch_end(trainer, None, None, collate(scored("other", 8)), 0)
    run(evaluator, data, trainer)
    assert evaluator.result == result


def test_images_without_a_path_all_count_and_later_changes_to_a_batch_do_not(data, result, tmp_path):
    """What runs after the evaluator may write into the batch."""
    evaluator, trainer = CategoryEvaluator(report=False), trainer_in(tmp_path)
    for number in range(0, len(data), 4):
        batch = collate([item | {"image_path": None} for item in data[number : number + 4]])
        evaluator.on_test_batch_end(trainer, None, None, batch, number)
        batch.anomaly_map.zero_()
        batch.gt_mask.zero_()
    evaluator.on_test_epoch_end(trainer, None)
    assert evaluator.result.mean == pytest.approx(result.mean, abs=1e-6)
    assert not evaluator.result.notes


@pytest.mark.parametrize("budget", [-1, 1.5, "many", None])
def test_bad_budgets_are_refused(budget):
    with pytest.raises(ValueError, match=r"pixel_budget=.*a whole number >=0"):
        CategoryEvaluator(pixel_budget=budget)


def test_evaluator_holds_nothing_that_cannot_be_pickled_from_python_3_14_on():
    assert not [value for value in vars(CategoryEvaluator()).values() if type(value).__module__ == "itertools"]


@pytest.mark.parametrize("report", [True, False])
def test_report_is_written_and_shown(data, tmp_path, capsys, report):
    result = evaluate(data, tmp_path, report=report)
    shown = capsys.readouterr().out
    assert (f"{100 * result.mean['pixel_AUPRO']:.1f}" in shown) == report
    assert ("Report: metrics.csv, metrics.json, metrics.md, metrics.png" in shown) == report
    names = ["metrics.csv", "metrics.json", "metrics.md", "metrics.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == (names if report else [])
