# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Trained models without some of their parts."""

import pytest
import torch
from helpers.runs import build, save_checkpoint

from anomalib_genclip import GenCLIP
from anomalib_genclip.pipelines.ablated import Variant, ablated, tapped_layers, variants


def test_variants_are_branches_with_and_without_the_filter_and_single_layers():
    assert [(variant.branches, variant.class_name_filter, variant.layers) for variant in variants([6, 12])] == [
        ("both", True, [6, 12]),
        ("both", False, [6, 12]),
        ("vision", True, [6, 12]),
        ("vision", False, [6, 12]),
        ("query", False, [6, 12]),
        ("both", True, [6]),
        ("both", True, [12]),
    ]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[str]:
    """A checkpoint and a prompts file of one model."""
    folder, model = tmp_path_factory.mktemp("files"), build(layers=[3, 12])
    save_checkpoint(model, folder / "model.ckpt")
    return [str(folder / "model.ckpt"), str(model.save_weights(folder / "prompts.safetensors"))]


def test_feature_layers_are_read_from_checkpoints_and_prompts_files(files):
    assert [tapped_layers(file) for file in files] == [[3, 12], [3, 12]]


@pytest.mark.parametrize("content", [5, [torch.zeros(2)], {"state_dict": 5}, {"a": 5}, {"a": {"b": torch.zeros(2)}}])
def test_checkpoint_of_something_else_has_no_layers(tmp_path, content):
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"other\.ckpt was not written by GenCLIP"):
        tapped_layers(str(tmp_path / "other.ckpt"))


def test_a_trained_model_is_loaded_without_its_parts(files):
    variant = {"branches": "vision", "class_name_filter": False, "layers": [12]}
    model = ablated(files[1], variant)
    assert isinstance(model, GenCLIP)
    assert (model.model.branches, model.model.class_name_filter, model.model.map_layers) == ("vision", False, [12])
    assert model.model.layers == [3, 12]  # the image score keeps its layer
    assert Variant(**variant) in variants([12])


def test_single_layers_average_to_the_whole_map():
    model = build().model.eval()
    torch.nn.init.normal_(model.prompts.abnormal)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        whole = model.branch_maps(images).maps
        single = []
        for layer in model.layers:
            model.map_layers = [layer]
            single.append(model.branch_maps(images).maps)
    for branch in ("vision", "query"):
        maps = torch.stack([maps[branch] for maps in single])
        assert maps.std(dim=0).max() > 1e-4  # they differ
        torch.testing.assert_close(maps.mean(dim=0), whole[branch])
