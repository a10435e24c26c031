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
    """Measures images per second and peak memory of a test.

    The time includes pre-processing and model, synchronized with the device. It excludes reading of files, metrics and
    visualizations, and the first of several batches, which is the warm-up. The memory is the peak before metrics are
    computed: on a GPU the memory allocated by torch, otherwise the resident memory of the process, which includes
    libraries and the maps kept for the metrics. It is ``None`` where the operating system does not report it (only
    Linux does).

    Attributes:
        images (int): Number of tested images.
        peak_memory_mib (float | None): Peak memory in MiB.
        device (str): Type of the model's device.
    """

    def __init__(self) -> None:
        self.images = 0
        self.peak_memory_mib: float | None = None
        self.device = ""
        self._batches: list[tuple[int, float]] = []
        self._start = 0.0

    @property
    def images_per_second(self) -> float | None:
        """Images per second, ``None`` before a test."""
        batches = self._batches[1:] or self._batches
        seconds = sum(seconds for _, seconds in batches)
        return sum(images for images, _ in batches) / seconds if seconds else None

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Discard the measurements of an earlier test."""
        del trainer, pl_module
        self.images, self._batches = 0, []

    def on_test_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Start the timer; the trainer calls its own callbacks before the model's pre-processor."""
        del trainer, args, kwargs
        _wait_for(pl_module.device)
        self._start = time.perf_counter()

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        *args: Any,  # noqa: ANN401
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        """Stop the timer, before post-processor, evaluator and visualizer are called."""
        del trainer, outputs, args, kwargs
        _wait_for(pl_module.device)
        self._batches.append((len(batch), time.perf_counter() - self._start))
        self.images += len(batch)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the memory, before the evaluator computes its metrics."""
        del trainer
        self.device = pl_module.device.type
        self.peak_memory_mib = peak_memory_mib(pl_module.device)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory_mib(device: torch.device) -> float | None:
    """Return the peak memory of this process so far in MiB: on a GPU allocated memory, else resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    # Not resource.getrusage(), whose peak is inherited from the parent process.
    lines = _STATUS.read_text(encoding="utf-8").splitlines() if _STATUS.is_file() else []
    peaks = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    return peaks[0] / 2**10 if peaks else None
