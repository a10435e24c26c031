# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""What the page says."""

import re
from dataclasses import replace

import pytest
import torch
from helpers.predictions import RECORD

from anomalib_genclip.app import texts
from anomalib_genclip.pipelines.explain import Decision

DECISION = Decision(
    image=torch.empty(0),
    maps={},
    layers={},
    top=0.4,
    cls=0.6,
    anomaly_map=torch.zeros(4, 4),
    score=0.55,
    threshold=0.3,
    class_name="bolt",
    used_name="bolt",
    similarity=0.31,
    generic_similarity=0.25,
)


def plain(html):
    """Return a page's text."""
    return " ".join(re.sub(r"<[^>]*>|&\w+;|&#\d+;", " ", html).split())


@pytest.mark.parametrize(("anomalous", "label"), [(True, "anomalous"), (False, "normal")])
def test_verdict_compares_the_score_with_the_threshold(anomalous, label):
    html = texts.verdict(replace(RECORD, anomalous=anomalous))
    assert plain(html).startswith(f"{label} bolt.png Image score 0.500 , threshold 0.300 2 regions")
    assert "left: 30.0%" in html
    assert "1 region above" in plain(texts.verdict(replace(RECORD, regions=RECORD.regions[:1])))
    assert "no region above" in plain(texts.verdict(replace(RECORD, regions=[])))


def test_names_of_users_are_text_not_html():
    evil = "<img src=x onerror=alert(1)>"
    pages = [
        texts.verdict(replace(RECORD, name=evil)),
        texts.problems([f"{evil} cannot be used"]),
        texts.class_name(DECISION._replace(class_name=evil, used_name=evil), filtering=True),
        texts.class_name(DECISION._replace(class_name=evil, used_name="object"), filtering=True),
        texts.header(evil, "ViT"),
    ]
    assert not [page for page in pages if "<img" in page]
    assert texts.problems([]) == ""


def test_filtering_is_explained_with_its_margin():
    kept = plain(texts.class_name(DECISION, filtering=True))
    assert "kept bolt" in kept
    assert kept.endswith("margin +0.060).")
    replaced = DECISION._replace(used_name="object", similarity=0.2)
    assert "replaced bolt by object" in plain(texts.class_name(replaced, filtering=True))
    assert "margin -0.050" in texts.class_name(replaced, filtering=True)
    assert "is off" in texts.class_name(DECISION, filtering=False)
    nothing = DECISION._replace(class_name="object", used_name="object")
    assert "No class name was given" in texts.class_name(nothing, filtering=True)


def test_parts_add_up_to_the_score():
    rows = re.findall(r"<td>([^<]*)</td><td>([\d.]+)</td><td>([^<]*)</td>", texts.score_parts(DECISION))
    shares = [(float(value), float(share.split()[-1])) for _, value, share in rows if share]
    assert shares == [(0.4, 0.25), (0.6, 0.75)]
    assert rows[-1][:2] == ("Image score", "0.550")
    compared = texts.score_parts(DECISION._replace(cls_distance=1.5))
    assert "in multiples of the usual one</td><td>1.500" in compared


def test_header_names_the_file_and_warns_of_the_demonstration():
    assert "a demonstration" in texts.header("tiny-demo", "tiny")
    header = texts.header("/home/someone/line 3.safetensors", "ViT-L-14-336")
    assert "<b>line 3.safetensors</b>" in header
    assert "demonstration" not in header
