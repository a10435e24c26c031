# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Test metrics per category: values, keys, undefined cases, several processes, report."""

import json
import logging
from pathlib import Path

import pytest
import torch
from anomalib import LearningType
from anomalib.data import ImageBatch
from anomalib.engine import Engine
from anomalib.metrics import AUPR, AUPRO, AUROC, F1Max
from anomalib.models.components import AnomalibModule
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader, Dataset

from anomalib_genclip.data.batch import CategoryBatch
from anomalib_genclip.evaluation import METRIC_NAMES, CategoryEvaluator, EvaluationResult
from anomalib_genclip.evaluation.category import CategoryScores, ImageScores
from anomalib_genclip.evaluation.result import ERROR_RATES

SIZE = 24


pytestmark = pytest.mark.usefixtures("one_thread")


class Scored(Dataset):
    """Images that are scored already; item ``i`` is a batch of one.

    Args:
        categories (dict[str, int]): Category to number of images, every second one anomalous.
        dataset (str): Name of the data set.
    """

    def __init__(self, categories: dict[str, int], dataset: str = "set") -> None:
        random = torch.Generator().manual_seed(len(categories))
        self.items = []
        for category, num in categories.items():
            for index in range(num):
                anomalous = index % 2 == 1
                mask = torch.zeros(SIZE, SIZE, dtype=torch.bool)
                if anomalous:
                    top, left, height, width = torch.randint(1, SIZE // 2, (4,), generator=random).tolist()
                    mask[top : top + height, left : left + width] = True
                    mask[-2:, -2:] = True
                noise = torch.randn(SIZE, SIZE, generator=random)
                self.items.append({
                    "image_path": f"{dataset}/{category}/{index}.png",
                    "category": category,
                    "dataset": dataset,
                    "pred_score": torch.rand((), generator=random) * 0.6 + 0.3 * anomalous,
                    "anomaly_map": torch.sigmoid(noise + 1.5 * mask),
                    "gt_label": torch.tensor(anomalous),
                    "gt_mask": mask,
                })

    def __len__(self) -> int:
        """Number of images."""
        return len(self.items)

    def __getitem__(self, index: int) -> dict:
        """Fields of one image."""
        return self.items[index]


def collate(items: list[dict]) -> CategoryBatch:
    """A batch of scored images."""
    columns = {name: [item[name] for item in items] for name in items[0]}
    stacked = {
        name: torch.stack(values) if isinstance(values[0], torch.Tensor) else values for name, values in columns.items()
    }
    stacked = {name: None if isinstance(v, list) and v[0] is None else v for name, v in stacked.items()}
    return CategoryBatch(image=torch.zeros(len(items), 3, SIZE, SIZE), **stacked)


class Bare(LightningModule):
    """A module that does nothing but carry an evaluator."""

    def __init__(self, evaluator: CategoryEvaluator) -> None:
        super().__init__()
        self.evaluator = evaluator

    def configure_callbacks(self) -> list[Callback]:
        """The evaluator, as anomalib's models have it."""
        return [self.evaluator]

    def validation_step(self, batch: CategoryBatch, batch_idx: int, dataloader_idx: int = 0) -> CategoryBatch:
        """Leave the batch as it is."""
        del batch_idx, dataloader_idx
        return batch

    test_step = validation_step


def trainer_in(folder: Path, **arguments) -> Trainer:
    """A quiet trainer on the CPU."""
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
    }
    return Trainer(accelerator="cpu", default_root_dir=folder, **(quiet | arguments))


def loader(items: list[dict] | Scored, batch_size: int = 4) -> DataLoader:
    """A loader of scored images."""
    return DataLoader(items, batch_size=batch_size, collate_fn=collate)


def evaluate(items, folder: Path, batch_size: int = 4, **arguments) -> tuple[dict[str, float], EvaluationResult]:
    """Test scored images; returns what is logged and the evaluator's result."""
    evaluator = CategoryEvaluator(**({"report": False} | arguments))
    logged = trainer_in(folder).test(Bare(evaluator), loader(items, batch_size), verbose=False)[0]
    return logged, evaluator.result


