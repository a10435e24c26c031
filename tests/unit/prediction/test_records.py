# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Rows and regions."""

import numpy as np
import pytest

from anomalib_genclip.prediction.records import COLUMNS, REGION_COLUMNS, Record, find_regions


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


def test_rows_are_plain_data_of_the_named_columns():
    anomaly_map = np.full((2, 2), 0.25, np.float32)
    regions = find_regions(anomaly_map > 0.1, anomaly_map, (2, 2))
    record = Record(
        "a\udcff.png", "a", size=(2, 2), score=1 / 3, anomalous=True, mask=anomaly_map > 0.1, regions=regions
    )
    row = record.as_row()
    assert list(row) == list(COLUMNS)
    assert (row["path"], row["score"], row["label"], row["regions"]) == (r"a\xff.png", 0.333333, "anomalous", 1)
    assert (row["anomalous_share"], row["class_name"], row["error"]) == (1.0, None, None)
    assert [["", *region] for region in record.region_rows()] == [["", 1, 0, 0, 2, 2, 4, 0.25, 0.5, 0.5]]
    assert len(REGION_COLUMNS) == 10
    failed = Record("b.png", "b", "b.png cannot be read").as_row()
    assert {name: value for name, value in failed.items() if value is not None} == {
        "path": "b.png",
        "error": "b.png cannot be read",
    }
