# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The figure that explains a score; what it is made of is tested in ``test_inferencer.py``."""

import io
from dataclasses import replace

import numpy as np
import pytest
from helpers import data_trees
from PIL import Image

from anomalib_genclip import cli
from anomalib_genclip.evaluation.good_parts import SOURCE_NOTE
from anomalib_genclip.pipelines.explain import describe, draw_explanation, explain
from anomalib_genclip.records import Parts, Record

GRID = np.linspace(0, 1, 9, dtype=np.float32).reshape(3, 3)
PARTS = Parts(
    {"vision": GRID, "query": GRID[::-1].copy()},
    {},
    0.6,
    0.5,
    0.75,
    "bolt",
    "bolt",
    filtering=True,
    similarity=0.25,
    generic_similarity=0.2,
)
DOUBTFUL = (
    (0, 0, "PNG", "an empty mask"),
    (255, 255, "PNG", "a mask of more than 95%"),
    (0, 255, "JPEG", "a JPEG mask"),
)
RECORD = Record(score=0.52, anomalous=True, image_threshold=0.5, anomaly_map=np.full((9, 9), 0.5), parts=PARTS)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, 'Class Name Filtering kept "bolt" (cosine 0.250, object 0.200)'),
        ({"used_name": "object"}, 'Class Name Filtering replaced "bolt" by "object"'),
        ({"class_name": "object", "used_name": "object"}, "no class name was given"),
        ({"filtering": False}, 'class name "bolt", Class Name Filtering is off'),
    ],
)
def test_caption_says_score_label_and_what_class_name_filtering_did(changes, said):
    score, name = describe(replace(RECORD, parts=replace(PARTS, **changes))).splitlines()
    assert score == "image score 0.520: anomalous (threshold 0.500)"
    assert name.startswith(said)


def test_figure_has_a_panel_more_with_a_mask_and_two_less_with_one_branch():
    image, one = np.zeros((5, 7, 3), np.uint8), replace(RECORD, parts=replace(PARTS, maps={"query": GRID}))
    drawings = [
        draw_explanation(RECORD, image, "cost: $5"),
        draw_explanation(RECORD, image, "", np.zeros((4, 4))),
        draw_explanation(one, image, ""),
    ]
    assert [Image.open(io.BytesIO(drawing)).width for drawing in drawings] == [1240, 1550, 620]


def test_command(tmp_path, capsys, caplog, monkeypatch):
    image, mask, out = tmp_path / "image.png", tmp_path / "mask.png", tmp_path / "new" / "why.png"
    data_trees.write_anomalous(image, mask)
    command = ["--weights", "tiny-demo", "--image", str(image), "--mask", str(mask), "--out", str(out)]
    assert cli.main(["explain", *command, "--class_name", "metal_nut"]) == 0
    assert Image.open(out).width == 1550
    said = capsys.readouterr().out
    assert '"metal nut"' in said
    assert said.endswith(f"\n{SOURCE_NOTE}\n{out}\n")
    for shade, edge, kind, fault in DOUBTFUL:
        caplog.clear()
        drawn = Image.new("L", (data_trees.SIZE, data_trees.SIZE), shade)
        drawn.paste(edge, (0, 0, data_trees.SIZE, 8))
        drawn.save(mask, format=kind)
        assert cli.main(["explain", *command]) == 0
        (message,) = caplog.messages
        assert message.startswith(f"1 image with {fault}")
    Image.new("L", (30, 20)).save(mask)
    assert cli.main(["explain", *command]) == 2
    assert "mask.png (30 x 20 pixels) does not have the shape of its image" in capsys.readouterr().err
    monkeypatch.setattr("anomalib_genclip.inferencer.Inferencer._open_export", lambda *_: {})
    monkeypatch.setattr("anomalib_genclip.inferencer.Inferencer.transform", lambda _, image: image, raising=False)
    (tmp_path / "model.onnx").touch()
    with pytest.raises(ValueError, match=r"model\.onnx is an exported model"):
        explain(str(tmp_path / "model.onnx"), str(image))