def anomalib_metrics(items: list[dict], batch_size: int = 4) -> dict[str, float]:
    """Anomalib's own metrics, updated batch by batch as its evaluator does."""
    image, pixel = ["pred_score", "gt_label"], ["anomaly_map", "gt_mask"]
    metrics = {
        "image_AUROC": AUROC(fields=image),
        "image_AP": AUPR(fields=image),
        "image_F1Max": F1Max(fields=image),
        "pixel_AUROC": AUROC(fields=pixel),
        "pixel_AUPRO": AUPRO(fields=pixel),
        "pixel_AP": AUPR(fields=pixel),
        "pixel_F1Max": F1Max(fields=pixel),
    }
    for batch in loader(items, batch_size):
        for metric in metrics.values():
            metric.update(batch)
    return {name: float(metric.compute()) for name, metric in metrics.items()}


def of_category(data: Scored, category: str) -> list[dict]:
    """The items of one category."""
    return [item for item in data if item["category"] == category]


@pytest.fixture(scope="module")
def data() -> Scored:
    """Three categories of unequal size, an odd number of images."""
    return Scored({"bottle": 10, "cable": 7, "screw": 4})


@pytest.fixture(scope="module")
def result(data: Scored, tmp_path_factory) -> EvaluationResult:
    """The exact result on them."""
    return evaluate(data, tmp_path_factory.mktemp("run"))[1]


# Values


def test_each_category_equals_anomalib_alone(data, result):
    assert list(result.categories) == ["bottle", "cable", "screw"]
    for category, row in result.categories.items():
        assert tuple(row) == METRIC_NAMES
        assert row == pytest.approx(anomalib_metrics(of_category(data, category)), abs=1e-6)


def test_the_mean_is_the_mean_of_the_rows(result):
    for name in METRIC_NAMES:
        rows = [row[name] for row in result.categories.values()]
        assert result.mean[name] == pytest.approx(sum(rows) / 3, abs=1e-12)


def test_order_and_batch_size_change_nothing(data, result, tmp_path):
    shuffled = [data[index] for index in torch.randperm(len(data)).tolist()]
    for batch_size in (1, 5, 21):
        assert evaluate(shuffled, tmp_path, batch_size)[1].categories == result.categories


@pytest.mark.parametrize("budget", [0, 3 * SIZE * SIZE, 20 * SIZE * SIZE])
def test_beyond_the_budget_nothing_is_lost(data, result, tmp_path, budget):
    _, streamed = evaluate(data, tmp_path, pixel_budget=budget)
    assert streamed.mode == "streaming"
    for category, row in result.categories.items():
        assert streamed.categories[category] == pytest.approx(row, abs=1e-3)
        assert [streamed.categories[category][name] for name in METRIC_NAMES[:3]] == [
            row[name] for name in METRIC_NAMES[:3]
        ]


def test_within_the_budget_is_exact(data, tmp_path):
    _, exact = evaluate(data, tmp_path, pixel_budget=len(data) * SIZE * SIZE)
    assert exact.mode == "exact"


def test_streaming_keeps_one_map(data):
    """Beyond the budget only histograms, image scores and the newest map are held."""
    evaluator = CategoryEvaluator(pixel_budget=0, report=False)
    kept = []

    class Watch(Callback):
        def on_test_batch_end(self, *_):
            kept.append(sum(len(category.maps) for category in evaluator._categories.values()))

    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[Watch()])
    trainer.test(Bare(evaluator), loader(data), verbose=False)
    assert max(kept) <= 1
    assert not evaluator._categories


def test_scores_outside_the_unit_range_are_ranked_as_they_are(data, result, tmp_path):
    """A sigmoid in anomalib's metrics would make large scores equal."""
    raw = [item | {key: 50 + 40 * item[key] for key in ("pred_score", "anomaly_map")} for item in data]
    assert evaluate(raw, tmp_path)[1].mean == pytest.approx(result.mean, abs=1e-4)


def test_half_precision_maps(data, result, tmp_path):
    halves = [item | {"anomaly_map": item["anomaly_map"].half()} for item in data]
    assert evaluate(halves, tmp_path)[1].mean == pytest.approx(result.mean, abs=1e-2)


# Keys


def test_logged_keys(data, result, tmp_path):
    logged, _ = evaluate(data, tmp_path)
    per_category = {f"{category}/{name}" for category in result.categories for name in METRIC_NAMES}
    assert set(logged) == set(METRIC_NAMES) | per_category
    assert logged == pytest.approx(result.logged(), abs=1e-6)


