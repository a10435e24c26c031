# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Test metrics per category: values, keys, several runs and processes, report."""

import json
import logging
from pathlib import Path

import pytest
import torch
from anomalib import LearningType
from anomalib.data import ImageBatch
from anomalib.engine import Engine
from anomalib.models.components import AnomalibModule
from helpers.runs import QUIET
from helpers.scored import SIZE, anomalib_metrics, collate, scored
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from anomalib_genclip.data.batch import CategoryBatch
from anomalib_genclip.evaluation import METRIC_NAMES, CategoryEvaluator, EvaluationResult
from anomalib_genclip.utils.distributed import processes

pytestmark = pytest.mark.usefixtures("one_thread")


class Bare(LightningModule):
    """A module that does nothing but carry an evaluator, and other callbacks after it."""

    def __init__(self, evaluator: CategoryEvaluator, *others: Callback) -> None:
        super().__init__()
        self.evaluator = evaluator
        self.configure_callbacks = lambda: [evaluator, *others]

    def validation_step(self, batch: CategoryBatch, batch_idx: int, dataloader_idx: int = 0) -> CategoryBatch:
        """Leave the batch as it is."""
        del batch_idx, dataloader_idx
        return batch

    test_step = validation_step


def trainer_in(folder: Path, **arguments) -> Trainer:
    return Trainer(accelerator="cpu", default_root_dir=folder, enable_checkpointing=False, **(QUIET | arguments))


def loader(items: list[dict], batch_size: int = 4) -> DataLoader:
    return DataLoader(items, batch_size=batch_size, collate_fn=collate)


def evaluate(items, folder: Path, batch_size: int = 4, **arguments) -> tuple[dict[str, float], EvaluationResult]:
    evaluator = CategoryEvaluator(**({"report": False} | arguments))
    logged = trainer_in(folder).test(Bare(evaluator), loader(items, batch_size), verbose=False)[0]
    return logged, evaluator.result


@pytest.fixture(scope="module")
def data() -> list[dict]:
    return scored("bottle", 10) + scored("cable", 7) + scored("screw", 4)


@pytest.fixture(scope="module")
def result(data, tmp_path_factory) -> EvaluationResult:
    return evaluate(data, tmp_path_factory.mktemp("run"))[1]


def test_each_category_equals_anomalib_alone_and_is_logged(data, result, tmp_path):
    shuffled = [data[index] for index in torch.randperm(len(data)).tolist()]
    logged, again = evaluate(shuffled, tmp_path, batch_size=5)
    assert again.categories == result.categories
    assert not again.streamed
    assert list(result.categories) == ["bottle", "cable", "screw"]
    assert len(logged) == 4 * len(METRIC_NAMES)
    rows = {name: anomalib_metrics([item for item in data if item["category"] == name]) for name in result.categories}
    for category, row in rows.items():
        assert {name: logged[f"{category}/{name}"] for name in METRIC_NAMES} == pytest.approx(row, abs=1e-6)
    for name in METRIC_NAMES:
        assert logged[name] == pytest.approx(sum(row[name] for row in rows.values()) / 3, abs=1e-6)


