# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Backbones: names, settings, and weights from files."""

import logging

import open_clip
import pytest
import torch
from helpers.models import torch_model
from safetensors.torch import save_file

from anomalib_genclip.clip import backbone as backbones
from anomalib_genclip.clip.backbone import (
    backbone_spec,
    fingerprint,
    list_backbones,
    load_clip,
    resolve_image_size,
    resolve_layers,
)

SMALL = "ViT-S-32-alt"


@pytest.fixture(scope="module")
def state():
    """Weights of a small CLIP at its own image size."""
    torch.manual_seed(1)
    return open_clip.create_model(SMALL).state_dict()


@pytest.fixture(scope="module")
def weights_file(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.safetensors"
    save_file(state, path)
    return path


def test_default_backbone_is_the_papers():
    spec = backbone_spec("ViT-L-14-336")
    assert resolve_image_size(spec, None) == (518, 518)
    assert resolve_layers(spec, None) == [6, 12, 18, 24]
    assert (spec.vision_width, spec.text_width, spec.embed_dim) == (1024, 768, 768)


def test_quickgelu_names_work_whether_or_not_open_clip_lists_them():
    plain, quick = backbone_spec("ViT-L-14-336"), backbone_spec("ViT-L-14-336-quickgelu")
    assert quick.quick_gelu
    assert not plain.quick_gelu
    assert plain.name == quick.name


def test_openais_weights_always_mean_quickgelu():
    for name in ("ViT-L-14-336", "ViT-B-16", "ViT-B-32", "ViT-L-14"):
        config, quick = backbones._find_pretrained(backbone_spec(name), "openai")
        assert config
        assert quick
    assert not backbones._find_pretrained(backbone_spec("ViT-L-14"), "laion2b_s32b_b82k")[1]


def test_every_listed_backbone_has_a_spec():
    names = list_backbones()
    assert {"ViT-B-16", "ViT-L-14", "ViT-L-14-336", "ViT-H-14", "ViT-bigG-14"} <= set(names)
    for name in names:
        if name != "tiny":
            assert backbone_spec(name).depth >= 1


@pytest.mark.parametrize(
    "name", ["RN50", "ViT-B-16-SigLIP", "coca_ViT-B-32", "ViT-H-14-CLIPA", "xlm-roberta-base-ViT-B-32"]
)
def test_other_kinds_of_clip_are_refused_with_what_is_supported(name):
    if name not in open_clip.list_models():
        pytest.skip("this open_clip does not know the model")
    with pytest.raises(ValueError, match=r"cannot be used.*Supported are: tiny, .*ViT-L-14-336"):
        backbone_spec(name)


def test_unknown_backbone_lists_the_known():
    with pytest.raises(ValueError, match=r"'ViT-L-13'.*ViT-L-14"):
        backbone_spec("ViT-L-13")


@pytest.mark.parametrize("layers", [[], [0], [13], [3, 3], [1.5], [-1], [True]])
def test_wrong_layers_are_refused_with_the_range(layers):
    with pytest.raises(ValueError, match="between 1 and 12"):
        resolve_layers(backbone_spec(SMALL), layers)


@pytest.mark.parametrize("size", [100, 0, -32, (64, 100), 31, 64.0, True])
def test_wrong_image_sizes_are_refused_with_the_patch_size(size):
    with pytest.raises(ValueError, match="patch size 32"):
        resolve_image_size(backbone_spec(SMALL), size)


def test_unknown_tag_lists_the_tags():
    with pytest.raises(ValueError, match=r"'opnai'.*ViT-B-32.*openai"):
        torch_model("ViT-B-32", pretrained="opnai")


@pytest.mark.parametrize(("state_length", "query_length"), [(0, 4), (4, 0), (70, 4), (37, 37)])
def test_prompt_lengths_must_leave_room_for_a_name(state_length, query_length):
    with pytest.raises(ValueError, match="at most 73"):
        torch_model(SMALL, None, 64, state_length=state_length, query_length=query_length)


def test_random_weights_are_the_same_on_every_call_and_leave_the_random_stream_alone():
    spec = backbone_spec(SMALL)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = load_clip(spec, None, (64, 64))
    assert torch.equal(torch.rand(1), expected)
    second = load_clip(spec, None, (64, 64))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_file_fills_every_tensor_of_the_model(state, weights_file):
    """The model is built of uninitialized memory; what the file lacks must be as open_clip builds it."""
    reference = open_clip.create_model(SMALL)
    reference.load_state_dict(state)
    model = load_clip(backbone_spec(SMALL), str(weights_file), reference.visual.image_size)
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    expected = dict(reference.named_parameters()) | dict(reference.named_buffers())
    assert tensors.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(tensors[name], value, rtol=0, atol=0)


def test_file_gives_the_features_that_open_clip_gives(state, weights_file):
    reference = open_clip.create_model(SMALL).eval()
    reference.load_state_dict(state)
    model = load_clip(backbone_spec(SMALL), str(weights_file), (256, 256))
    size = reference.visual.image_size[0]
    model_at_own_size = load_clip(backbone_spec(SMALL), str(weights_file), (size, size))
    image = torch.randn(1, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(model_at_own_size.encode_image(image), reference.encode_image(image))
    assert model.visual.positional_embedding.shape[0] == 1 + 8 * 8


def test_openais_torchscript_layout_is_read_with_quickgelu(state, tmp_path):
    class Archive(torch.nn.Module):
        def __init__(self):
            super().__init__()
            for key, value in state.items():
                owner = self
                *parents, leaf = key.split(".")
                for parent in parents:
                    if not hasattr(owner, parent):
                        owner.add_module(parent, torch.nn.Module())
                    owner = getattr(owner, parent)
                owner.register_buffer(leaf, value.half())

        def forward(self, x):
            return x

    torch.jit.script(Archive()).save(tmp_path / "clip.pt")
    model = load_clip(backbone_spec(SMALL), str(tmp_path / "clip.pt"), (224, 224))
    assert torch.equal(model.visual.proj, state["visual.proj"].half().float())
    assert type(model.visual.transformer.resblocks[0].mlp.gelu).__name__ == "QuickGELU"


def test_local_file_without_known_activation_says_so(weights_file, caplog):
    with caplog.at_level(logging.WARNING):
        load_clip(backbone_spec(SMALL), str(weights_file), (224, 224))
    assert f"{SMALL}-quickgelu" in caplog.text


@pytest.mark.parametrize(
    "changed", ["visual.transformer.resblocks.1.mlp.c_fc.bias", "transformer.resblocks.0.ln_1.weight"]
)
def test_fingerprint_tells_weights_apart_and_image_sizes_not(state, weights_file, tmp_path, changed):
    spec = backbone_spec(SMALL)
    one, same = (fingerprint(load_clip(spec, str(weights_file), (size, size))) for size in (64, 96))
    other_state = {key: value.clone() for key, value in state.items()}
    other_state[changed][3] += 1e-6  # where half precision would not show it
    save_file(other_state, tmp_path / "other.safetensors")
    other = fingerprint(load_clip(spec, str(tmp_path / "other.safetensors"), (64, 64)))
    assert one == same != other


def test_file_of_another_model_is_refused(weights_file):
    with pytest.raises(ValueError, match=r"clip\.safetensors does not contain the weights of ViT-S-16-alt"):
        load_clip(backbone_spec("ViT-S-16-alt"), str(weights_file), (224, 224))


CLIP_CHANGES = {
    "nan": lambda state: state["visual.proj"].fill_(float("nan")),
    "infinite": lambda state: state["visual.proj"].fill_(float("inf")),
    "whole numbers": lambda state: state.update({"visual.proj": torch.zeros_like(state["visual.proj"]).int()}),
    "another shape": lambda state: state.update({"visual.proj": torch.zeros(3, 7)}),
    "a tensor less": lambda state: state.pop("visual.proj"),
    "a tensor more": lambda state: state.update({"stray": torch.zeros(2)}),
}


@pytest.mark.parametrize("change", CLIP_CHANGES)
def test_wrong_tensors_in_clip_weights_are_refused_by_name(state, tmp_path, change):
    state = {key: value.clone() for key, value in state.items()}
    CLIP_CHANGES[change](state)
    save_file(state, tmp_path / "wrong.safetensors")
    with pytest.raises(ValueError, match=r"wrong\.safetensors.*(visual\.proj|stray)"):
        load_clip(backbone_spec(SMALL), str(tmp_path / "wrong.safetensors"), (64, 64))
