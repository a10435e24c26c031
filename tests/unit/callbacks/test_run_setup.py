# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""What is settled before a run: results folders, validation, epochs; and what a training leaves."""

import logging
from math import ceil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from anomalib.data import Folder, ImageBatch
from anomalib.engine.plugins import AnomalibCheckpointIO
from anomalib.metrics import AUROC, Evaluator
from anomalib.models import Padim
from helpers import data_trees
from helpers.runs import engine
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from anomalib_genclip import CrossDataset, GenCLIP
from anomalib_genclip.callbacks import run_setup
from anomalib_genclip.demo.synthetic import SyntheticDefects
from anomalib_genclip.persistence.prompts_file import load_weights
from anomalib_genclip.utils.files import find_config

pytestmark = pytest.mark.usefixtures("one_thread")


def zero_shot(**settings) -> GenCLIP:
    return GenCLIP(**{"weights": "tiny-demo", "visualizer": False, **settings})


def untrained(**settings) -> GenCLIP:
    return GenCLIP(backbone="tiny", image_size=32, visualizer=False, **settings)


@pytest.fixture
def data(tmp_path) -> data_trees.MVTecAD:
    return data_trees.mvtec_ad(tmp_path / "data", normal=2, anomalous=2)


def results(root):
    return root / "GenCLIP" / "MVTecAD" / "bottle"


@pytest.mark.parametrize("first", ["test", "validate"])
def test_training_follows_any_call(tmp_path, data, first):
    root = tmp_path / "results"
    getattr(engine(root), first)(model=zero_shot(visualizer=True), datamodule=data)
    pictures = list(results(root).rglob("images/**/*.png"))
    engine(root, max_epochs=1).fit(model=untrained(), datamodule=data)
    engine(root).test(model=zero_shot(), datamodule=data)
    assert (results(root) / "latest").is_symlink()
    assert list((results(root) / "latest" / "weights").rglob("*.ckpt"))
    assert bool(pictures) == (first != "validate")
    assert all(path.exists() for path in pictures)
    assert not root.is_symlink()
    assert {path.name for path in tmp_path.iterdir()} == {"data", "results"}


def test_results_of_an_earlier_plain_folder_are_kept(tmp_path, data):
    old = results(tmp_path / "results") / "latest" / "notes.txt"
    old.parent.mkdir(parents=True)
    old.write_text("old")
    engine(tmp_path / "results").test(model=zero_shot(), datamodule=data)
    assert (results(tmp_path / "results") / "v0" / "notes.txt").read_text() == "old"


@pytest.mark.parametrize("mode", ["none", "same_as_test", "from_train", "from_test", "synthetic"])
def test_every_val_split_mode_works(tmp_path, mode):
    data_trees.folder(tmp_path / "data")
    masks = {"mask_dir": "mask", "val_split_mode": mode}
    data = Folder("screws", "good", tmp_path / "data", "bad", **masks, **data_trees.LOADING)
    for call, model in (("test", zero_shot()), ("fit", untrained())):
        run = engine(tmp_path / "results", max_epochs=1)
        getattr(run, call)(model=model, datamodule=data)
        assert run.trainer.limit_val_batches == 1.0
        assert "pixel_AUROC" in run.trainer.callback_metrics or call == "fit"


def test_thresholds_of_a_zero_shot_model_stay_and_its_validation_metrics_are_computed(tmp_path, data):
    model = zero_shot()
    model.post_processor.set_thresholds(image=torch.tensor(0.75), pixel=torch.tensor(0.75))
    engine(tmp_path).test(model=model, datamodule=data)
    assert model.post_processor.raw_thresholds()["image"] == 0.75
    metric = AUROC(fields=["pred_score", "gt_label"], prefix="image_")
    model = zero_shot(evaluator=Evaluator(val_metrics=[metric]))
    (logged,) = engine(tmp_path).validate(model=model, datamodule=data)
    assert "image_AUROC" in logged


@pytest.mark.parametrize(("limits", "epochs"), [({}, 2), ({"max_epochs": 1}, 1), ({"max_steps": 3}, 3)])
def test_epochs_are_the_models_unless_the_trainer_has_a_limit(tmp_path, data, limits, epochs):
    run = engine(tmp_path / "results", limit_train_batches=1, limit_val_batches=0, **limits)
    run.fit(untrained(training={"epochs": 2}), datamodule=data)
    assert run.trainer.global_step == epochs


class Epochs(Callback):
    """Write down the prompt of each epoch."""

    def __init__(self) -> None:
        self.learned = []

    def on_train_epoch_end(self, trainer, pl_module):
        """Write it down."""
        del trainer
        self.learned.append(pl_module.model.prompts.normal.detach().clone())


