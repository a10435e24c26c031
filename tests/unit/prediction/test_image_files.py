# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The files that are written for an image."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.predictions import settings_for
from PIL import Image

from anomalib_genclip.prediction.image_files import file_name, result_files
from anomalib_genclip.records import Record


@pytest.fixture
def record(tmp_path):
    Image.new("RGB", (40, 20), "grey").save(tmp_path / "a.png")
    anomaly_map = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    found = {"score": 0.9, "anomalous": True, "anomaly_map": anomaly_map, "mask": anomaly_map > 0.5}
    return Record(str(tmp_path / "a.png"), (20, 40), **found)


def files(record, root, **options):
    written = dict(result_files(record, "parts/a.png", settings_for(root, **options)))
    assert written == dict(result_files(record, "parts/a.png", settings_for(root, **options)))  # the same bytes
    for name, content in written.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return [*written]


def test_nothing_is_written_unless_asked_for(record, tmp_path):
    assert files(record, tmp_path) == []
    assert files(Record("a.png", error="broken"), tmp_path, pictures="all", maps="npy") == []


@pytest.mark.parametrize("original_size", [False, True])
def test_maps_hold_the_values(record, tmp_path, original_size):
    assert files(record, tmp_path, maps="npy", original_size=original_size) == ["maps/parts/a.png.npy"]
    values = np.load(tmp_path / "maps/parts/a.png.npy")
    files(record, tmp_path, maps="png16", original_size=original_size)
    deep = np.asarray(Image.open(tmp_path / "maps/parts/a.png.png"))
    assert values.dtype == np.float32
    assert deep.dtype == np.uint16
    assert values.shape == deep.shape == ((20, 40) if original_size else (8, 8))
    np.testing.assert_allclose(values, deep / 65535, atol=1 / 65535)
    assert (values[0, 0], values[-1, -1]) == (0, 1)


def test_pictures_show_image_map_and_mask(record, tmp_path):
    assert files(record, tmp_path, pictures="anomalous") == ["pictures/parts/a.png.png"]
    with Image.open(tmp_path / "pictures/parts/a.png.png") as picture:
        assert picture.size == (3 * 256, 256)
        white = np.asarray(picture.convert("L").crop((2 * 256, 0, 3 * 256, 40))) > 250
    assert white.any()
    assert not white[:, -5:].any()  # the caption ends before its panel does
    files(record, tmp_path, pictures="all", original_size=True)
    with Image.open(tmp_path / "pictures/parts/a.png.png") as picture:
        assert picture.size == (3 * 40, 20)
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert np.abs(pixels[10:, 40:80] - pixels[10:, :40]).max() > 50  # the map lies over the second panel


def test_normal_images_get_a_picture_only_if_all_do(record, tmp_path):
    normal = replace(record, anomalous=False)
    assert files(normal, tmp_path, pictures="anomalous") == []
    assert files(normal, tmp_path, pictures="all") == ["pictures/parts/a.png.png"]


def test_names_stay_apart_and_fit_the_file_system():
    assert file_name("x/a.png", ".npy") != file_name("x/a.jpg", ".npy")
    long = [file_name(f"x/{'n' * 250}{ending}", ".npy") for ending in (".jpg", ".png")]
    assert long[0] != long[1]
    assert all(name.startswith("x/") and len(name) < 100 for name in long)
