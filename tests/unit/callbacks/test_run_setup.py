# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""What is settled before a run: results folders, validation, epochs."""

import logging

import pytest
import torch
from anomalib.data import Folder, ImageBatch
from anomalib.engine.plugins import AnomalibCheckpointIO
from anomalib.metrics import AUROC, Evaluator
from anomalib.models import Padim
from helpers import data_trees
from helpers.runs import build, engine

from anomalib_genclip import GenCLIP
from anomalib_genclip.callbacks import run_setup


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    """Untrained prompts in a file, for a zero-shot model."""
    return build().save_weights(tmp_path_factory.mktemp("prompts") / "prompts.safetensors")


def zero_shot(prompts, **settings) -> GenCLIP:
    return build(weights=prompts, backbone=None, image_size=None, **settings)


def results(root, name: str = "bottle"):
    return root / "GenCLIP" / "MVTecAD" / name


@pytest.mark.parametrize("first", ["test", "predict", "validate"])
def test_training_follows_any_call(tmp_path, prompts, first):
    data = data_trees.mvtec_ad(tmp_path / "data", normal=2, anomalous=2)
    root = tmp_path / "results"
    getattr(engine(root), first)(model=zero_shot(prompts, visualizer=True), datamodule=data)
    pictures = list(results(root).rglob("images/**/*.png"))
    engine(root, max_epochs=1).fit(model=build(), datamodule=data)
    engine(root).test(model=zero_shot(prompts), datamodule=data)
    assert (results(root) / "latest").is_symlink()
    assert list((results(root) / "latest" / "weights").rglob("*.ckpt"))
    assert bool(pictures) == (first != "validate")
    assert all(path.exists() for path in pictures)


def test_results_of_an_earlier_plain_folder_are_kept(tmp_path, prompts):
    data = data_trees.mvtec_ad(tmp_path / "data", normal=2, anomalous=2)
    old = results(tmp_path / "results") / "latest" / "notes.txt"
    old.parent.mkdir(parents=True)
    old.write_text("old")
    engine(tmp_path / "results").test(model=zero_shot(prompts), datamodule=data)
    engine(tmp_path / "results", max_epochs=1).fit(model=build(), datamodule=data)
    assert (results(tmp_path / "results") / "v0" / "notes.txt").read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"data", "results"}
    assert not (tmp_path / "results").is_symlink()


@pytest.mark.parametrize("mode", ["none", "same_as_test", "from_train", "from_test", "synthetic"])
def test_every_val_split_mode_works(tmp_path, prompts, mode):
    data_trees.folder(tmp_path / "data")
    data = Folder(
        name="screws",
        root=tmp_path / "data",
        normal_dir="good",
        abnormal_dir="bad",
        mask_dir="mask",
        val_split_mode=mode,
        **data_trees.LOADING,
    )
    for call, model in (("test", zero_shot(prompts)), ("fit", build()), ("test", build())):
        run = engine(tmp_path / "results", max_epochs=1)
        getattr(run, call)(model=model, datamodule=data)
        assert run.trainer.limit_val_batches == 1.0
        assert "pixel_AUROC" in run.trainer.callback_metrics or call == "fit"


def test_zero_shot_thresholds_stay_where_nothing_is_validated(tmp_path, prompts):
    model = zero_shot(prompts)
    model.post_processor.set_thresholds(image=torch.tensor(0.75), pixel=torch.tensor(0.75))
    data = data_trees.mvtec_ad(tmp_path / "data", normal=2, anomalous=2)
    engine(tmp_path).test(model=model, datamodule=data)
    assert model.post_processor.raw_thresholds()["image"] == 0.75


def test_validation_metrics_of_a_zero_shot_model_are_computed(tmp_path, prompts):
    metric = AUROC(fields=["pred_score", "gt_label"], prefix="image_")
    model = zero_shot(prompts, evaluator=Evaluator(val_metrics=[metric]))
    data = data_trees.mvtec_ad(tmp_path / "data", normal=2, anomalous=2)
    (logged,) = engine(tmp_path).validate(model=model, datamodule=data)
    assert "image_AUROC" in logged


@pytest.mark.parametrize(
    ("limits", "epochs"), [({}, 2), ({"max_epochs": 1}, 1), ({"max_steps": 3}, None), ({"max_epochs": 3}, 3)]
)
def test_epochs_are_the_models_unless_the_trainer_has_a_limit(cross, tmp_path, limits, epochs):
    run = engine(tmp_path / "results", limit_train_batches=1, limit_val_batches=0, **limits)
    run.fit(build(training={"epochs": 2}), datamodule=cross)
    if epochs is None:
        assert run.trainer.global_step == limits["max_steps"]
    else:
        assert run.trainer.current_epoch == epochs


def test_class_names_that_fit_no_category_are_named(tmp_path, caplog):
    data = data_trees.mvtec_ad(tmp_path, ("metal_nut",), normal=2, anomalous=2)
    for names, warned in (({"metalnut": "flask"}, True), ({"metal nut": "flask", "wood": "plank"}, False)):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            engine(tmp_path / "results").test(build(class_name=names), datamodule=data)
        assert ("class_name has none of the categories of the dataset (metal_nut): metalnut" in caplog.text) == warned


def test_an_engine_runs_another_model_afterwards(tmp_path, prompts):
    data = data_trees.mvtec_ad(tmp_path / "data", normal=2, anomalous=2)
    run = engine(tmp_path / "results", max_epochs=1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="Found 0 images"):
        run.predict(zero_shot(prompts), data_path=tmp_path / "empty")
    with pytest.raises(ValueError, match="NaN"):
        run.test(zero_shot(prompts), dataloaders=[ImageBatch(image=torch.full((1, 3, 64, 64), torch.nan))])
    run.test(zero_shot(prompts), datamodule=data)
    other = Padim(backbone="resnet18", pre_trained=False, visualizer=False)
    run.fit(other, datamodule=data)
    (figures,) = run.test(other, datamodule=data)
    assert figures.keys() == {"image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_F1Score"}
    assert type(run.trainer.strategy.checkpoint_io) is AnomalibCheckpointIO
    own = [callback for callback in run.trainer.callbacks if type(callback).__module__.startswith("anomalib_genclip")]
    assert own == []


@pytest.mark.parametrize(
    ("fast", "precision", "call", "hints"),
    [
        (True, "32-true", "test", 1),
        (True, "32-true", "predict", 1),
        (True, "32-true", "validate", 0),
        (True, "bf16-mixed", "test", 0),
        (False, "32-true", "test", 0),
    ],
)
def test_one_line_says_where_bf16_is_faster(tmp_path, prompts, monkeypatch, fast, precision, call, hints):
    lines = []
    monkeypatch.setattr(run_setup, "bf16_is_fast", lambda _: fast)
    monkeypatch.setattr(run_setup, "rank_zero_info", lines.append)
    data = data_trees.mvtec_ad(tmp_path / "data", normal=2, anomalous=2)
    run = engine(tmp_path / "results", precision=precision)
    getattr(run, call)(model=zero_shot(prompts), datamodule=data)
    assert ["bf16-mixed" in line for line in lines] == [True] * hints
