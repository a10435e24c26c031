# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The picture that explains a decision."""

import io

import pytest
import torch
from helpers import data_trees
from PIL import Image

from anomalib_genclip import GenCLIP, cli
from anomalib_genclip.components.class_names import ClassNames
from anomalib_genclip.pipelines import explain

SMALL = {"backbone": "ViT-S-32-alt", "pretrained": None, "image_size": 64, "visualizer": False}


@pytest.fixture(scope="module")
def model():
    """A model whose prompts differ, so that its maps do."""
    model = GenCLIP(**SMALL)
    torch.nn.init.normal_(model.model.prompts.abnormal)
    return model.eval()


def test_parts_are_those_of_the_models_own_result(model):
    image = torch.rand(3, 50, 70)
    decision = explain.decide(model, image, "metal_nut")
    maps = torch.stack(list(decision.maps.values()))
    assert len(maps) == 2
    torch.testing.assert_close(maps.mean(dim=0), decision.anomaly_map)
    batch = model.pre_processor(image[None])
    with torch.no_grad():
        result = model.model(batch, model.model.class_index(["metal nut"]))
    assert decision.score == pytest.approx(result.pred_score.item())
    assert decision.class_name == "metal nut"
    assert decision.image.shape == (3, 64, 64)


def test_class_name_is_the_models_own_where_none_is_given(monkeypatch):
    model = GenCLIP(**SMALL, class_name="01", class_names={"01": "bolt"}, smoothing_sigma=2.0).eval()
    seen = []
    tower = model.model.clip.encode_image
    monkeypatch.setattr(model.model.clip, "encode_image", lambda images: seen.append(len(images)) or tower(images))
    image = torch.rand(3, 64, 64)
    decision = explain.decide(model, image)
    assert seen == [1]
    assert decision.class_name == "bolt"
    with torch.no_grad():
        assert decision.score == pytest.approx(model(image[None]).pred_score.item())


@pytest.mark.parametrize("keep", [True, False])
def test_caption_says_what_class_name_filtering_did(model, keep, monkeypatch):
    image = torch.rand(3, 64, 64)
    monkeypatch.setattr(ClassNames, "filter", lambda _self, _embedding, index: index if keep else index * 0)
    caption = explain.describe(explain.decide(model, image, "bolt"))
    assert ('kept "bolt"' in caption) == keep
    assert ('replaced "bolt" by "object"' in caption) == (not keep)


def test_filter_decides_by_the_cosines_in_the_caption(model):
    decision = explain.decide(model, torch.rand(3, 64, 64), "bolt")
    assert (decision.used_name == "bolt") == (decision.similarity >= decision.generic_similarity)


def test_caption_without_name_or_filter(model):
    nothing = explain.decide(model, torch.rand(3, 64, 64))
    assert "no class name" in explain.describe(nothing)
    assert "is off" in explain.describe(explain.decide(model, torch.rand(3, 64, 64), "bolt"), filtering=False)


def test_picture_has_a_panel_more_with_a_mask_and_two_less_with_one_branch(model):
    decision = explain.decide(model, torch.rand(3, 64, 64), "bolt")
    one = decision._replace(maps={"query-only branch": decision.anomaly_map})
    drawings = (explain.draw(decision, "x"), explain.draw(decision, "x", torch.zeros(9, 9)), explain.draw(one, "x"))
    widths = [Image.open(io.BytesIO(drawing)).width for drawing in drawings]
    assert widths == [1240, 1550, 620]


def test_command(model, tmp_path, capsys):
    weights = model.save_weights(tmp_path / "prompts.safetensors")
    image, mask = tmp_path / "image.png", tmp_path / "mask.png"
    data_trees.write_anomalous(image, mask)
    output = tmp_path / "new" / "why.png"
    command = ["--weights", str(weights), "--image", str(image), "--mask", str(mask), "--output", str(output)]
    assert cli.main(["explain", *command]) == 0
    assert Image.open(output).width == 1550
    assert "image score" in capsys.readouterr().out
