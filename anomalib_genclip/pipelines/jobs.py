# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Jobs: training a model, or testing one with speed and memory, each in a process of its own, with stored results.

anomalib's ``SerialRunner`` does not fit: it ends with an error if a job fails.
"""

import contextlib
import json
import logging
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import shorten
from typing import Any

import torch
from anomalib.data import AnomalibDataModule, UnknownDatamoduleError, get_datamodule
from anomalib.data.utils import TestSplitMode, ValSplitMode
from anomalib.engine import Engine
from anomalib.models import AnomalibModule, UnknownModelError, get_model
from lightning import seed_everything
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console
from rich.progress import track

from anomalib_genclip import __version__
from anomalib_genclip.clip.backbone import TINY
from anomalib_genclip.data import CrossDataset
from anomalib_genclip.demo.tiny_clip import TINY_CLIP_FILE
from anomalib_genclip.evaluation import CategoryEvaluator
from anomalib_genclip.evaluation.report import Row
from anomalib_genclip.inferencer import load_trained
from anomalib_genclip.persistence.weights_files import BUNDLED_PROMPTS
from anomalib_genclip.utils.files import atomic_write, file_hash, is_file
from anomalib_genclip.utils.tensors import digest

from .free_text import FreeText
from .written_prompts import WrittenPrompts

logger = logging.getLogger(__name__)

Settings = dict[str, Any]
BASELINES: dict[str, type[AnomalibModule]] = {kind.__name__: kind for kind in (WrittenPrompts, FreeText)}


@dataclass(frozen=True)
class Job:
    """A unit of work, such as testing a model on a category. Settings and results are plain data."""

    action: str  # name of its function in ACTIONS
    settings: Settings  # everything that the result depends on
    labels: Row  # columns that identify the job in tables
    failure: str = ""  # why the job cannot run

    @cached_property
    def key(self) -> str:
        """Hash of settings, contents of the files that they name and of the bundled weights, and versions."""
        names = _strings(self.settings)
        files = {path: file_hash(path) for path in names if is_file(path)}
        if {TINY, *BUNDLED_PROMPTS} & set(names):
            files |= {path.name: file_hash(path) for path in sorted(TINY_CLIP_FILE.parent.glob("*.safetensors"))}
        return digest({}, [self.action, self.settings, files, __version__, version("anomalib")])[:16]

    def run(self, folder: Path, isolate: bool) -> Row:
        """Return labels and result, or labels and ``error``; only what has no stored result, or an error, is run."""
        if self.failure:
            return {**self.labels, "error": self.failure}
        path, checkpoint = folder / "jobs" / f"{self.key}.json", folder / "checkpoints" / f"{self.key}.ckpt"
        written = {"checkpoint": str(checkpoint)} if self.action == "train" else {}
        result = read_result(path)
        if not result or "error" in result or (written and not checkpoint.is_file()):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            (run_isolated if isolate else run_here)(self.action, {**self.settings, **written}, path)
            result = read_result(path)
        return {**self.labels, **result, **written, **self.labels}


def run_jobs(title: str, jobs: Sequence[Job], folder: Path, isolate: bool) -> list[Row]:
    """Run jobs one after the other with a progress bar; a job that fails is a row with the reason."""
    console = Console(file=sys.stdout)  # jobs redirect stdout; the bar must keep the original stream
    return [job.run(folder, isolate) for job in track(jobs, title, console=console, disable=not jobs)]


def run_here(action: str, settings: Settings, path: Path) -> None:
    """Run a job and write its result or ``{"error": reason}``; output and traceback go to the log beside it."""
    log = path.with_suffix(".log")
    with log.open("a", encoding="utf-8") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        try:
            result = ACTIONS[action](settings)
        except Exception as error:  # noqa: BLE001  # the other jobs still run
            traceback.print_exc()
            result = {"error": reason(error)}
    atomic_write(path, json.dumps(result, indent=2).encode())


def run_isolated(action: str, settings: Settings, path: Path) -> None:
    """Do the same in a process of its own, whose memory is measured separately and which may crash."""
    command = [sys.executable, "-m", "anomalib_genclip.pipelines.jobs", action, json.dumps(settings), str(path)]
    with path.with_suffix(".log").open("a", encoding="utf-8") as log:
        ended = subprocess.run(command, stdout=log, stderr=log, check=False)  # noqa: S603  # this very module
    if not path.is_file():
        hint = ", which is what happens when memory runs out" if ended.returncode == -9 else ""
        error = f"the process ended with code {ended.returncode}{hint}; see {log.name}"
        atomic_write(path, json.dumps({"error": error}).encode())


def reason(error: BaseException) -> str:
    """Summarize an error in one line."""
    return shorten(f"{type(error).__name__}: {error}", 300, placeholder="...")


def read_result(path: Path) -> Settings:
    """Read a stored result; an empty one if there is none."""
    if not path.is_file():
        return {}
    with contextlib.suppress(ValueError, TypeError, RecursionError):  # not JSON, or of something else
        return dict(json.loads(path.read_text(encoding="utf-8")))
    logger.warning("%s is not the result of a job: the job is run again.", path)
    return {}


def _strings(value: Any) -> list[str]:  # noqa: ANN401
    """List all strings in nested plain data."""
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else []
    return [text for part in parts for text in _strings(part)]


def train_model(settings: Settings) -> Settings:
    """Train a model on the source and write a checkpoint; settings of :func:`.comparison.training_jobs`."""
    seed_everything(settings["seed"], workers=True)
    model = build_model(settings["model"])
    model.evaluator, model.visualizer = None, None
    source, categories = settings["source"], settings["source_categories"]
    options = {"seed": settings["seed"], **settings["data"], "target_categories": categories}
    datamodule = CrossDataset(source=source, source_categories=categories, target=source, **options)  # no target
    checkpoint = Path(settings["checkpoint"])
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=checkpoint.parent) as folder:
        engine = make_engine(folder, settings["accelerator"], settings["trainer"])
        engine.fit(model=model, datamodule=datamodule)
        written = Path(folder, checkpoint.name)
        engine.trainer.save_checkpoint(written)
        written.replace(checkpoint)
    return {"epochs": engine.trainer.current_epoch}


def test_model(settings: Settings) -> Settings:
    """Test a model on one category; settings of :func:`.comparison.test_jobs`."""
    seed_everything(settings["seed"], workers=True)  # first, because the model's weights may be random
    k_shot, one_class = settings["k_shot"], settings["protocol"] == "one_class"
    model = build_model(settings["model"], **({"k_shot": k_shot} if k_shot and not one_class else {}))
    target = build_target(settings["target"], settings["category"], settings["seed"])
    if k_shot:
        keep_normal_images(target, k_shot, settings["seed"])
    options = {name: settings[name] for name in ("seed", "accelerator", "trainer", "checkpoint")}
    return measure(model, target, **options, train=one_class)


def test_variant(settings: Settings) -> Settings:
    """Test a trained model without some of its parts; settings of :func:`.comparison.ablate`."""
    model = load_trained(settings["weights"], settings["pretrained"])
    for name, value in settings["variant"].items():
        setattr(model.model, name, value)
    return measure(model, build_datamodule(settings["data"]), settings["seed"], settings["accelerator"])


ACTIONS: dict[str, Callable[[Settings], Settings]] = {"train": train_model, "test": test_model, "ablate": test_variant}


def measure(
    model: AnomalibModule,
    datamodule: AnomalibDataModule,
    seed: int,
    accelerator: str,
    trainer: Settings | None = None,
    checkpoint: str | None = None,
    train: bool = False,
) -> Settings:
    """Test a model, and measure speed and memory; anomalib's own benchmark job fails for zero-shot models."""
    evaluator, meter, fit_seconds = CategoryEvaluator(report=False), Meter(), {}
    model.evaluator, model.visualizer = evaluator, None
    seed_everything(seed, workers=True)
    with TemporaryDirectory() as folder:
        engine = make_engine(folder, accelerator, {"callbacks": [meter], **(trainer or {})})
        if train:
            start = time.perf_counter()
            engine.fit(model=model, datamodule=datamodule)
            fit_seconds = {"fit_seconds": time.perf_counter() - start}
        engine.test(model=model, datamodule=datamodule, ckpt_path=checkpoint)
    result = evaluator.result
    assert result is not None
    return {**result.mean, **meter.result(), **fit_seconds, "notes": result.notes, "draws": result.mean_draws}


