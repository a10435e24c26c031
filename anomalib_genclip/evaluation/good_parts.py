# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""What the scores of the good parts that a model was calibrated with say of later ones."""

from bisect import bisect_left
from collections import deque
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
    """Compute the share of good parts that look as anomalous as this one.

    Returns:
        float: ``(1 + number of scores at least as high) / (n + 1)``, the p-value of split conformal prediction.
    """
    return (1 + len(good) - bisect_left(good, score)) / (len(good) + 1)


def drift_note(scores: Sequence[float], good: Sequence[float], level: float) -> str:
    """Say that scores below the alarm level no longer come from where those of the calibration came from, else ``""``.

    Args:
        scores (Sequence[float]): Image scores of the last parts.
        good (Sequence[float]): Those of the good parts of the calibration.
        level (float): Alarm level.
    """
    samples = [np.asarray(some)[np.asarray(some) <= level] for some in (scores, good)]
    p = ks_2samp(*samples).pvalue if all(map(len, samples)) else 1.0
    if p >= DRIFT_RATE:
        return ""
    found = f"the last {len(scores)} parts, p = {p:.1g}"
    return f"The scores of good parts have moved since calibration ({found}): calibrate again."


def run_notes(scores: Sequence[float], given: float | None, calibration: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Say what to know about the alarm level of a run, one line each.

    Args:
        scores (Sequence[float]): Image scores of the run.
        given (float | None): Image threshold that the user gave.
        calibration (Mapping[str, Any] | None): What the weights were calibrated on.
    """
    if calibration is None:
        guess = guess_alarm_level(scores)
        text = "" if guess is None else f" A guess from this run, if most parts are good: image_threshold {guess:.3f}."
        return () if given is not None else (SOURCE_NOTE + text,)
    good = calibration.get("scores", [])
    level = given if given is not None else calibration.get("image_threshold", 1.0)
    moved = drift_note(scores, good, level) if len(scores) >= FEWEST else ""
    return (moved,) if moved else ()


class DriftMonitor:
    """Watches the scores of parts, in windows that do not overlap, so that each test counts once.

    Args:
        good (Sequence[float]): Image scores of the good parts of the calibration.
        level (float): Alarm level.
        window (int): Parts of a window. Defaults to ``WINDOW``.
    """

    def __init__(self, good: Sequence[float], level: float, window: int = WINDOW) -> None:
        self.good, self.level, self.window = list(good), level, window
        self._scores: deque[float] = deque(maxlen=window)

    def add(self, score: float) -> str:
        """Add the score of a part; say so if a window has just ended that no longer fits, else ``""``."""
        self._scores.append(score)
        if len(self._scores) < self.window:
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
