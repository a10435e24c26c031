# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Execution of one job, from plain settings to a plain result.

Both are plain data, so that a job can be stored, identified, and run in a process of its own.
"""

import contextlib
import json
import subprocess
import sys
import traceback
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from anomalib.data import get_datamodule
from lightning import seed_everything

from anomalib_genclip.utils.files import atomic_write

from .ablated import ablated
from .measure import build_model, build_target, keep_normal_images, make_engine, measure

Settings = dict[str, Any]
_LONGEST_REASON = 300


def test_on_category(settings: Settings) -> dict[str, Any]:
    """Test a model on one category; settings from :func:`.comparison.test_jobs`."""
    # Before the model is built, because its weights may be random.
    seed_everything(settings["seed"], workers=True)
    k_shot = settings["k_shot"]
    references = {"k_shot": k_shot} if k_shot and settings["protocol"] != "one_class" else {}
    model = build_model(settings["model"], **references)
    target = build_target(settings["target"], settings["category"], settings["seed"])
    if k_shot:
        keep_normal_images(target, k_shot, settings["seed"])
    options = {name: settings[name] for name in ("seed", "protocol", "accelerator", "trainer", "checkpoint")}
    return measure(model, target, **options)


def train_on_source(settings: Settings) -> dict[str, Any]:
    """Train a model on the source and write a checkpoint; settings from :func:`.comparison.training_jobs`."""
    from anomalib_genclip import CrossDataset

    seed_everything(settings["seed"], workers=True)
    model = build_model(settings["model"])
    model.evaluator, model.visualizer = None, None
    # Training does not use the target, so the source replaces it.
    options = {"seed": settings["seed"], **settings["data"]}
    datamodule = CrossDataset(
        source=settings["source"],
        source_categories=settings["source_categories"],
        target=settings["source"],
        target_categories=settings["source_categories"],
        **options,
    )
    checkpoint = Path(settings["checkpoint"])
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=checkpoint.parent) as folder:
        engine = make_engine(folder, settings["accelerator"], settings["trainer"])
        engine.fit(model=model, datamodule=datamodule)
        written = Path(folder) / checkpoint.name
        engine.trainer.save_checkpoint(written)
        written.replace(checkpoint)
    return {"checkpoint": str(checkpoint), "epochs": engine.trainer.current_epoch}


def test_variant(settings: Settings) -> dict[str, Any]:
    """Test a trained model without some of its parts; settings from :func:`.ablation.ablate`."""
    model = ablated(settings["weights"], settings["variant"], settings["pretrained"])
    return measure(
        model, get_datamodule(settings["data"]), settings["seed"], "zero_shot", accelerator=settings["accelerator"]
    )


ACTIONS = {"test": test_on_category, "train": train_on_source, "ablate": test_variant}


def run_here(settings: Settings, log: Path) -> dict[str, Any]:
    """Run a job in this process.

    Args:
        settings (Settings): Settings with an ``action`` of :data:`ACTIONS`.
        log (Path): File for the output and the traceback of a failure.

    Returns:
        dict[str, Any]: The result, or ``{"error": reason}``.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        try:
            return ACTIONS[settings["action"]](settings)
        except Exception as error:  # noqa: BLE001  # the other jobs still run
            traceback.print_exc()
            return {"error": reason(error)}


def run_isolated(settings: Settings, log: Path) -> dict[str, Any]:
    """Run a job in a process of its own, whose memory is measured separately and which may crash.

    Args:
        settings (Settings): Settings with an ``action`` of :data:`ACTIONS`.
        log (Path): File for the output and the traceback of a failure.

    Returns:
        dict[str, Any]: The result, or ``{"error": reason}``.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as folder, log.open("w", encoding="utf-8") as file:
        answer = Path(folder) / "result.json"
        command = [sys.executable, "-m", "anomalib_genclip.pipelines.task", json.dumps(settings), str(answer), str(log)]
        ended = subprocess.run(command, stdout=file, stderr=file, check=False)  # noqa: S603  # this very module
        if answer.is_file():
            return json.loads(answer.read_text(encoding="utf-8"))
    hint = ", which is what happens when memory runs out" if ended.returncode == -9 else ""
    return {"error": f"the process ended with code {ended.returncode}{hint}; see {log}"}


def reason(error: BaseException) -> str:
    """Summarize an error in one line."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}..."


def main() -> None:
    """Entry point of the process of :func:`run_isolated`: settings, file for the result, file for the log."""
    settings, answer, log = sys.argv[1:]
    result = run_here(json.loads(settings), Path(log))
    atomic_write(Path(answer), json.dumps(result).encode(), sync=False)


if __name__ == "__main__":
    main()
