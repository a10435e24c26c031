# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Images and masks of every kind: the right result, or one error that names the file and the way out."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import data_trees
from helpers.runs import build, engine
from PIL import Image

from anomalib_genclip import GenCLIP


@pytest.fixture(scope="module")
def model() -> GenCLIP:
    torch.manual_seed(0)
    return build()


@pytest.fixture(scope="module")
def drawing() -> GenCLIP:
    return build(visualizer=True)


@pytest.fixture
def picture() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40), dtype=np.uint8)
    return Image.fromarray(pixels).convert("RGB")


def test_every_format_gives_the_score_of_its_pixels(model, picture, tmp_path):
    rotated = Image.Exif()
    rotated[0x0112] = 6
    pictures = {
        "rgb.png": picture,
        "grey.png": picture.convert("L"),
        "alpha.png": picture.convert("RGBA"),
        "grey_alpha.png": picture.convert("LA"),
        "palette.png": picture.convert("L").convert("P"),
        "cmyk.tif": picture.convert("CMYK"),
        "bitmap.bmp": picture,
        "lossless.webp": picture,
        "UPPER.PNG": picture,
    }
    for name, image in pictures.items():
        image.save(tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
    # anomalib reads the pixels as they are stored: map and picture lie on those.
    picture.save(tmp_path / "exif.png", exif=rotated)
    batches = engine(tmp_path / "results").predict(model, data_path=tmp_path)
    scores = {Path(batch.image_path[0]).name: float(batch.pred_score) for batch in batches}
    assert scores.keys() == pictures.keys() | {"exif.png"}
    assert scores == pytest.approx(dict.fromkeys(scores, scores["rgb.png"]), abs=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (20_000, 50), (50, 20_000)])
def test_every_shape_gets_a_score_and_a_picture(drawing, tmp_path, size):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(
        tmp_path / "a.png"
    )
    run = engine(tmp_path / "results")
    (batch,) = run.predict(drawing, data_path=tmp_path / "a.png")
    assert batch.anomaly_map.shape[-2:] == (64, 64)
    assert 0 <= float(batch.pred_score) <= 1
    assert len(list(Path(run.trainer.default_root_dir).rglob("a.png"))) == 1


def test_the_longest_name_gets_a_picture(drawing, tmp_path):
    data_trees.write_normal(tmp_path / "images" / ("x" * 251 + ".png"))
    run = engine(tmp_path / "results")
    run.predict(drawing, data_path=tmp_path / "images")
    assert len(list(Path(run.trainer.default_root_dir).rglob("xxx*.png"))) == 1