@pytest.mark.parametrize(("monitor", "kept"), [(None, 1), ("epoch", 0)])
def test_a_training_leaves_its_best_weights_and_a_prompts_file_of_them(tmp_path, data, monitor, kept):
    epochs, best = Epochs(), [ModelCheckpoint(monitor=monitor)] if monitor else []  # the lowest
    run = engine(tmp_path / "results", max_epochs=2, limit_train_batches=1, callbacks=[epochs, *best])
    model = untrained(seed=0)
    run.fit(model, datamodule=data)
    written = load_weights(Path(run.trainer.default_root_dir) / "weights" / "prompts.safetensors")
    assert not torch.equal(*epochs.learned)
    for prompt in (model.model.prompts.normal, written.tensors["prompts.normal"]):
        assert torch.equal(prompt, epochs.learned[kept])


def test_without_checkpoints_a_training_leaves_no_file(tmp_path, data):
    run = engine(tmp_path / "results", max_steps=1, limit_val_batches=0, barebones=True)
    run.fit(untrained(), datamodule=data)
    assert not list((tmp_path / "results").rglob("*.safetensors"))


def test_twelve_images_are_too_few_for_one_epoch_of_new_prompts(tmp_path, caplog):
    trees = [data_trees.mvtec_ad(tmp_path / name, normal=6, anomalous=6) for name in ("source", "target")]
    data, model = CrossDataset(*trees, train_batch_size=8, num_workers=0), untrained()
    warning = (
        "Only 2 steps in 1 epoch: fewer than 100 can make prompts worse than untrained ones: --trainer.max_epochs 50."
    )
    for warned in (True, False):
        caplog.clear()
        engine(tmp_path / "results", max_epochs=1).fit(model, datamodule=data)
        assert (warning in caplog.text) == warned
        assert model.trained_on == "MVTecAD_to_MVTecAD"


def test_the_quickstart_has_enough_steps(caplog):
    settings = yaml.safe_load(find_config("quickstart").read_text())
    data, epochs = settings["data"]["init_args"], settings["trainer"]["max_epochs"]
    recipe = SyntheticDefects(**data["source"]["init_args"]).recipe
    images = len(data["source_categories"]) * (recipe["test_good"] + 5 * recipe["test_per_defect"])
    steps = epochs * ceil(0.9 * images / data["train_batch_size"])
    for count, limit, warned in ((steps, -1, False), (100, -1, False), (99, -1, True), (99, 99, False)):
        caplog.clear()
        limits = {"max_epochs": epochs, "max_steps": limit, "estimated_stepping_batches": count}
        trainer = SimpleNamespace(**limits, is_global_zero=True, datamodule=None)
        run_setup.RunSetup(epochs).on_train_start(trainer, SimpleNamespace(trained_on=""))
        assert bool(caplog.text) == warned


def test_class_names_that_fit_no_category_are_named(tmp_path, caplog):
    data = data_trees.mvtec_ad(tmp_path, ("metal_nut",), normal=2, anomalous=2)
    for names, warned in (({"metalnut": "flask"}, True), ({"metal nut": "flask", "wood": "plank"}, False)):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            engine(tmp_path / "results").test(zero_shot(class_name=names), datamodule=data)
        assert ("class_name has none of the categories of the dataset (metal_nut): metalnut" in caplog.text) == warned


def test_an_engine_runs_another_model_before_and_afterwards(tmp_path, data):
    run = engine(tmp_path / "results", max_epochs=1)
    broken = DataLoader([ImageBatch(image=torch.full((1, 3, 64, 64), torch.nan))], batch_size=None)
    with pytest.raises(ValueError, match="NaN"):
        run.test(zero_shot(), dataloaders=broken)
    run.test(zero_shot(), datamodule=data)
    other = Padim(backbone="resnet18", pre_trained=False, visualizer=False)
    run.fit(other, datamodule=data)
    (figures,) = run.test(other, datamodule=data)
    assert sorted(figures) == ["image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_F1Score"]
    assert type(run.trainer.strategy.checkpoint_io) is AnomalibCheckpointIO
    own = [callback for callback in run.trainer.callbacks if type(callback).__module__.startswith("anomalib_genclip")]
    assert own == []
    (figures,) = run.test(zero_shot(), datamodule=data)
    assert len([name for name in figures if name.startswith(("image_", "pixel_"))]) == 7
    assert figures.items() <= run.trainer.callback_metrics.items()


@pytest.mark.parametrize(
    ("fast", "precision", "backbone", "hints"),
    [
        (True, "32-true", "ViT-B-16", 1),
        (True, "32-true", "tiny", 0),
        (True, "bf16-mixed", "ViT-B-16", 0),
        (False, "32-true", "ViT-B-16", 0),
    ],
)
def test_one_line_says_where_bf16_is_faster(monkeypatch, fast, precision, backbone, hints):
    lines = []
    monkeypatch.setattr(run_setup, "bf16_is_fast", lambda _: fast)
    monkeypatch.setattr(run_setup, "rank_zero_info", lines.append)
    trainer = SimpleNamespace(precision=precision, strategy=SimpleNamespace(root_device=torch.device("cpu")))
    run_setup._hint_at_bf16(trainer, SimpleNamespace(model=SimpleNamespace(spec=SimpleNamespace(name=backbone))))
    assert ["bf16-mixed" in line for line in lines] == [True] * hints
