# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Tables on the page."""

from helpers.predictions import RECORD

from anomalib_genclip.app import tables
from anomalib_genclip.prediction.records import COLUMNS, REGION_COLUMNS


def test_tables_are_those_of_predict():
    assert tables.image_rows([RECORD]) == [["bolt.png", 0.5, "anomalous", 2, "bolt"]]
    assert tables.region_rows(RECORD) == [[1, 0.612, 1, 2, 3, 4, 5], [2, 0.5, 7, 8, 1, 1, 1]]
    scores = tables.scores_csv([RECORD]).decode().splitlines()
    assert scores == [",".join(COLUMNS), "bolt.png,bolt,kept,0.5,anomalous,0.3,0.45,1.0,2,"]
    regions = tables.regions_csv([RECORD]).decode().splitlines()
    assert regions[0] == ",".join(REGION_COLUMNS)
    assert regions[1] == "bolt.png,1,1,2,3,4,5,0.61234,1.5,2.5"