def make_engine(folder: str | Path, accelerator: str, trainer: Settings) -> Engine:
    """Create an engine for one device that writes to ``folder`` only."""
    settings = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, **trainer}
    return Engine(default_root_dir=folder, accelerator=accelerator, devices=1, **settings)


def build_model(settings: Settings, **more: Any) -> AnomalibModule:  # noqa: ANN401  # the model's arguments
    """Build a model of anomalib, or one of ``BASELINES``, from ``{"class_path": name, "init_args": {...}}``."""
    name, init_args = settings["class_path"].split(".")[-1], {**settings.get("init_args", {}), **more}
    try:
        return BASELINES[name](**init_args) if name in BASELINES else get_model(name, **init_args)
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
    """Build a datamodule, of one category if it has some, whose whole test split is tested and validated on."""
    init_args = {"seed": seed, **settings.get("init_args", {}), **({"category": category} if category else {})}
    datamodule = build_datamodule({"class_path": settings["class_path"], "init_args": init_args})
    datamodule.val_split_mode = ValSplitMode.SAME_AS_TEST  # anomalib's default
    datamodule.test_split_mode = TestSplitMode.FROM_DIR  # some default to one that drops the normal test images
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


class Meter(Callback):
    """Measures peak memory of one test and images per second of pre-processing and model, without the first batch."""

    def __init__(self) -> None:
        self._batches: list[tuple[int, float]] = []  # images, seconds
        self._memory: dict[str, Any] = {}
        self._start = 0.0

    def result(self) -> dict[str, Any]:
        """Return ``images``, ``images_per_second``, ``peak_memory_mib`` and ``device``."""
        images, seconds = map(sum, zip(*(self._batches[1:] or self._batches), strict=True))
        count = sum(images for images, _ in self._batches)
        return {"images": count, "images_per_second": images / seconds, **self._memory}

    def on_test_batch_start(self, _: Trainer, pl_module: LightningModule, *_args: Any) -> None:  # noqa: ANN401
        """Start the timer; the trainer calls its own callbacks before the model's pre-processor."""
        self._start = _synchronized_time(pl_module.device)

    def on_test_batch_end(self, _: Trainer, pl_module: LightningModule, *args: Any) -> None:  # noqa: ANN401
        """Stop the timer, before post-processor, evaluator and visualizer are called."""
        self._batches.append((len(args[1]), _synchronized_time(pl_module.device) - self._start))

    def on_test_epoch_end(self, _: Trainer, pl_module: LightningModule) -> None:
        """Record the memory, before the evaluator computes its metrics."""
        self._memory = {"peak_memory_mib": peak_memory_mib(pl_module.device), "device": pl_module.device.type}


def _synchronized_time(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def peak_memory_mib(device: torch.device) -> float | None:
    """Return the peak memory of this process so far in MiB: of the GPU by torch, else resident, where Linux says it."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")  # not resource.getrusage(), whose peak is inherited from the parent process
    peak = re.search(r"VmHWM:\s*(\d+)", status.read_text(encoding="utf-8")) if status.is_file() else None
    return int(peak[1]) / 2**10 if peak else None


if __name__ == "__main__":  # the process of run_isolated
    run_here(sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3]))
