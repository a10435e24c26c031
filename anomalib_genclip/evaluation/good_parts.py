# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""What the scores of the good parts that a model was calibrated with say of later ones."""

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence

import numpy as np
from scipy.special import expit, logit
from scipy.stats import ks_2samp, median_abs_deviation

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


def drift_p_value(scores: Sequence[float], good: Sequence[float], level: float) -> float:
    """Test whether scores below the alarm level still come from where those of the calibration came from."""
    samples = [[score for score in some if score <= level] for some in (scores, good)]
    return float(ks_2samp(*samples).pvalue) if all(samples) else 1.0


class DriftMonitor:
    """Watches the scores of parts, in windows that do not overlap, so that each test counts once.

    Args:
        good (Sequence[float]): Image scores of the good parts of the calibration.
        level (float): Alarm level.
        window (int): Parts of a window. Defaults to ``WINDOW``.
    """

    def __init__(self, good: Sequence[float], level: float, window: int = WINDOW) -> None:
        self.good, self.level, self.window = list(good), level, window
        self.last_p_value: float | None = None
        self._scores: deque[float] = deque(maxlen=window)

    def add(self, score: float) -> bool:
        """Add the score of a part; return whether a window has just ended that no longer fits."""
        self._scores.append(score)
        if len(self._scores) < self.window:
            return False
        self.last_p_value = drift_p_value(self._scores, self.good, self.level)
        self._scores.clear()
        return self.last_p_value < DRIFT_RATE


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
