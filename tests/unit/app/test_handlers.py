# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Values that the page shows after each event, with a model that costs nothing."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from anomalib_genclip.app import handlers
from anomalib_genclip.app.handlers import Handlers
from anomalib_genclip.app.scoring import ScoredImage
from anomalib_genclip.records import Parts, Record

SLIDERS = (0.5, 0.5, 0.8)
GRID = np.full((4, 4), 0.2, np.float32)
PARTS = Parts(
    maps={"vision": GRID},
    layers={"vision": {2: GRID, 4: GRID}},
    top=0.4,
    cls=0.6,
    score_weight=0.75,
    class_name="bolt",
    used_name="object",
    filtering=True,
    similarity=0.2,
    generic_similarity=0.3,
)


def scored(path="bolt.png", spots=1, **parts):
    anomaly_map = np.zeros((8, 8), np.float32)
    anomaly_map[0, : 2 * spots : 2] = 0.75
    record = Record(path, (80, 80), class_name="object", class_name_filter="replaced", score=0.6)
    record = replace(record, image_threshold=0.5, anomaly_map=anomaly_map, parts=replace(PARTS, **parts))
    return ScoredImage(record, Image.new("RGB", (80, 80)))


def scorer_of(products=(), calibration=None):
    thresholds = {"image_threshold": 0.4581, "pixel_threshold": 0.5192, "calibration": calibration}
    score = lambda paths, *_: ([scored(path) for path in paths], [])  # noqa: E731
    note = "" if calibration else "That of the source."
    return SimpleNamespace(thresholds=thresholds, alarm_level_note=note, products=list(products), score=score)


@pytest.fixture(autouse=True)
def saved(monkeypatch):
    files = {}
    monkeypatch.setattr(handlers, "save_bytes_to_cache", lambda content, name, _: files.update({name: content}) or name)
    return files


@pytest.mark.parametrize(
    ("products", "shown", "class_name"),
    [([], ["cable", "metal nut"], "object"), (["metal nut"], ["metal nut"], "metal nut"), (["bolt"], [], "bolt"),
     ([""], [], "object")],
)  # fmt: skip
def test_examples_are_those_that_the_weights_are_for(products, shown, class_name):
    does = Handlers(scorer_of(products), [("1.png", "cable"), ("2.png", "metal nut")])
    assert [name for _, name in does.examples] == shown
    assert does.class_name == class_name
    images = does.open(*SLIDERS)[0]
    assert len(images) == bool(shown)


def test_class_name_of_an_example_is_not_kept_for_other_images():
    does = Handlers(scorer_of(), [("1.png", "cable"), ("2.png", "metal nut")])
    chosen = does.choose_example(SimpleNamespace(index=1))
    assert chosen == (["2.png"], "metal nut", "metal nut")
    assert does.replace_class_name(*chosen[1:]) == ("object", "")
    assert does.replace_class_name("typed", "metal nut") == ("typed", "")
    assert does.replace_class_name("metal nut", "") == ("metal nut", "")


def test_alarm_level_says_where_it_comes_from():
    source = Handlers(scorer_of(), []).reset_thresholds([])
    assert source[:2] == (0.458, 0.519)
    assert source[2] == "⚠ That of the source."
    note = {"class_name": "bolt", "false_alarm_rate": 0.05, "normal_images": 99}
    does = Handlers(scorer_of(calibration=note), [])
    assert "calibrated for `bolt`, with a rate of false alarms of 0.05; number of" in does.reset_thresholds([])[2]
    own = does.reset_thresholds(["good.png"])
    assert own[:2] == (0.5, 0.5)
    assert "not that of your product" in own[2]


@pytest.mark.parametrize(("spots", "words"), [(0, "no regions"), (1, "1 region above"), (2, "2 regions")])
def test_label_score_and_regions_follow_the_thresholds(spots, words):
    label, summary, picture, *_ = handlers.view([scored(spots=spots)], 0, *SLIDERS)
    assert (label.value, label.label) == ({"label": "anomalous", "confidences": None}, "bolt.png")
    assert summary.startswith("Image score **0.600**, threshold 0.500; ")
    assert words in summary
    assert picture == "bolt_anomaly_map.jpg"
    label, summary, *_ = handlers.view([scored(spots=spots)], 0, 0.7, 0.9, 0.8)
    assert label.value["label"] == "normal"
    assert "no regions above 0.900" in summary
    likely = scored()._replace(record=replace(scored().record, p_value=0.25))
    assert "share of good parts with such a score: 0.250" in handlers.view([likely], 0, *SLIDERS)[1]


