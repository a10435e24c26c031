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
DRIFT_RATE = 0.01  # of windows that are told to have drifted although good parts have not changed
WINDOW = 100  # parts
FEWEST = 20  # parts from which an alarm level is guessed
_SPREADS = 3.0  # standard deviations above the median: 1 of 740 good parts if the logits were normal
_SMALLEST_SPREAD = 0.05  # of logits: many equal scores have none


def p_value(score: float, good: Sequence[float]) -> float:
    """Compute the p-value of split conformal prediction: ``(1 + number of scores at least as high) / (n + 1)``."""
    return (1 + len(good) - bisect_left(good, score)) / (len(good) + 1)


def drift_note(run: Mapping[str, Sequence[float]], calibration: Mapping[str, Any], tests: int = 1) -> str:
    """Say that ``scores`` or ``gray_values`` of good parts have moved since calibration, else ``""`` (ours).

    Up to a third of a run may be anomalous. Whichever it is, the run without its highest third is no higher than good
    parts, and without its lowest third no lower; as anomalous scores are not lower, all scores are no lower.
    """
    known = [name for name in run if calibration.get(name)]
    for name in known:  # one-sided p-values as halves, because scipy's own fail for long runs
        values, good, third = sorted(run[name]), calibration[name], len(run[name]) // 3
        moves = (-1, values[: len(values) - third]), (1, values[0 if name == "scores" else third :])
        found = [ks.pvalue / 2 for sign, own in moves if (ks := ks_2samp(own, good)).statistic_sign == sign]
        if (p := min(found, default=1.0)) < DRIFT_RATE / len(known) / tests:  # the two exclude each other
            what, where = name.replace("_", " "), f"the last {len(values)} parts, p = {p:.1g}"
            return f"The {what} of good parts have moved since calibration ({where}): calibrate again."
    return ""


def run_notes(scores: Sequence[float], given: float | None, calibration: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Say what to know about the alarm level of a run, from its image scores and the threshold that the user gave."""
    if calibration is None:
        guess = guess_alarm_level(scores)
        text = "" if guess is None else f" A guess from this run, if most parts are good: image_threshold {guess:.3f}."
        return () if given is not None else (SOURCE_NOTE + text,)
    return tuple(filter(None, [drift_note({"scores": scores}, calibration)])) if len(scores) >= FEWEST else ()


class DriftMonitor:
    """Watches scores and gray values of the last parts, and says once that they no longer fit.

    It looks twice per window of parts, so that half of the rate is left for each.
    """

    def __init__(self, calibration: Mapping[str, Any]) -> None:
        self.calibration = calibration
        self._parts: deque[tuple[float, float]] = deque(maxlen=WINDOW)
        self._added, self._told = 0, ""

    def add(self, score: float, gray_value: float) -> str:
        """Add a part; say so if the last ones have just stopped to fit, else ``""``."""
        self._parts.append((score, gray_value))
        self._added += 1
        if self._added < WINDOW or self._added % (WINDOW // 2):
            return ""
        scores, gray_values = zip(*self._parts, strict=True)
        run, before = {"scores": scores, "gray_values": gray_values}, self._told
        self._told = drift_note(run, self.calibration, 2)
        return "" if before else self._told


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
