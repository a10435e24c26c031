# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Heat maps and outlines."""

import numpy as np
from PIL import Image

from anomalib_genclip.app.drawing import draw_regions, hatch, heat_map
from anomalib_genclip.records import Record

GREY = Image.new("RGB", (160, 80), (120, 120, 120))


def record_of(anomaly_map, size=(80, 160), threshold=0.5):
    return Record(size=size, pixel_threshold=threshold, anomaly_map=anomaly_map, mask=anomaly_map > threshold)


def spot():
    anomaly_map = np.zeros((20, 40), np.float32)
    anomaly_map[2:8, 4:16] = 0.9
    return anomaly_map


def test_image_shines_through_where_the_map_or_the_opacity_is_low():
    picture = np.asarray(heat_map(GREY, spot(), 1.0)).astype(int)
    assert (picture[60, 120] == 120).all()
    red, _, blue = picture[20, 40]
    assert red > 200
    assert blue < 100
    assert (np.asarray(heat_map(GREY, spot(), 0.0)) == 120).all()


def test_what_does_not_count_is_hatched():
    ignored = np.zeros((8, 16), bool)
    ignored[:, :8] = True
    hatched = np.asarray(hatch(GREY, ignored)) != 120
    assert 0.2 < hatched[:, :80].mean() < 0.5
    assert not hatched[:, 80:].any()


def test_maps_out_of_range_and_thin_images_are_drawn():
    thin = Image.new("RGB", (1, 900))
    record = record_of(np.full((8, 8), 1.0, np.float32), size=(9000, 10))
    assert draw_regions(heat_map(thin, record.anomaly_map * 1.5, 0.5), record).size == (1, 900)


def test_regions_are_outlined_in_black_and_white_and_the_image_stays():
    picture = np.asarray(draw_regions(GREY, record_of(spot()))).astype(int)
    changed = (picture != 120).any(axis=2)
    assert {0, 255} <= set(picture[changed].ravel())
    assert changed[14:26, 12:20].any(axis=1).all()  # the left edge
    assert not changed[20, 40]  # inside
    assert not changed[50:].any()
    assert (np.asarray(GREY) == 120).all()
    assert draw_regions(GREY, record_of(spot(), threshold=0.95)).tobytes() == GREY.tobytes()  # nothing is above it
