# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The comparison of models, the ablation, and the paper's protocols, on tiny made-up data."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace

import pytest
import torch
import yaml
from anomalib import LearningType
from anomalib.data import InferenceBatch
from anomalib.engine import Engine
from anomalib.models import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from helpers import data_trees
from PIL import Image
from torchvision.transforms.v2 import Compose, Resize

from anomalib_genclip import GenCLIP, ablation, benchmark, reproduce
from anomalib_genclip.evaluation import CategoryEvaluator
from anomalib_genclip.evaluation.result import METRIC_NAMES
from anomalib_genclip.pipelines import meter as meter_module
from anomalib_genclip.pipelines import task
from anomalib_genclip.pipelines.comparison import Comparison, target_parts
from anomalib_genclip.pipelines.measured_job import build_target
from anomalib_genclip.pipelines.meter import Meter
from anomalib_genclip.pipelines.plot import draw_accuracy_against_speed
from anomalib_genclip.pipelines.reproduce import reproduce as reproduce_protocols
from anomalib_genclip.pipelines.store import job_key
from anomalib_genclip.pipelines.tables import ResultTable

SMALL = {"backbone": "ViT-S-32-alt", "pretrained": None, "image_size": 64}
LOADING = {"num_workers": 0, "eval_batch_size": 4}
ROOT = Path(__file__).parents[3]


class DarkestChannel(torch.nn.Module):
    """The torch model of :class:`WhitestPixel`."""

    def forward(self, images):
        """Score each pixel by its darkest channel, ``(B, 3, H, W)`` to ``(B, 1, H, W)``."""
        maps = images.amin(dim=1, keepdim=True)
        return InferenceBatch(pred_score=maps.amax(dim=(1, 2, 3)), anomaly_map=maps)


class WhitestPixel(AnomalibModule):
    """A zero-shot model like anomalib's own: without ``val_dataloader`` of its own. White squares are its defects."""

    def __init__(self, evaluator=True, visualizer=True):
        super().__init__(evaluator=evaluator, visualizer=visualizer)
        self.model = DarkestChannel()

    def validation_step(self, batch, *_args, **_kwargs):
        """Predict."""
        return batch.update(**self.model(batch.image)._asdict())

    def training_step(self, *_args, **_kwargs):
        """Zero-shot models never train."""
        raise NotImplementedError

    def configure_optimizers(self):
        """None."""
        return

    @property
    def learning_type(self):
        """Zero-shot."""
        return LearningType.ZERO_SHOT

    @property
    def trainer_arguments(self):
        """None."""
        return {}

    @staticmethod
    def configure_pre_processor(image_size=None):
        """Leave images alone."""
        del image_size
        return PreProcessor(Compose([Resize((data_trees.SIZE, data_trees.SIZE))]))

    def configure_post_processor(self):
        """Anomalib's usual one."""
        return PostProcessor()


