# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""What the scores of the good parts that a model was calibrated with say of later ones."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import expit, logit
from scipy.stats import ks_2samp, median_abs_deviation

SOURCE_NOTE = (
    "The alarm level is that of the data the model was trained with, not of this product: calibrate it with good parts "
    "(genclip calibrate), or give image_threshold."
)
DRIFT_RATE = 0.01  # of windows that are told to have drifted although nothing has changed
WINDOW = 100  # parts
FEWEST = 20  # parts from which an alarm level is guessed
_SPREADS = 3.0  # standard deviations above the median: 1 of 740 good parts if the logits were normal
_SMALLEST_SPREAD = 0.05  # of logits: many equal scores have none


def p_value(score: float, good: Sequence[float]) -> float:
    """Compute the p-value of split conformal prediction: ``(1 + number of scores at least as high) / (n + 1)``."""
    return (1 + len(good) - bisect_left(good, score)) / (len(good) + 1)


def drift_note(scores: Sequence[float], good: Sequence[float], level: float) -> str:
    """Say that scores below the alarm level no longer come from where those of good parts came from, else ``""``."""
    samples = [np.asarray(some)[np.asarray(some) <= level] for some in (scores, good)]
    p = ks_2samp(*samples).pvalue if all(map(len, samples)) else 1.0
    found = f"the last {len(scores)} parts, p = {p:.1g}"
    note = f"The scores of good parts have moved since calibration ({found}): calibrate again."
    return note if p < DRIFT_RATE else ""


def run_notes(scores: Sequence[float], given: float | None, calibration: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Say what to know about the alarm level of a run, from its image scores and the threshold that the user gave."""
    if calibration is None:
        guess = guess_alarm_level(scores)
        text = "" if guess is None else f" A guess from this run, if most parts are good: image_threshold {guess:.3f}."
        return () if given is not None else (SOURCE_NOTE + text,)
    good = calibration.get("scores", [])
    level = given if given is not None else calibration.get("image_threshold", 1.0)
    moved = drift_note(scores, good, level) if len(scores) >= FEWEST else ""
    return (moved,) if moved else ()


class DriftMonitor:
    """Watches image scores, in windows that do not overlap, so that each test counts once; ``level`` is for alarms."""

    def __init__(self, good: Sequence[float], level: float) -> None:
        self.good, self.level = list(good), level
        self._scores: list[float] = []

    def add(self, score: float) -> str:
        """Add the score of a part; say so if a window has just ended that no longer fits, else ``""``."""
        self._scores.append(score)
        if len(self._scores) < WINDOW:
            return ""
        note = drift_note(self._scores, self.good, self.level)
        self._scores.clear()
        return note


def guess_alarm_level(scores: Sequence[float]) -> float | None:
    """Guess an alarm level from the scores of a run, most of whose parts are good (ours)."""
    if len(scores) < FEWEST:
        return None
    odds = logit(np.clip(scores, 1e-6, 1 - 1e-6))
    # The spread below the median: anomalous parts stretch only the upper half.
    middle = np.median(odds)
    below = odds[odds <= middle] - middle
    spread = max(median_abs_deviation(np.concatenate([below, -below]), scale="normal"), _SMALLEST_SPREAD)
    return float(expit(middle + _SPREADS * spread))
