# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Score chunks one after the other, in this process."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from anomalib_genclip.prediction.chunks import Chunk
from anomalib_genclip.prediction.scoring import Scorer, resolve_device
from anomalib_genclip.prediction.settings import RunSettings


class Scheduler:
    """See :class:`anomalib_genclip.prediction.schedulers.Scheduler`."""

    def __init__(self, settings: RunSettings) -> None:
        self.device, self.precision = resolve_device(settings)

    def load(self, settings: RunSettings, weights: Path) -> Callable[[Iterable[Chunk]], Iterator[Chunk]]:
        """Load the model."""
        scorer = Scorer(settings, weights)
        self.calibration = scorer.inferencer.calibration
        return scorer.score

    def close(self) -> None:
        """Do nothing."""
