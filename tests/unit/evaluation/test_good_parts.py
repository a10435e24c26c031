# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Rates that are promised: p-values, drift, and the guess of an alarm level."""

import logging

import numpy as np
import pytest
from PIL import Image
from scipy.special import expit

from anomalib_genclip import Inferencer
from anomalib_genclip.demo.synthetic import render
from anomalib_genclip.evaluation.good_parts import (
    DRIFT_RATE,
    SOURCE_NOTE,
    DriftMonitor,
    guess_alarm_level,
    p_value,
    run_notes,
)
from anomalib_genclip.pipelines.calibration import calibrate


def test_p_value_is_the_share_of_good_parts_that_look_like_this():
    good = [0.1, 0.2, 0.2, 0.3]
    assert p_value(0.05, good) == 1
    assert p_value(0.2, good) == pytest.approx(4 / 5)
    assert p_value(0.25, good) == pytest.approx(2 / 5)
    assert p_value(0.9, good) == pytest.approx(1 / 5)


def noticed(runs: int, n: int, anomalous: int, of_anomalous: tuple[float, float], moved: tuple[float, float]) -> float:
    """Simulate runs, the good parts of which move, and return the share noticed within 100 parts.

    Shifts of score and gray value of anomalous and good parts are in standard deviations.
    """
    rng, found = np.random.default_rng(n + anomalous), []
    for _ in range(runs):
        calibration = {name: np.sort(rng.normal(size=n)).tolist() for name in ("scores", "gray_values")}
        place = np.arange(200 + rng.integers(50))[:, None]
        shift = np.where(place < len(place) - 100, (0, 0), moved)
        parts = rng.normal(size=(len(place), 2)) + np.where(place % 100 < anomalous, of_anomalous, shift)
        monitor = DriftMonitor(calibration)
        found.append(any([bool(monitor.add(*part)) for part in parts.tolist()][-100:]))
    return float(np.mean(found))


@pytest.mark.parametrize(
    ("n", "anomalous", "of_anomalous"),
    [(20, 0, (0, 0)), (20, 33, (9, 9)), (200, 33, (9, -9)), (200, 33, (1.5, 0))],  # half of the last are missed
)
def test_drift_is_seldom_told_without_one_whatever_third_is_anomalous(n, anomalous, of_anomalous):
    assert noticed(150, n, anomalous, of_anomalous, (0, 0)) <= DRIFT_RATE + 3 * np.sqrt(DRIFT_RATE / 150)


@pytest.mark.parametrize("moved", [(3, 0), (-2, 0), (0, 3), (0, -3)])
def test_drift_is_noticed_within_100_parts_above_the_alarm_level_too(moved):
    assert noticed(20, 200, 5, (9, 0), moved) > 0.9


def test_drift_is_told_once_until_it_has_passed():
    monitor = DriftMonitor({"scores": np.linspace(0.1, 0.2, 50).tolist()})
    rng = np.random.default_rng(0)
    ranges = [(0.1, 0.2), (0.4, 0.5), (0.1, 0.2), (0.4, 0.5)]
    notes = [[monitor.add(score, 0.5) for score in rng.uniform(*some, 300)] for some in ranges]
    assert [sum(map(bool, some)) for some in notes] == [0, 1, 0, 1]


@pytest.mark.usefixtures("one_thread")
def test_a_change_of_light_is_noticed_within_a_window(tmp_path, caplog):
    rng = np.random.default_rng(0)
    parts = [render("tile", None, 112, rng)[0] for _ in range(80)]
    for number, part in enumerate(parts[:30]):
        Image.fromarray(part).save(tmp_path / f"{number}.png")
    inferencer = Inferencer("tiny-demo", "tile", "cpu", "float32")
    calibrate(inferencer, tmp_path, 0.05)
    others = np.concatenate([parts[30:], np.flip(parts[30:], axis=2)])
    with caplog.at_level(logging.WARNING):
        inferencer.predict([*others])
        assert "have moved" not in caplog.text
        inferencer.predict([*(others * 0.7).astype(np.uint8)])
    assert "The gray values of good parts have moved since calibration (the last 100 parts" in caplog.text


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


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_run_says_what_to_know_about_its_alarm_level():
    rng = np.random.default_rng(5)
    good = np.sort(expit(rng.normal(-2, 0.5, 200))).tolist()
    calibration = {"scores": good, "image_threshold": good[190]}
    same, moved = (expit(rng.normal(mean, 0.5, 100)).tolist() for mean in (-2, -1))
    assert run_notes(same, None, calibration) == ()
    assert "have moved since calibration" in run_notes(moved, None, calibration)[0]
    assert "have moved since calibration" in run_notes(moved * 50, None, calibration)[0]  # without a warning of scipy
    assert run_notes(moved[:19], None, calibration) == ()
    assert "image_threshold 0." in run_notes(same, None, None)[0]
    assert run_notes(same, 0.5, None) == ()