def test_one_category_logs_the_seven_keys(tmp_path):
    logged, result = evaluate(Scored({"bottle": 6}), tmp_path)
    assert set(logged) == set(METRIC_NAMES)
    assert list(result.categories) == ["bottle"]


def test_data_sets_are_named_where_they_share_a_category(tmp_path):
    both = [*Scored({"bottle": 4, "nut": 4}, dataset="A"), *Scored({"bottle": 6}, dataset="B")]
    _, result = evaluate(both, tmp_path)
    assert set(result.categories) == {"A/bottle", "B/bottle", "nut"}


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


def plain(items: list[dict]) -> ImageBatch:
    """A batch that does not know its category."""
    return ImageBatch(**{
        name: value for name, value in vars(collate(items)).items() if name.lstrip("_") not in {"category", "dataset"}
    })


def test_plain_batches_belong_to_their_loaders_category(tmp_path):
    """Anomalib's own datamodules serve batches without categories; two loaders are two categories."""
    loaders = []
    for category in ("tile", "wood"):
        scored = Scored({category: 4})
        scored.name, scored.category = "MVTecAD", category
        loaders.append(DataLoader(scored, batch_size=2, collate_fn=plain))
    evaluator = CategoryEvaluator(report=False)
    trainer_in(tmp_path).test(Bare(evaluator), loaders, verbose=False)
    assert list(evaluator.result.categories) == ["tile", "wood"]


def test_plain_batches_without_any_name(tmp_path):
    evaluator = CategoryEvaluator(report=False)
    logged = trainer_in(tmp_path).test(
        Bare(evaluator), DataLoader(list(Scored({"tile": 4})), batch_size=2, collate_fn=plain), verbose=False
    )[0]
    assert set(logged) == set(METRIC_NAMES)
    assert list(evaluator.result.categories) == ["test"]


# Undefined cases


def altered(data: Scored, category: str, **changes) -> list[dict]:
    """The data with other values in one category."""
    return [item | changes if item["category"] == category else item for item in data]


UNDEFINED = {
    "no anomalous images": ({"gt_label": torch.zeros((), dtype=torch.bool)}, "image"),
    "no normal images": ({"gt_label": torch.ones((), dtype=torch.bool)}, "image"),
    "no anomalous pixels": ({"gt_mask": torch.zeros(SIZE, SIZE, dtype=torch.bool)}, "pixel"),
    "no normal pixels": ({"gt_mask": torch.ones(SIZE, SIZE, dtype=torch.bool)}, "pixel"),
    "no mask": ({"gt_mask": None}, "pixel"),
    "no anomaly map": ({"anomaly_map": None}, "pixel"),
    "no label": ({"gt_label": None}, "image"),
    "no score": ({"pred_score": None}, "image"),
    "a score that is not finite": ({"pred_score": torch.tensor(torch.nan)}, "image"),
    "an anomaly map that is not finite": ({"anomaly_map": torch.full((SIZE, SIZE), torch.inf)}, "pixel"),
}


@pytest.mark.parametrize("budget", [10**9, 0])
@pytest.mark.parametrize("reason", UNDEFINED)
def test_undefined_is_left_out_and_named(data, result, tmp_path, caplog, reason, budget):
    changes, level = UNDEFINED[reason]
    with caplog.at_level(logging.WARNING):
        logged, changed = evaluate(altered(data, "cable", **changes), tmp_path, batch_size=1, pixel_budget=budget)
    lost = {name for name in METRIC_NAMES if name.startswith(level)}
    assert set(changed.categories["cable"]) == set(METRIC_NAMES) - lost
    assert len(changed.notes) == 1
    assert "cable" in changed.notes[0]
    assert reason in changed.notes[0]
    assert changed.notes[0] in caplog.text
    for name in lost:
        others = (result.categories["bottle"][name] + result.categories["screw"][name]) / 2
        assert logged[name] == pytest.approx(others, abs=1e-3)
        assert f"cable/{name}" not in logged


def test_a_metric_undefined_everywhere_is_not_logged(data, tmp_path):
    logged, _ = evaluate([item | {"gt_mask": None} for item in data], tmp_path)
    assert {name.split("/")[-1] for name in logged} == set(METRIC_NAMES[:3])


