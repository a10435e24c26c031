# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Speed and memory of a test run."""

import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

_STATUS = Path("/proc/self/status")


class Meter(Callback):
    """Measures images per second and peak memory of one test.

    The time includes pre-processing and model, synchronized with the device. It excludes reading of files, metrics and
    visualizations, and the first of several batches, which is the warm-up. The memory is the peak before metrics are
    computed; see :func:`peak_memory_mib`.
    """

    def __init__(self) -> None:
        self._batches: list[tuple[int, float]] = []  # images, seconds
        self._memory: dict[str, Any] = {}
        self._start = 0.0

    def result(self) -> dict[str, Any]:
        """Return ``images``, ``images_per_second``, ``peak_memory_mib`` and ``device``."""
        timed = self._batches[1:] or self._batches
        images, seconds = map(sum, zip(*timed, strict=True))
        count = sum(images for images, _ in self._batches)
        return {"images": count, "images_per_second": images / seconds, **self._memory}

    def on_test_batch_start(self, _: Trainer, pl_module: LightningModule, *args: Any) -> None:  # noqa: ANN401
        """Start the timer; the trainer calls its own callbacks before the model's pre-processor."""
        del args
        _wait_for(pl_module.device)
        self._start = time.perf_counter()

    def on_test_batch_end(self, _: Trainer, pl_module: LightningModule, *args: Any) -> None:  # noqa: ANN401
        """Stop the timer, before post-processor, evaluator and visualizer are called."""
        _wait_for(pl_module.device)
        batch = args[1]  # after the outputs
        self._batches.append((len(batch), time.perf_counter() - self._start))

    def on_test_epoch_end(self, _: Trainer, pl_module: LightningModule) -> None:
        """Record the memory, before the evaluator computes its metrics."""
        self._memory = {"peak_memory_mib": peak_memory_mib(pl_module.device), "device": pl_module.device.type}


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory_mib(device: torch.device) -> float | None:
    """Return the peak memory of this process so far in MiB.

    On a GPU this is the memory allocated by torch, else the resident memory with libraries and the maps kept for the
    metrics; ``None`` where the operating system does not report it (only Linux does).
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    # Not resource.getrusage(), whose peak is inherited from the parent process.
    lines = _STATUS.read_text(encoding="utf-8").splitlines() if _STATUS.is_file() else []
    peaks = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    return peaks[0] / 2**10 if peaks else None