def mvtec(root, **settings) -> dict:
    """Settings of an MVTec AD datamodule."""
    return {"class_path": "MVTecAD", "init_args": {"root": str(root), **LOADING, **settings}}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A source and a target with two categories."""
    root = tmp_path_factory.mktemp("data")
    data_trees.mvtec_ad(root / "source", ("cable",), normal=6, anomalous=6)
    data_trees.mvtec_ad(root / "target", ("bottle", "wood"))
    return root


def settings_for(data: Path, results: Path) -> dict:
    """Settings of a comparison of every protocol, with a model that cannot be built."""
    genclip = {"class_path": "GenCLIP", "init_args": SMALL}
    return {
        "results_dir": str(results),
        "accelerator": "cpu",
        "isolate": False,
        "seed": 1,
        "target": mvtec(data / "target"),
        "target_categories": "all",
        "models": [
            {
                "name": "GenCLIP",
                "protocol": "cross_dataset",
                "model": genclip,
                "source": mvtec(data / "source"),
                "source_categories": ["cable"],
                "data": {"train_batch_size": 4, "num_workers": 0},
                "trainer": {"max_epochs": 1},
            },
            {"name": "whitest", "protocol": "zero_shot", "model": {"class_path": "WhitestPixel"}},
            {
                "name": "PatchCore",
                "protocol": "one_class",
                "model": {"class_path": "Patchcore", "init_args": {"backbone": "resnet18", "pre_trained": False}},
            },
            {
                "name": "absent",
                "protocol": "zero_shot",
                "model": {"class_path": "GenCLIP", "init_args": {"weights": str(results / "absent.safetensors")}},
            },
        ],
    }


@pytest.fixture(scope="module")
def compared(data, tmp_path_factory):
    """One comparison: settings, folder and tables."""
    results = tmp_path_factory.mktemp("results")
    settings = settings_for(data, results)
    return SimpleNamespace(settings=settings, folder=results, tables=Comparison().run_settings(settings))


def rows_of(tables, model: str) -> list[dict]:
    return [row for row in tables.rows if row["model"] == model]


# The comparison


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


def test_models_row_is_the_mean_over_categories(compared):
    for summary in compared.tables.models.rows[:-1]:
        rows = rows_of(compared.tables, summary["model"])
        for name in METRIC_NAMES:
            assert summary[name] == pytest.approx(fmean(row[name] for row in rows), abs=1e-12)
        assert summary["images"] == 16
        seconds = sum(row["images"] / row["images_per_second"] for row in rows)
        assert summary["images_per_second"] == pytest.approx(16 / seconds)
        assert summary["peak_memory_mib"] == max(row["peak_memory_mib"] for row in rows)


def test_figures_are_those_of_testing_the_checkpoint_by_hand(compared, data, tmp_path):
    (checkpoint,) = (compared.folder / "checkpoints").glob("*.ckpt")
    model = GenCLIP(**SMALL, visualizer=False, evaluator=CategoryEvaluator(report=False))
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False)
    target = data_trees.MVTecAD(root=data / "target", category="wood", **LOADING)
    (result,) = engine.test(model, datamodule=target, ckpt_path=checkpoint)
    row = rows_of(compared.tables, "GenCLIP")[1]
    assert {name: row[name] for name in METRIC_NAMES} == pytest.approx(result, abs=1e-6)


def test_columns_are_the_union_of_all_rows(compared):
    table = compared.tables.categories
    assert {"fit_seconds", "note"} <= set(table.columns)  # only PatchCore was trained here, only "absent" failed
    rows = {(row["model"], row["category"]): row for row in csv.DictReader(io.StringIO(table.as_csv()))}
    assert float(rows["PatchCore", "wood"]["fit_seconds"]) > 0
    assert not rows["whitest", "wood"]["fit_seconds"]
    assert not rows["absent", "wood"]["image_AUROC"]


def test_files_are_written(compared):
    content = json.loads((compared.folder / "comparison.json").read_text())
    assert [row["model"] for row in content["rows"]] == ["GenCLIP", "whitest", "PatchCore", "absent"]
    markdown = (compared.folder / "comparison.md").read_text()
    assert "| whitest | zero_shot | 2 of 2 | 100.0 |" in markdown
    assert "different categories" in markdown or "0 of 2" in markdown
    assert Image.open(compared.folder / "comparison.png").size[0] > 500
    assert "bottle" in (compared.folder / "comparison_by_category.csv").read_text()


def test_finished_jobs_are_not_run_again_and_failed_ones_are(compared, monkeypatch):
    started = []

    def note(settings, _log):
        started.append((settings["model"]["class_path"], settings["category"]))
        return {"error": "still not there"}

    monkeypatch.setattr("anomalib_genclip.pipelines.stored_job.run_here", note)
    again = Comparison().run_settings(compared.settings)
    assert started == [("GenCLIP", "bottle"), ("GenCLIP", "wood")]  # the model that is absent
    for model in ("GenCLIP", "whitest", "PatchCore"):
        assert rows_of(again, model) == rows_of(compared.tables, model)
    assert all(row["error"] == "still not there" for row in rows_of(again, "absent"))


def test_other_settings_are_another_job(compared, monkeypatch):
    started = []
    monkeypatch.setattr(
        "anomalib_genclip.pipelines.stored_job.run_here",
        lambda settings, _log: started.append(settings["action"]) or {"error": "stopped"},
    )
    tables = Comparison().run_settings({**compared.settings, "seed": 2})
    # The training fails, so GenCLIP's tests are not even tried.
    assert started == ["train"] + ["test"] * 6
    assert all("training failed: stopped" in row["error"] for row in rows_of(tables, "GenCLIP"))


def test_columns_start_with_what_names_the_row(compared):
    assert compared.tables.categories.columns[:3] == ["model", "protocol", "category"]


def test_lost_checkpoint_is_trained_again(compared, monkeypatch, tmp_path):
    (checkpoint,) = (compared.folder / "checkpoints").glob("*.ckpt")
    hidden = tmp_path / checkpoint.name
    checkpoint.rename(hidden)
    started = []
    monkeypatch.setattr(
        "anomalib_genclip.pipelines.stored_job.run_here",
        lambda settings, _log: started.append(settings["action"]) or {"error": "stopped"},
    )
    Comparison().run_settings(compared.settings)
    hidden.rename(checkpoint)
    assert started[0] == "train"


def test_key_depends_on_the_contents_of_named_files(tmp_path):
    file = tmp_path / "prompts.safetensors"
    settings = {"model": {"init_args": {"weights": str(file), "layers": [1, 2]}}}
    keys = [job_key(settings)]
    for content in (b"one", b"two"):
        file.write_bytes(content)
        keys.append(job_key(settings))
    assert len(set(keys)) == 3
    assert job_key(settings) == keys[-1]


def test_target_is_tested_whole(tmp_path):
    # By default a Folder moves half of its test images to validation.
    data_trees.folder(tmp_path / "screws", normal=4, anomalous=4)
    folders = {"normal_dir": "good", "normal_test_dir": "good_test", "abnormal_dir": "bad", "mask_dir": "mask"}
    init_args = {"name": "screws", "root": str(tmp_path / "screws"), **folders, **LOADING}
    target = build_target({"class_path": "Folder", "init_args": init_args}, None, seed=0)
    target.setup()
    assert len(target.test_data) == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modles": []}, "unknown settings modles"),
        ({"models": []}, "at least one"),
        ({"models": [{"name": "a", "protocol": "few_shot", "model": {}}]}, "protocol 'few_shot' is unknown"),
        ({"models": [{"name": "a", "protocol": "cross_dataset", "model": {}}]}, "needs a source"),
        ({"models": [{"name": "a", "protocol": "zero_shot", "model": {}, "epochs": 1}]}, "unknown settings epochs"),
        ({"models": [{"name": "a", "protocol": "zero_shot", "model": {}}] * 2}, "name of its own"),
        ({"target_categories": ["spoon"]}, "spoon"),
    ],
)
def test_wrong_settings_are_refused_before_anything_runs(data, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        Comparison().run_settings({**settings_for(data, tmp_path), **change})
    assert not (tmp_path / "jobs").exists()


def test_model_that_anomalib_does_not_know_is_named(tmp_path):
    settings = {"action": "test", "model": {"class_path": "NoSuchModel"}, "accelerator": "cpu", "seed": 0}
    assert "NoSuchModel" in task.run_here(settings, tmp_path / "log")["error"]
    assert "Traceback" in (tmp_path / "log").read_text()


def test_command_runs_jobs_in_processes_of_their_own(data, tmp_path):
    settings = settings_for(data, tmp_path / "results") | {"isolate": True, "target_categories": ["bottle"]}
    settings["models"] = [{"name": "GenCLIP", "protocol": "zero_shot", "model": settings["models"][0]["model"]}]
    config = tmp_path / "comparison.yaml"
    config.write_text(yaml.safe_dump(settings))
    assert benchmark.main(["--config", str(config)]) == 0
    (row,) = json.loads((tmp_path / "results" / "comparison.json").read_text())["rows"]
    assert row["categories"] == "1 of 1"
    assert row["images_per_second"] > 0


def test_same_seed_gives_the_same_figures_even_for_random_weights(compared, data, tmp_path):
    model = compared.settings["models"][2]["model"]
    settings = {"action": "test", "model": model, "protocol": "one_class", "trainer": {}, "checkpoint": None}
    settings |= {"target": mvtec(data / "target"), "category": "wood", "accelerator": "cpu", "seed": 1}
    torch.rand(7)
    again = task.run_here(settings, tmp_path / "log")
    row = rows_of(compared.tables, "PatchCore")[1]
    assert {name: again[name] for name in METRIC_NAMES} == {name: row[name] for name in METRIC_NAMES}


def test_process_that_dies_is_a_failure_with_its_code(monkeypatch, tmp_path):
    monkeypatch.setattr(task.subprocess, "run", lambda *_args, **_kwargs: SimpleNamespace(returncode=-9))
    error = task.run_isolated({"action": "test"}, tmp_path / "log")["error"]
    assert "code -9" in error
    assert "memory" in error


def test_command_fails_if_no_job_gave_a_result(data, tmp_path):
    settings = settings_for(data, tmp_path)
    settings["models"] = settings["models"][-1:]
    config = tmp_path / "comparison.yaml"
    config.write_text(yaml.safe_dump(settings))
    assert benchmark.main(["--config", str(config)]) == 1


def test_speed_leaves_out_the_first_batch_and_what_happens_between_batches(monkeypatch):
    clock = iter([0.0, 9.0, 100.0, 101.0, 200.0, 202.0])
    monkeypatch.setattr(meter_module.time, "perf_counter", lambda: next(clock))
    module = SimpleNamespace(device=torch.device("cpu"))
    meter = Meter()
    meter.on_test_start(None, module)
    for batch in ([0] * 8, [0] * 8, [0] * 4):
        meter.on_test_batch_start(None, module, batch, 0)
        meter.on_test_batch_end(None, module, None, batch, 0)
    assert meter.images == 20
    assert meter.images_per_second == pytest.approx(12 / 3)


def test_plot_leaves_out_and_names_models_without_figures():
    row = {"model": "a_b $x$", "images_per_second": 3.0, "image_AUROC": 0.5, "pixel_AUROC": None}
    picture = Image.open(io.BytesIO(draw_accuracy_against_speed([row, {"model": "c", "images_per_second": None}])))
    assert picture.format == "PNG"


def test_table_escapes_and_marks_what_is_undefined(capsys):
    table = ResultTable("Title", [{"model": "a|b [red]", "image_AUROC": 0.5}, {"model": "c", "note": "x\ny"}])
    assert "| a\\|b [red] | 50.0 | - |" in table.as_markdown()
    assert "| c | - | x y |" in table.as_markdown()
    assert table.as_csv().splitlines() == ["model,image_AUROC,note", "a|b [red],0.5,", 'c,,"x', 'y"']
    table.print()
    assert "a|b [red]" in capsys.readouterr().out


# The ablation


def test_ablation_from_a_checkpoint_without_training(compared, data, tmp_path, monkeypatch):
    (checkpoint,) = (compared.folder / "checkpoints").glob("*.ckpt")
    config = tmp_path / "data.yaml"
    config.write_text(yaml.safe_dump(mvtec(data / "target", category="wood")))
    monkeypatch.setattr(Engine, "fit", lambda *_args, **_kwargs: pytest.fail("trained"))
    command = ["--weights", str(checkpoint), "--data", str(config), "--results_dir", str(tmp_path / "results")]
    assert ablation.main([*command, "--accelerator", "cpu", "--isolate", "false"]) == 0
    rows = json.loads((tmp_path / "results" / "ablation.json").read_text())["rows"]
    layers = GenCLIP.load_from_checkpoint(checkpoint).model.layers
    full = " ".join(map(str, layers))
    assert [(row["branches"], row["CNF"], row["layers"]) for row in rows] == [
        ("both", "on", full),
        ("both", "off", full),
        ("vision", "on", full),
        ("vision", "off", full),
        ("query", "off", full),
        *(("both", "on", str(layer)) for layer in layers),
    ]
    # The first row is the model as it is.
    expected = rows_of(compared.tables, "GenCLIP")[1]
    assert {name: rows[0][name] for name in METRIC_NAMES} == pytest.approx(
        {name: expected[name] for name in METRIC_NAMES}, abs=1e-6
    )
    assert len({tuple(row[name] for name in METRIC_NAMES) for row in rows}) > 3  # the parts make a difference


def test_single_layers_average_to_the_whole_map():
    model = GenCLIP(**SMALL, visualizer=False).model.eval()
    torch.nn.init.normal_(model.prompts.abnormal)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        whole = model.branch_maps(images).maps
        single = []
        for layer in model.layers:
            model.map_layers = [layer]
            single.append(model.branch_maps(images).maps)
    for branch in ("vision", "query"):
        maps = torch.stack([maps[branch] for maps in single])
        assert maps.std(dim=0).max() > 1e-4  # they differ
        torch.testing.assert_close(maps.mean(dim=0), whole[branch])


# The paper's protocols


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
    assert reproduce.main(["--config", "reproduce.yaml"]) == 0

    rows = json.loads(Path("results/reproduce.json").read_text())["rows"]
    assert [(row["data"], row["model"], row["figures"].split()[0]) for row in rows] == [
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


# anomalib's own benchmark


def test_stock_benchmark_runs_both_configs(compared, data, tmp_path):
    prompts = tmp_path / "prompts.safetensors"
    (checkpoint,) = (compared.folder / "checkpoints").glob("*.ckpt")
    GenCLIP.load_from_checkpoint(checkpoint).save_weights(prompts)
    changes = {
        "benchmark_genclip": {"weights": str(prompts)},
        "benchmark_patchcore": {"backbone": "resnet18", "pre_trained": False},
    }
    for name, init_args in changes.items():
        content = yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text())
        content["accelerator"] = "cpu"
        content["benchmark"]["model"]["init_args"] |= init_args
        content["benchmark"]["data"]["init_args"] |= {"root": str(data / "target"), "num_workers": 0}
        content["benchmark"]["data"]["init_args"]["category"] = {"grid": ["bottle", "wood"]}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
    script = "import sys; from anomalib.cli import AnomalibCLI\n"
    script += "for file in sys.argv[1:]: AnomalibCLI(['benchmark', '--config', file])"
    files = [f"{name}.yaml" for name in changes]
    subprocess.run([sys.executable, "-c", script, *files], cwd=tmp_path, check=True)
    tables = [list(csv.DictReader(path.open())) for path in tmp_path.glob("runs/benchmark/*/results.csv")]
    columns = {row["model.class_path"]: row.keys() for table in tables for row in table}
    assert set(METRIC_NAMES) <= columns["GenCLIP"]
    assert "image_AUROC" in columns["Patchcore"]
    assert [len(table) for table in tables] == [2, 2]
