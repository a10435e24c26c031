# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Rates that are promised: p-values, drift, and the guess of an alarm level."""

import numpy as np
import pytest
from scipy.special import expit

from anomalib_genclip.evaluation.good_parts import (
    DRIFT_RATE,
    SOURCE_NOTE,
    DriftMonitor,
    guess_alarm_level,
    p_value,
    run_notes,
)


def test_p_value_is_the_share_of_good_parts_that_look_like_this():
    good = [0.1, 0.2, 0.2, 0.3]
    assert p_value(0.05, good) == 1
    assert p_value(0.2, good) == pytest.approx(4 / 5)
    assert p_value(0.25, good) == pytest.approx(2 / 5)
    assert p_value(0.9, good) == pytest.approx(1 / 5)


def simulate(shift: float, anomalous: float, seed: int) -> float:
    rng, found = np.random.default_rng(seed), []
    for _ in range(300):
        good = np.sort(expit(rng.normal(-2, 0.5, 200)))
        level = float(good[190])
        parts = np.where(rng.random(100) < anomalous, rng.normal(2, 1, 100), rng.normal(-2 + shift, 0.5, 100))
        monitor = DriftMonitor(good.tolist(), level)
        found.append([bool(monitor.add(score)) for score in expit(parts)][-1])
    return float(np.mean(found))


def test_drift_is_seldom_told_without_one_and_noticed_within_a_window():
    assert simulate(0, 0, seed=0) <= DRIFT_RATE + 3 * np.sqrt(DRIFT_RATE / 300)
    assert simulate(0, 0.2, seed=1) <= DRIFT_RATE + 3 * np.sqrt(DRIFT_RATE / 300)
    assert simulate(0.5, 0.05, seed=2) > 0.95
    assert simulate(-0.5, 0.05, seed=3) > 0.95


@pytest.mark.parametrize("anomalous", [0, 0.1, 1 / 3])
def test_guess_lets_most_good_parts_pass_whatever_share_is_anomalous(anomalous):
    rng, passed, found = np.random.default_rng(4), [], []
    for _ in range(100):
        good = rng.normal(1, 0.4, 200)
        bad = rng.normal(5, 1, round(200 * anomalous / (1 - anomalous)))
        level = guess_alarm_level(expit(np.concatenate([good, bad])))
        passed.append(np.mean(expit(good) <= level))
        found.append(np.mean(expit(bad) > level) if len(bad) else 1)
    assert np.mean(passed) > 0.97
    assert np.mean(found) > 0.9
    assert guess_alarm_level([0.5] * 19) is None
    assert run_notes([0.5] * 19, None, None) == (SOURCE_NOTE,)
    assert 0.5 < guess_alarm_level([0.5] * 20) < 0.6


def test_a_run_says_what_to_know_about_its_alarm_level():
    rng = np.random.default_rng(5)
    good = np.sort(expit(rng.normal(-2, 0.5, 200))).tolist()
    calibration = {"scores": good, "image_threshold": good[190]}
    same, moved = (expit(rng.normal(mean, 0.5, 100)).tolist() for mean in (-2, -1.4))
    assert run_notes(same, None, calibration) == ()
    assert "have moved since calibration" in run_notes(moved, None, calibration)[0]
    assert run_notes(moved[:19], None, calibration) == ()
    assert "image_threshold 0." in run_notes(same, None, None)[0]
    assert run_notes(same, 0.5, None) == ()
