# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Backbones: names, settings, and weights from files."""

import logging
from dataclasses import replace

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from anomalib_genclip.clip.backbone import (
    _find_pretrained,
    backbone_spec,
    fingerprint,
    load_clip,
    resolve_image_size,
    resolve_layers,
)

SMALL = "ViT-S-32-alt"


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(1)
    return open_clip.create_model(SMALL).state_dict()


@pytest.fixture(scope="module")
def weights_file(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.safetensors"
    save_file(state, path)
    return path


def load(path, size=64, backbone=SMALL):
    return load_clip(backbone_spec(backbone), str(path), (size, size))


def test_default_backbone_is_the_papers():
    spec = backbone_spec("ViT-L-14-336")
    assert resolve_image_size(spec, None) == (518, 518)
    assert resolve_layers(spec, None) == [6, 12, 18, 24]
    assert (spec.vision_width, spec.text_width, spec.embed_dim) == (1024, 768, 768)
    assert backbone_spec("ViT-L-14-336-quickgelu") == replace(spec, quick_gelu=True)  # open_clip need not list it


def test_openais_weights_always_mean_quickgelu():
    for name in ("ViT-L-14-336", "ViT-B-16", "ViT-B-32", "ViT-L-14"):
        assert all(_find_pretrained(backbone_spec(name), "openai"))
    assert not _find_pretrained(backbone_spec("ViT-L-14"), "laion2b_s32b_b82k")[1]


@pytest.mark.parametrize("name", ["RN50", "ViT-B-16-SigLIP", "coca_ViT-B-32", "xlm-roberta-base-ViT-B-32"])
def test_other_kinds_of_clip_are_refused_with_what_is_supported(name):
    with pytest.raises(ValueError, match=rf"'{name}' cannot be used.*Supported are: tiny, .*ViT-L-14-336"):
        backbone_spec(name)


@pytest.mark.parametrize("backbone", [SMALL, "tiny"])
def test_random_weights_are_the_same_on_every_call_and_leave_the_random_stream_alone(backbone):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = load("random", backbone=backbone)
    assert torch.equal(torch.rand(1), expected)
    assert fingerprint(first) == fingerprint(load("random", backbone=backbone))
    assert first.visual.positional_embedding.std() > 0


def test_file_fills_every_tensor_of_the_model(state, weights_file):
    """The model is built of uninitialized memory; what the file lacks must be as open_clip builds it."""
    reference = open_clip.create_model(SMALL)
    reference.load_state_dict(state)
    model = load(weights_file, reference.visual.image_size[0])
    tensors, expected = (dict(m.named_parameters()) | dict(m.named_buffers()) for m in (model, reference))
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], value) for name, value in expected.items())
    assert load(weights_file, 256).visual.positional_embedding.shape[0] == 1 + 8 * 8


def test_openais_torchscript_layout_is_read_with_quickgelu(state, tmp_path):
    archive = torch.nn.Module()
    for key, value in state.items():
        owner, (*parents, leaf) = archive, key.split(".")
        for parent in parents:
            owner.add_module(parent, owner._modules.get(parent) or torch.nn.Module())
            owner = owner._modules[parent]
        owner.register_buffer(leaf, value.half())
    torch.jit.script(archive).save(tmp_path / "clip.pt")
    model = load(tmp_path / "clip.pt")
    assert torch.equal(model.visual.proj, state["visual.proj"].half().float())
    assert type(model.visual.transformer.resblocks[0].mlp.gelu).__name__ == "QuickGELU"


def test_fingerprint_tells_weights_apart_and_image_sizes_not(state, weights_file, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        own = fingerprint(load(weights_file))
    assert f"{SMALL}-quickgelu" in caplog.text  # whose activation is a guess
    assert own == fingerprint(load(weights_file, 96))
    for changed in ("visual.transformer.resblocks.1.mlp.c_fc.bias", "transformer.resblocks.0.ln_1.weight"):
        other = {key: value.clone() for key, value in state.items()}
        other[changed][3] += 1e-6  # where half precision would not show it
        save_file(other, tmp_path / "other.safetensors")
        assert own != fingerprint(load(tmp_path / "other.safetensors"))


CHANGES = (
    lambda state: state["visual.proj"].fill_(float("nan")),
    lambda state: state.update({"visual.proj": torch.zeros_like(state["visual.proj"]).int()}),
    lambda state: state.update({"visual.proj": torch.zeros(3, 7)}),
    lambda state: state.pop("visual.proj"),
    lambda state: state.update({"stray": torch.zeros(2)}),
)


@pytest.mark.parametrize(
    "change", CHANGES, ids=["not finite", "whole numbers", "another shape", "one less", "one more"]
)
def test_wrong_tensors_in_clip_weights_are_refused_by_name(state, tmp_path, change):
    state = {key: value.clone() for key, value in state.items()}
    change(state)
    save_file(state, tmp_path / "wrong.safetensors")
    with pytest.raises(ValueError, match=r"wrong\.safetensors.*(visual\.proj|stray)"):
        load(tmp_path / "wrong.safetensors")