@pytest.mark.parametrize("budget", [0, 3 * SIZE * SIZE, 20 * SIZE * SIZE, 21 * SIZE * SIZE])
def test_beyond_the_budget_nothing_is_lost_and_one_map_per_category_is_kept(data, result, tmp_path, budget):
    kept = []

    class Watch(Callback):
        def on_test_batch_end(self, *_):
            kept.append(sum(len(category.maps) for category in evaluator._categories.values()))

    evaluator = CategoryEvaluator(pixel_budget=budget, report=False)
    trainer_in(tmp_path).test(Bare(evaluator, Watch()), loader(data), verbose=False)
    exact = budget == len(data) * SIZE * SIZE
    assert evaluator.result.streamed == ([] if exact else list(result.categories))
    for category, row in result.categories.items():
        assert evaluator.result.categories[category] == pytest.approx(row, abs=0 if exact else 1e-3)
    assert max(kept) <= max(3, budget // SIZE**2)
    assert not evaluator._categories


def test_half_precision_maps_of_images_without_a_path_all_count(data, result, tmp_path):
    halves = [item | {"anomaly_map": item["anomaly_map"].half(), "image_path": None} for item in data]
    _, nameless = evaluate(halves, tmp_path)
    assert nameless.mean == pytest.approx(result.mean, abs=1e-2)
    assert not nameless.notes


def test_data_sets_are_named_where_they_share_a_category(tmp_path):
    both = scored("bottle", 4, "A") + scored("nut", 4, "A") + scored("bottle", 6, "B")
    assert set(evaluate(both, tmp_path)[1].categories) == {"A/bottle", "B/bottle", "nut"}


@pytest.mark.parametrize("barebones", [False, True])
def test_engine_returns_the_figures(data, result, tmp_path, barebones):
    """Through anomalib's engine, logging allowed or not."""

    class ZeroShot(AnomalibModule):
        learning_type = LearningType.ZERO_SHOT
        trainer_arguments = {}  # noqa: RUF012

        def validation_step(self, batch, *_args):
            return batch

        test_step = validation_step

    evaluator = CategoryEvaluator(report=False)
    model = ZeroShot(pre_processor=False, post_processor=False, visualizer=False, evaluator=evaluator)
    arguments = {"barebones": True} if barebones else {"logger": False, "enable_progress_bar": False}
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", **arguments)
    returned = engine.test(model, dataloaders=loader(data), verbose=False)[0]
    assert returned == pytest.approx(result.logged(), abs=1e-6)
    assert engine.trainer.callback_metrics.keys() == returned.keys()


class Named(list):
    """Images of a dataset that has a name and a category, as anomalib's have."""

    name, category = "MVTecAD", ""


def test_plain_batches_belong_to_their_loaders_category(tmp_path):
    """Anomalib's own datamodules serve batches without categories; two loaders are two categories."""

    def plain(items: list[dict]) -> ImageBatch:
        fields = {name.lstrip("_"): value for name, value in vars(collate(items)).items()}
        return ImageBatch(**{name: value for name, value in fields.items() if name not in {"category", "dataset"}})

    loaders = [DataLoader(Named(scored(name, 4)), batch_size=2, collate_fn=plain) for name in ("tile", "wood", "")]
    for one, name in zip(loaders, ("tile", "wood", ""), strict=True):
        one.dataset.category = name
    evaluator = CategoryEvaluator(report=False)
    trainer_in(tmp_path).test(Bare(evaluator), loaders, verbose=False)
    assert list(evaluator.result.categories) == ["MVTecAD", "tile", "wood"]
    without_names = DataLoader(scored("tile", 4), batch_size=2, collate_fn=plain)
    trainer_in(tmp_path).test(Bare(evaluator), without_names, verbose=False)
    assert list(evaluator.result.categories) == ["test"]


def test_what_is_undefined_is_not_logged_and_a_warning(data, result, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        logged, _ = evaluate(data[:10] + scored("cable", 7, gt_mask=None), tmp_path, batch_size=1)
    assert "cable: pixel metrics undefined" in caplog.text
    assert logged["pixel_AUROC"] == pytest.approx(result.categories["bottle"]["pixel_AUROC"])
    assert "cable/pixel_AUROC" not in logged
    assert "cable/image_AUROC" in logged


def test_the_report_names_the_categories_whose_maps_differ_in_size(data, tmp_path):
    """Such maps cannot be computed exactly, whatever the budget is."""
    cut = scored("cable", 4, anomaly_map=torch.rand(SIZE, 5), gt_mask=torch.rand(SIZE, 5) > 0.5)
    _, result = evaluate(scored("cable", 7)[4:] + cut[:4] + data[:10], tmp_path, batch_size=1)
    assert result.streamed == ["cable"]
    assert result.table().remarks[0].startswith("Pixel metrics: streaming for cable (histograms")


def test_map_and_mask_of_different_size_are_refused(data, tmp_path):
    bad = [item | {"gt_mask": item["gt_mask"][:5]} for item in data]
    with pytest.raises(ValueError, match=r"one size, got \(4, 24, 24\) and \(4, 5, 24\)"):
        evaluate(bad, tmp_path)


def test_runs_do_not_leak_into_each_other(data, result, tmp_path):
    """Neither a finished run nor one that broke off changes the next."""

    class BreakOff(Callback):
        def on_test_batch_end(self, *_):
            raise KeyboardInterrupt

    evaluator = CategoryEvaluator(report=False)
    model, trainer = Bare(evaluator), trainer_in(tmp_path)
    trainer.test(model, loader(scored("bottle", 8)), verbose=False)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        trainer_in(tmp_path, callbacks=[BreakOff()]).test(model, loader(scored("other", 8)), verbose=False)
    trainer.test(model, loader(data), verbose=False)
    assert evaluator.result.categories == result.categories


def test_later_changes_to_a_batch_do_not_matter(data, result, tmp_path):
    """What runs after the evaluator may write into the batch."""

    class Overwrite(Callback):
        def on_test_batch_end(self, *args):
            args[3].anomaly_map.zero_()
            args[3].gt_mask.zero_()

    evaluator = CategoryEvaluator(report=False)
    trainer_in(tmp_path).test(Bare(evaluator, Overwrite()), loader(data), verbose=False)
    assert evaluator.result.categories == result.categories


@pytest.mark.parametrize("budget", [-1, 1.5, "many", None])
def test_bad_budgets_are_refused(budget):
    with pytest.raises(ValueError, match=r"pixel_budget=.*a whole number >=0"):
        CategoryEvaluator(pixel_budget=budget)


def test_evaluator_holds_nothing_that_cannot_be_pickled_from_python_3_14_on():
    assert not [value for value in vars(CategoryEvaluator()).values() if type(value).__module__ == "itertools"]


class Silent(CategoryEvaluator):
    """A second evaluator of the same test, which leaves the names to the first one."""

    def on_test_epoch_end(self, *_):
        """Evaluate without logging."""
        with processes() as group:
            self.result = self._evaluate(group)


class Distributed(Bare):
    """A module with an exact and a streaming evaluator, whose processes write down what they know at the end."""

    def __init__(self, folder: Path) -> None:
        super().__init__(CategoryEvaluator())
        del self.configure_callbacks  # a function that cannot be sent to other processes
        self.streaming, self.folder = Silent(pixel_budget=0, report=False), folder

    def configure_callbacks(self) -> list[Callback]:
        """Both evaluators."""
        return [self.evaluator, self.streaming]

    def on_test_end(self) -> None:
        """Write the note."""
        logged = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
        note = {"logged": logged, "streamed": self.streaming.result.categories}
        (self.folder / f"rank{self.global_rank}.json").write_text(json.dumps(note))


def test_two_processes_equal_one(data, result, tmp_path):
    """The distributed sampler's padding changes nothing; both processes know the result, one reports it."""
    assert len(data) % 2 == 1
    _, streamed = evaluate(data, tmp_path / "alone", pixel_budget=0)
    trainer = trainer_in(tmp_path, strategy="ddp_spawn", devices=2)
    trainer.test(Distributed(tmp_path), loader(data, batch_size=3), verbose=False)
    for rank in range(2):
        note = json.loads((tmp_path / f"rank{rank}.json").read_text())
        assert note["logged"] == pytest.approx(result.logged(), abs=1e-6)
        for category, row in streamed.categories.items():
            assert note["streamed"][category] == pytest.approx(row, abs=1e-9)
    rows = json.loads((tmp_path / "metrics.json").read_text())["rows"]
    for row, expected in zip(rows, result.table().rows, strict=True):
        assert row == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("report", [True, False])
def test_report_is_written_and_shown(data, tmp_path, capsys, report):
    logged, result = evaluate(data[:10], tmp_path, report=report)
    assert (set(logged), list(result.categories)) == (set(METRIC_NAMES), ["bottle"])
    shown = capsys.readouterr().out
    assert (f"{100 * result.mean['pixel_AUPRO']:.1f}" in shown) == report
    assert ("Report: metrics.csv, metrics.json, metrics.md, metrics.png" in shown) == report
    names = ["metrics.csv", "metrics.json", "metrics.md", "metrics.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == (names if report else [])
