# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Rows and tables."""

import numpy as np

from anomalib_genclip.prediction.output import COLUMNS, REGION_COLUMNS, region_rows, score_row
from anomalib_genclip.records import Record


def test_rows_are_plain_data_of_the_named_columns():
    anomaly_map = np.full((2, 2), 0.25, np.float32)
    record = Record("a\udcff.png", (2, 2), score=1 / 3, anomalous=True, anomaly_map=anomaly_map, mask=anomaly_map > 0.1)
    row = score_row(record)
    assert list(row) == list(COLUMNS)
    assert (row["path"], row["score"], row["label"], row["regions"]) == (r"a\xff.png", 0.333333, "anomalous", 1)
    assert (row["anomalous_share"], row["class_name"], row["error"]) == (1.0, None, None)
    (region,) = region_rows(record)
    assert region == dict(zip(REGION_COLUMNS, [r"a\xff.png", 1, 0, 0, 2, 2, 4, 0.25, 0.5, 0.5], strict=True))
    failed = score_row(Record("b.png", error="b\udcff.png cannot be read"))
    assert {name: value for name, value in failed.items() if value is not None} == {
        "path": "b.png",
        "error": r"b\xff.png cannot be read",
    }
