# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Regions of a record."""

import numpy as np
import pytest

from anomalib_genclip.records import find_regions


def test_regions_are_given_in_pixels_of_the_image_the_highest_score_first():
    anomaly_map = np.zeros((10, 20), np.float32)
    anomaly_map[1:3, 2:6] = 0.6
    anomaly_map[6, 10] = 0.9
    anomaly_map[7, 11] = 0.8  # touches at a corner
    mask = anomaly_map > 0.5
    high, low = find_regions(mask, anomaly_map, (10, 20))
    assert high == (10, 6, 2, 2, 2, pytest.approx(0.9), 10.5, 6.5)
    assert low == (2, 1, 4, 2, 8, pytest.approx(0.6), 3.5, 1.5)
    (scaled, _) = find_regions(mask, anomaly_map, (25, 60))  # 2.5 and 3 times larger
    assert scaled[:5] == (30, 15, 6, 5, 15)
    assert scaled[6:] == (pytest.approx(11 * 3 - 0.5), pytest.approx(7 * 2.5 - 0.5))
    assert find_regions(np.zeros((3, 3), bool), np.ones((3, 3), np.float32), (3, 3)) == []


def test_boxes_stay_in_the_image():
    mask = np.ones((7, 7), bool)
    (region,) = find_regions(mask, mask.astype(np.float32), (1000, 333))
    assert region[:5] == (0, 0, 333, 1000, 333_000)
