# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""One model tested on one datamodule, with time and memory."""

from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from anomalib.data import AnomalibDataModule, get_datamodule
from anomalib.data.utils import TestSplitMode, ValSplitMode
from anomalib.engine import Engine
from anomalib.models import AnomalibModule, UnknownModelError, get_model
from anomalib.pipelines.benchmark.job import BenchmarkJob
from lightning import seed_everything

from anomalib_genclip.evaluation import CategoryEvaluator

from .meter import Meter

PROTOCOLS = ("cross_dataset", "zero_shot", "one_class")


class MeasuredJob(BenchmarkJob):
    """anomalib's benchmark job for any model and protocol, measured.

    It differs from its base class where that fails for zero-shot models: datamodules are given by keyword, and a model
    is only trained if the protocol says so.

    Args:
        accelerator (str): As in Lightning.
        model (AnomalibModule): The model. Its evaluator and visualizer are replaced, so that all models are evaluated
            alike; its pre- and post-processor stay, as in anomalib's benchmark.
        datamodule (AnomalibDataModule): What to test on, and for "one_class" to train on.
        seed (int): Seed of the run.
        protocol (str): "one_class" trains on the datamodule's normal images; "zero_shot" takes the model as it is and
            "cross_dataset" as it is in ``checkpoint``.
        trainer (dict[str, Any] | None): Arguments of Lightning's trainer, such as ``max_epochs``.
        checkpoint (str | Path | None): A Lightning checkpoint to test.
    """

    def __init__(
        self,
        accelerator: str,
        model: AnomalibModule,
        datamodule: AnomalibDataModule,
        seed: int,
        protocol: str,
        trainer: dict[str, Any] | None = None,
        checkpoint: str | Path | None = None,
    ) -> None:
        super().__init__(accelerator, model, datamodule, seed, flat_cfg={})
        self.protocol = protocol
        self.trainer = trainer or {}
        self.checkpoint = checkpoint
        self.evaluator = CategoryEvaluator(report=False)
        model.evaluator = self.evaluator
        model.visualizer = None

    def run(self, task_id: int | None = None) -> dict[str, Any]:
        """Train if the protocol says so, and test.

        Args:
            task_id (int | None): Device number where several run side by side.

        Returns:
            dict[str, Any]: The defined metrics as the mean over categories, ``images``, ``images_per_second``,
                ``peak_memory_mib``, ``fit_seconds`` (only if trained), ``device`` and ``notes``.
        """
        seed_everything(self.seed, workers=True)
        meter = Meter()
        fit_seconds = {}
        with TemporaryDirectory() as folder:
            engine = make_engine(folder, self.accelerator, self.trainer, [meter], task_id)
            if self.protocol == "one_class":
                start = perf_counter()
                engine.fit(model=self.model, datamodule=self.datamodule)
                fit_seconds = {"fit_seconds": perf_counter() - start}
            engine.test(model=self.model, datamodule=self.datamodule, ckpt_path=self.checkpoint)
        result = self.evaluator.result
        if result is None:
            msg = "The test gave no result: the evaluator was never called."
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
    task_id: int | None = None,
) -> Engine:
    """Make an engine on one device that leaves nothing behind but what is written to ``folder``."""
    settings = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, **trainer}
    devices = 1 if task_id is None else [task_id]
    return Engine(
        default_root_dir=folder, accelerator=accelerator, devices=devices, callbacks=callbacks or [], **settings
    )


def build_model(settings: dict[str, Any]) -> AnomalibModule:
    """Build a model from ``{"class_path": name, "init_args": {...}}``.

    By name and keywords, because from a dictionary anomalib hands OmegaConf's containers to the model, which then end
    up in checkpoints that cannot be read again.

    Raises:
        ValueError: If anomalib knows no such model.
    """
    name = settings["class_path"].split(".")[-1]
    try:
        return get_model(name, **settings.get("init_args") or {})
    except UnknownModelError as error:
        msg = f"anomalib knows no model {name!r}."
        raise ValueError(msg) from error


def build_target(settings: dict[str, Any], category: str | None, seed: int) -> AnomalibDataModule:
    """Build a datamodule whose whole test split is tested, for every model the same images.

    Args:
        settings (dict[str, Any]): ``{"class_path": name, "init_args": {...}}``.
        category (str | None): Category, for data sets that have some.
        seed (int): Seed of what a data set samples itself, such as the test images of a Folder without normal ones.

    Returns:
        AnomalibDataModule: The datamodule. Models that need validation get the test images, as by anomalib's default.
    """
    init_args = {"seed": seed, **(settings.get("init_args") or {})}
    if category is not None:
        init_args["category"] = category
    datamodule = get_datamodule({"class_path": settings["class_path"], "init_args": init_args})
    datamodule.val_split_mode = ValSplitMode.SAME_AS_TEST
    # Some data sets default to a mode that drops the normal test images.
    datamodule.test_split_mode = TestSplitMode.FROM_DIR
    return datamodule