def test_some_masks_missing_are_named(data, tmp_path):
    """Images without a mask do not take the others' figures away."""
    items = of_category(data, "bottle")
    _, full = evaluate(items[:8], tmp_path)
    _, partial = evaluate([*items[:8], *[item | {"gt_mask": None} for item in items[8:]]], tmp_path, batch_size=1)
    assert partial.mean["pixel_AUPRO"] == full.mean["pixel_AUPRO"]
    assert "2 image(s) with no mask" in partial.notes[0]


def test_maps_of_several_sizes(data, tmp_path):
    """Anomalib's AUPRO cannot take them; the histograms can."""
    items = of_category(data, "bottle")
    cut = [
        item | {key: item[key][: SIZE - index % 2] for key in ("anomaly_map", "gt_mask")}
        for index, item in enumerate(items)
    ]
    _, mixed = evaluate(cut, tmp_path, batch_size=1)
    assert set(mixed.mean) == set(METRIC_NAMES)
    assert "differ in size" in mixed.notes[0]


def test_map_and_mask_of_different_size_are_refused(data, tmp_path):
    bad = [item | {"gt_mask": item["gt_mask"][:5]} for item in data]
    with pytest.raises(ValueError, match=r"one shape, got \(4, 24, 24\) and \(4, 5, 24\)"):
        evaluate(bad, tmp_path)


# State


def test_runs_do_not_leak_into_each_other(data, result, tmp_path):
    """Neither a finished run nor one that broke off changes the next."""
    evaluator = CategoryEvaluator(report=False)
    model, trainer = Bare(evaluator), trainer_in(tmp_path)

    class BreakOff(Callback):
        def on_test_batch_end(self, *_):
            raise KeyboardInterrupt

    trainer.test(model, loader(Scored({"bottle": 8})), verbose=False)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        trainer_in(tmp_path, callbacks=[BreakOff()]).test(model, loader(Scored({"other": 8})), verbose=False)
    trainer.test(model, loader(data), verbose=False)
    assert evaluator.result.categories == result.categories


def test_an_image_counts_once(data, result, tmp_path):
    _, repeated = evaluate([*data, data[0], data[3]], tmp_path)
    assert repeated.categories == result.categories
    assert "2 image(s) were repeated" in repeated.notes[0]


def test_images_without_a_path_all_count(data, result, tmp_path):
    _, nameless = evaluate([item | {"image_path": None} for item in data], tmp_path)
    assert nameless.mean == pytest.approx(result.mean, abs=1e-6)


def test_later_changes_to_a_batch_do_not_matter(data, result, tmp_path):
    """What runs after the evaluator may write into the batch."""

    class Overwrite(Callback):
        def on_test_batch_end(self, *args):
            batch = args[3]
            batch.anomaly_map.zero_()
            batch.gt_mask.zero_()

    evaluator = CategoryEvaluator(report=False)
    model = Bare(evaluator)
    model.configure_callbacks = lambda: [evaluator, Overwrite()]
    copies = [
        {key: value.clone() if hasattr(value, "clone") else value for key, value in item.items()} for item in data
    ]
    trainer_in(tmp_path).test(model, loader(copies), verbose=False)
    assert evaluator.result.categories == result.categories


def test_validation_metrics_are_anomalibs(data, tmp_path):
    """Pooled, as the parent does it; the sanity check before a fit logs nothing."""
    evaluator = CategoryEvaluator(val_metrics=AUROC(fields=["pred_score", "gt_label"], prefix="image_"), report=False)
    logged = trainer_in(tmp_path).validate(Bare(evaluator), loader(data), verbose=False)[0]
    pooled = AUROC(fields=["pred_score", "gt_label"])
    pooled.update(collate(list(data)))
    assert logged == pytest.approx({"image_AUROC": float(pooled.compute())})


@pytest.mark.parametrize("budget", [-1, 1.5, True, "many", None])
def test_bad_budgets_are_refused(budget):
    with pytest.raises(ValueError, match="pixel_budget must be a whole number"):
        CategoryEvaluator(pixel_budget=budget)


# Error rates


