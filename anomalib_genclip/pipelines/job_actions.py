# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""What jobs do: train a model, or test one with speed and memory. Settings and results are plain data."""

from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from anomalib.data import AnomalibDataModule, UnknownDatamoduleError, get_datamodule
from anomalib.data.utils import TestSplitMode, ValSplitMode
from anomalib.engine import Engine
from anomalib.models import AnomalibModule, UnknownModelError, get_model
from lightning import seed_everything
from lightning.pytorch.trainer.states import TrainerFn

from anomalib_genclip.data import CrossDataset
from anomalib_genclip.evaluation import CategoryEvaluator
from anomalib_genclip.inferencer import load_trained

from .meter import Meter
from .written_prompts import WrittenPrompts

Settings = dict[str, Any]


def train_model(settings: Settings) -> Settings:
    """Train a model on the source and write a checkpoint; settings of :func:`.comparison.training_jobs`."""
    seed_everything(settings["seed"], workers=True)
    model = build_model(settings["model"])
    model.evaluator, model.visualizer = None, None
    # Training does not use the target, so the source replaces it.
    source, categories = settings["source"], settings["source_categories"]
    options = {"seed": settings["seed"], **settings["data"], "target_categories": categories}
    datamodule = CrossDataset(source=source, source_categories=categories, target=source, **options)
    checkpoint = Path(settings["checkpoint"])
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=checkpoint.parent) as folder:
        engine = make_engine(folder, settings["accelerator"], settings["trainer"])
        engine.fit(model=model, datamodule=datamodule)
        written = Path(folder, checkpoint.name)
        engine.trainer.save_checkpoint(written)
        written.replace(checkpoint)
    return {"checkpoint": str(checkpoint), "epochs": engine.trainer.current_epoch}


def test_model(settings: Settings) -> Settings:
    """Test a model on one category; settings of :func:`.comparison.test_jobs`."""
    # Before the model is built, because its weights may be random.
    seed_everything(settings["seed"], workers=True)
    k_shot, one_class = settings["k_shot"], settings["protocol"] == "one_class"
    model = build_model(settings["model"], **({"k_shot": k_shot} if k_shot and not one_class else {}))
    target = build_target(settings["target"], settings["category"], settings["seed"])
    if k_shot:
        keep_normal_images(target, k_shot, settings["seed"])
    options = {name: settings[name] for name in ("seed", "accelerator", "trainer", "checkpoint")}
    return measure(model, target, **options, train=one_class)


def test_variant(settings: Settings) -> Settings:
    """Test a trained model without some of its parts; settings of :func:`.ablation.ablate`."""
    model = load_trained(settings["weights"], settings["pretrained"])
    for name, value in settings["variant"].items():
        setattr(model.model, name, value)
    return measure(model, build_datamodule(settings["data"]), settings["seed"], settings["accelerator"])


def measure(
    model: AnomalibModule,
    datamodule: AnomalibDataModule,
    seed: int,
    accelerator: str,
    trainer: Settings | None = None,
    checkpoint: str | None = None,
    train: bool = False,
) -> Settings:
    """Test a model, and measure speed and memory.

    anomalib's own benchmark job fails for zero-shot models: it passes datamodules by position, and always trains.
    """
    evaluator, meter, fit_seconds = CategoryEvaluator(report=False), Meter(), {}
    model.evaluator, model.visualizer = evaluator, None
    seed_everything(seed, workers=True)
    with TemporaryDirectory() as folder:
        engine = make_engine(folder, accelerator, {"callbacks": [meter], **(trainer or {})})
        if train:
            start = perf_counter()
            engine.fit(model=model, datamodule=datamodule)
            fit_seconds = {"fit_seconds": perf_counter() - start}
        engine.test(model=model, datamodule=datamodule, ckpt_path=checkpoint)
    assert evaluator.result is not None
    return {**evaluator.result.mean, **meter.result(), **fit_seconds, "notes": evaluator.result.notes}


def make_engine(folder: str | Path, accelerator: str, trainer: Settings) -> Engine:
    """Create an engine for one device that writes to ``folder`` only."""
    settings = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, **trainer}
    return Engine(default_root_dir=folder, accelerator=accelerator, devices=1, **settings)


def build_model(settings: Settings, **more: Any) -> AnomalibModule:  # noqa: ANN401  # the model's arguments
    """Build a model of anomalib, or :class:`.WrittenPrompts`, from ``{"class_path": name, "init_args": {...}}``."""
    name, init_args = settings["class_path"].split(".")[-1], {**settings.get("init_args", {}), **more}
    try:
        return WrittenPrompts(**init_args) if name == WrittenPrompts.__name__ else get_model(name, **init_args)
    except UnknownModelError as error:
        msg = f"anomalib has no model {name!r}."
        raise ValueError(msg) from error


def build_datamodule(settings: Settings) -> AnomalibDataModule:
    """Build a datamodule of anomalib, from ``{"class_path": name, "init_args": {...}}``."""
    try:
        return get_datamodule(settings)
    except UnknownDatamoduleError as error:
        msg = f"anomalib has no datamodule {settings['class_path']!r}."
        raise ValueError(msg) from error


def build_target(settings: Settings, category: str | None, seed: int) -> AnomalibDataModule:
    """Build a datamodule, of one category if it has some, whose whole test split is tested and validated on.

    With the same seed, random splits, such as that of a Folder without normal test images, are the same.
    """
    init_args = {"seed": seed, **settings.get("init_args", {}), **({"category": category} if category else {})}
    datamodule = build_datamodule({"class_path": settings["class_path"], "init_args": init_args})
    datamodule.val_split_mode = ValSplitMode.SAME_AS_TEST  # anomalib's default
    # Some datamodules default to a mode that drops the normal test images.
    datamodule.test_split_mode = TestSplitMode.FROM_DIR
    return datamodule


def keep_normal_images(datamodule: AnomalibDataModule, k_shot: int, seed: int) -> None:
    """Reduce a training set to ``k_shot`` of its images, the same for every model."""
    datamodule.prepare_data()
    datamodule.setup(TrainerFn.FITTING)  # with the trainer's own stage, so that the engine does not repeat it
    count = len(datamodule.train_data)
    if count < k_shot:
        msg = f"k_shot={k_shot}, but the number of training images is {count}."
        raise ValueError(msg)
    drawn = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:k_shot].tolist()
    datamodule.train_data.subsample(drawn, inplace=True)
