# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Test of one model on one datamodule, with speed and memory."""

from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from anomalib.data import AnomalibDataModule, get_datamodule
from anomalib.data.utils import TestSplitMode, ValSplitMode
from anomalib.engine import Engine
from anomalib.models import AnomalibModule, UnknownModelError, get_model
from lightning import seed_everything
from lightning.pytorch.trainer.states import TrainerFn

from anomalib_genclip.evaluation import CategoryEvaluator

from .meter import Meter
from .written_prompts import WrittenPrompts

PROTOCOLS = ("cross_dataset", "zero_shot", "one_class")


def measure(
    model: AnomalibModule,
    datamodule: AnomalibDataModule,
    seed: int,
    protocol: str,
    accelerator: str = "auto",
    trainer: dict[str, Any] | None = None,
    checkpoint: str | Path | None = None,
) -> dict[str, Any]:
    """Test a model, after training it if the protocol requires it, and measure speed and memory.

    anomalib's own benchmark job fails for zero-shot models: it passes datamodules by position, and always trains.

    Args:
        model (AnomalibModule): The model. Its evaluator and visualizer are replaced, so that all models are evaluated
            in the same way; it keeps its pre- and post-processor, as in anomalib's benchmark.
        datamodule (AnomalibDataModule): Data to test on, and for "one_class" to train on.
        seed (int): Seed of the run.
        protocol (str): "one_class" trains on the datamodule's normal images; "zero_shot" does not train;
            "cross_dataset" loads ``checkpoint``.
        accelerator (str): As in Lightning. Defaults to ``"auto"``.
        trainer (dict[str, Any] | None): Arguments of Lightning's trainer, such as ``max_epochs``.
        checkpoint (str | Path | None): A Lightning checkpoint to test.

    Returns:
        dict[str, Any]: Means of the defined metrics over categories, ``images``, ``images_per_second``,
            ``peak_memory_mib``, ``fit_seconds`` (only if trained), ``device`` and ``notes``.

    Raises:
        RuntimeError: If the test has no result.
    """
    evaluator = CategoryEvaluator(report=False)
    model.evaluator, model.visualizer = evaluator, None
    seed_everything(seed, workers=True)
    meter = Meter()
    fit_seconds = {}
    with TemporaryDirectory() as folder:
        engine = make_engine(folder, accelerator, trainer or {}, [meter])
        if protocol == "one_class":
            start = perf_counter()
            engine.fit(model=model, datamodule=datamodule)
            fit_seconds = {"fit_seconds": perf_counter() - start}
        engine.test(model=model, datamodule=datamodule, ckpt_path=checkpoint)
    result = evaluator.result
    if result is None:
        msg = "The test has no result: the evaluator was never called."
        raise RuntimeError(msg)
    return {
        **result.mean,
        "images": meter.images,
        "images_per_second": meter.images_per_second,
        "peak_memory_mib": meter.peak_memory_mib,
        **fit_seconds,
        "device": meter.device,
        "notes": result.notes,
    }


def make_engine(
    folder: str | Path,
    accelerator: str,
    trainer: dict[str, Any],
    callbacks: list | None = None,
) -> Engine:
    """Create an engine for one device that writes to ``folder`` only."""
    settings = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, **trainer}
    return Engine(default_root_dir=folder, accelerator=accelerator, devices=1, callbacks=callbacks or [], **settings)


def build_model(settings: dict[str, Any], **more: Any) -> AnomalibModule:  # noqa: ANN401  # the model's arguments
    """Build a model of anomalib, or :class:`.WrittenPrompts`, from ``{"class_path": name, "init_args": {...}}``.

    By name and keywords: given a dictionary, anomalib passes OmegaConf's containers to the model, and checkpoints with
    such containers cannot be read.

    Raises:
        ValueError: If anomalib has no such model.
    """
    name = settings["class_path"].split(".")[-1]
    init_args = {**(settings.get("init_args") or {}), **more}
    if name == WrittenPrompts.__name__:
        return WrittenPrompts(**init_args)
    try:
        return get_model(name, **init_args)
    except UnknownModelError as error:
        msg = f"anomalib has no model {name!r}."
        raise ValueError(msg) from error


def build_target(settings: dict[str, Any], category: str | None, seed: int) -> AnomalibDataModule:
    """Build a datamodule whose whole test split is tested, with the same images for every model.

    Args:
        settings (dict[str, Any]): ``{"class_path": name, "init_args": {...}}``.
        category (str | None): Category, for datasets with categories.
        seed (int): Seed of random splits, such as that of a Folder without normal test images.

    Returns:
        AnomalibDataModule: The datamodule. It validates on the test images, as is anomalib's default.
    """
    init_args = {"seed": seed, **(settings.get("init_args") or {})}
    if category is not None:
        init_args["category"] = category
    datamodule = get_datamodule({"class_path": settings["class_path"], "init_args": init_args})
    datamodule.val_split_mode = ValSplitMode.SAME_AS_TEST
    # Some datamodules default to a mode that drops the normal test images.
    datamodule.test_split_mode = TestSplitMode.FROM_DIR
    return datamodule


def keep_normal_images(datamodule: AnomalibDataModule, k_shot: int, seed: int) -> None:
    """Reduce a training set to ``k_shot`` of its images, the same for every model.

    Raises:
        ValueError: If it has fewer.
    """
    datamodule.prepare_data()
    datamodule.setup(TrainerFn.FITTING)  # with the trainer's own stage, so that the engine does not repeat it
    count = len(datamodule.train_data)
    if count < k_shot:
        msg = f"k_shot={k_shot}, but there are only {count} training images."
        raise ValueError(msg)
    drawn = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:k_shot].tolist()
    datamodule.train_data.subsample(drawn, inplace=True)
