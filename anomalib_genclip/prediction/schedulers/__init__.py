# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Who calls :meth:`Scorer.score <anomalib_genclip.prediction.scoring.Scorer.score>`, on which chunks and machines.

A scheduler is a module of this folder with a class ``Scheduler``, and its name in the settings (``Engine``). Shards are
no scheduler: a shard is a run of every n-th chunk.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, Protocol

from anomalib_genclip.prediction.chunks import Chunk
from anomalib_genclip.prediction.settings import RunSettings


class Scheduler(Protocol):
    """Scores the chunks of a run, in any order. It is made from the settings."""

    device: str  # type of the device that all models compute on
    precision: Literal["float32", "bf16"]  # that all of them compute in
    calibration: dict[str, Any] | None  # what the weights were calibrated on, known after load()

    def load(self, settings: RunSettings, weights: Path) -> Callable[[Iterable[Chunk]], Iterator[Chunk]]:
        """Load the models from a file of weights, with device and precision resolved in the settings."""

    def close(self) -> None:
        """Free what was acquired."""