def labelled(category: str, labels: list[bool], alarms: list[bool]) -> list[dict]:
    """Scored images with labels and alarms of one's choice."""
    items = Scored({category: len(labels)}).items
    for item, label, alarm in zip(items, labels, alarms, strict=True):
        item |= {"gt_label": torch.tensor(label), "pred_label": torch.tensor(alarm)}
    return items


def test_false_alarms_and_misses_are_those_of_the_labels_in_use(tmp_path):
    first = labelled("a", [False] * 4 + [True] * 2, [True, False, False, False, True, False])
    second = labelled("b", [False] * 2 + [True] * 2, [False, False, False, False])
    result = evaluate(first + second, tmp_path)[1]
    rates = {name: (row["false_alarm_rate"], row["miss_rate"]) for name, row in result.rates.items()}
    assert rates == {"a": (0.25, 0.5), "b": (0.0, 1.0)}
    assert result.mean_rates["false_alarm_rate"] == 0.125
    assert result.mean_rates["miss_rate"] == 0.75
    assert set(result.as_dict()["error_rates"]["categories"]["a"]) == set(ERROR_RATES)


def test_without_predicted_labels_there_are_miss_rates_on_the_roc_curve_alone(result):
    assert {frozenset(row) for row in result.rates.values()} == {frozenset(ERROR_RATES[2:])}


def test_without_both_kinds_of_images_there_are_no_error_rates(tmp_path):
    assert not evaluate(labelled("a", [False] * 4, [False] * 4), tmp_path)[1].rates


# Several processes


class Note(Callback):
    """Each process writes down what it has logged and how many images it was given."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images = 0

    def on_test_batch_end(self, *args):
        """Count the images."""
        self.images += len(args[3])

    def on_test_end(self, trainer, *_):
        """Write the note."""
        logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
        note = json.dumps({"images": self.images, "logged": logged})
        (self.folder / f"rank{trainer.global_rank}.json").write_text(note)


@pytest.mark.parametrize(("mode", "budget"), [("exact", 10**9), ("streaming", 0)])
def test_two_processes_equal_one(data, tmp_path, mode, budget):
    """The distributed sampler's padding changes nothing; both processes know the result, one reports it."""
    assert len(data) % 2 == 1
    _, alone = evaluate(data, tmp_path / "alone", pixel_budget=budget)
    assert alone.mode == mode
    trainer = trainer_in(tmp_path, strategy="ddp_spawn", devices=2, callbacks=[Note(tmp_path)])
    trainer.test(Bare(CategoryEvaluator(pixel_budget=budget)), loader(data, batch_size=3), verbose=False)
    notes = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    assert sum(note["images"] for note in notes) == len(data) + 1
    for note in notes:
        assert note["logged"] == pytest.approx(alone.logged(), abs=1e-6)
    assert json.loads((tmp_path / "metrics.json").read_text()) == alone.as_dict()


def test_union_names_what_two_processes_have_folded():
    """Should two processes both have given up the maps of an image, its pixels cannot be taken out again."""
    halves = CategoryScores(), CategoryScores()
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[0] = True
    for half in halves:
        half.add(ImageScores("a", 0.5, label=True, anomaly_map=torch.rand(4, 4), mask=mask))
        half.to_histogram()
    values, notes = CategoryScores.union(halves).compute_metrics()
    assert "pixel_AUROC" in values
    assert any("counted by two processes" in note for note in notes)


# Report


def test_report_is_written_and_shown(data, tmp_path, capsys):
    _, result = evaluate(data, tmp_path, report=True)
    shown = capsys.readouterr().out
    assert "bottle" in shown
    assert f"{100 * result.mean['pixel_AUPRO']:.1f}" in shown
    assert "metrics.csv, metrics.json, metrics.md, metrics.png" in shown
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "metrics.csv",
        "metrics.json",
        "metrics.md",
        "metrics.png",
    ]
    assert json.loads((tmp_path / "metrics.json").read_text()) == result.as_dict()


def test_no_report(data, tmp_path, capsys):
    evaluate(data, tmp_path, report=False)
    assert not list(tmp_path.iterdir())
    assert "pixel" not in capsys.readouterr().out


def test_unwritable_folder_loses_no_result(data, tmp_path, caplog):
    occupied = tmp_path / "file"
    occupied.write_text("not a folder")
    logged, _ = evaluate(data, occupied, report=True)
    assert "pixel_AUPRO" in logged
    assert str(occupied) in caplog.text