def test_what_is_painted_is_a_mask_of_the_images_size(saved, tmp_path):
    assert handlers.canvas([], 0) == (None, (0, 0))
    image = scored()._replace(picture=Image.new("RGB", (60, 40)))
    image = image._replace(record=replace(image.record, size=(400, 600)))
    value, size = handlers.canvas([image], 0)
    assert (value["background"], value["layers"], size) == (image.picture, [], (600, 400))
    layer = Image.new("RGBA", (60, 40))
    assert handlers.paint(None, size) is handlers.paint({**value, "layers": [layer]}, size) is None
    layer.paste("white", (30, 0, 60, 40))
    (name,) = handlers.paint({**value, "layers": [layer]}, size)
    (tmp_path / name).write_bytes(saved[name])
    with Image.open(tmp_path / name) as mask:
        ignored = np.asarray(mask)
    assert (ignored == (np.indices((400, 600))[1] >= 300)).all()
    image = image._replace(record=replace(image.record, ignored=ignored))
    (layer,) = handlers.canvas([image], 0)[0]["layers"]  # is painted where it was
    assert (np.asarray(layer)[..., 3] == 255 * (np.indices((40, 60))[1] >= 30)).all()


def test_tables_are_saved_with_the_columns_of_predict(saved, tmp_path):
    images = [scored(spots=2), scored("nut.png")]
    *_, scores, regions, saved_scores, saved_regions = handlers.view(images, 1, *SLIDERS)
    assert scores.to_numpy().tolist() == [
        ["bolt.png", 0.6, "anomalous", 2, "object"],
        ["nut.png", 0.6, "anomalous", 1, "object"],
    ]
    assert regions[["path", "region", "score", "width"]].to_numpy().tolist() == [
        ["bolt.png", 1, 0.75, 10],
        ["bolt.png", 2, 0.75, 10],
        ["nut.png", 1, 0.75, 10],
    ]
    for name, columns in ((saved_scores, "path,class_name,class_name_filter,"), (saved_regions, "path,region,x,y,")):
        assert saved[name].decode().startswith(columns)
        (tmp_path / name).write_bytes(saved[name])
        assert list(pd.read_csv(tmp_path / name).path)[-1] == "nut.png"


def test_explanation_has_parts_and_maps():
    class_name, parts, maps = handlers.explain([scored()])
    assert class_name == 'Class Name Filtering replaced "bolt" by "object" (cosine 0.200, object 0.300)'
    assert parts.value.tolist() == [0.4, 0.6, 0.6]
    assert [float(weight) for weight in parts.weight[:2]] == [0.25, 0.75]
    assert [caption for _, caption in maps] == [
        "vision-enhanced branch, 0.20 to 0.20",
        "anomaly map, 0.00 to 0.75",
        "layer 2, vision-enhanced branch, 0.20 to 0.20",
        "layer 4, vision-enhanced branch, 0.20 to 0.20",
    ]
    _, parts, maps = handlers.explain([scored(distance=GRID, cls_distance=1.5)])
    assert 1.5 in parts.value.tolist()
    assert maps[1][1].startswith("distance to the references")


def test_too_many_images_are_a_message(monkeypatch):
    for name in ("MAX_IMAGES", "MAX_REFERENCES"):
        monkeypatch.setattr(handlers, name, 2)
    images, _, problems, strip, *_ = Handlers(scorer_of(), []).score(["1.png"] * 3, " ", ["2.png"] * 3, None, *SLIDERS)
    assert len(images) == 2
    assert strip.visible
    assert problems.value.splitlines() == [
        "Only the first 2 of 3 images are scored. Use `genclip predict`.",
        "Only the first 2 of 3 good parts are used.",
    ]
    label, *others = handlers.view([], 0, *SLIDERS)
    assert label.value["label"] == "Drop an image"
    assert [len(table) for table in others[2:4]] == [0, 0]
