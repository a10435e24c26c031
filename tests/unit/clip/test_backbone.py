# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Backbones: names, settings, and weights from files."""

import logging
import zipfile
from dataclasses import replace

import open_clip
import pytest
import torch
from helpers.damage import cut, flip
from helpers.models import torch_model
from safetensors.torch import save_file

from anomalib_genclip.clip.backbone import (
    _find_pretrained,
    backbone_spec,
    fingerprint,
    load_clip,
    read_weights,
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


@pytest.fixture
def tensors():
    return {"visual.proj": torch.rand(40, 30), "ln_final.weight": torch.rand(50)}


def write(tensors, path):
    save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)
    return path


def test_torch_and_safetensors_files_are_read_without_what_is_no_weight(tensors, tmp_path):
    sizes = dict.fromkeys(("input_resolution", "context_length", "vocab_size"), torch.tensor(77))
    openai = {**tensors, **sizes, "attn_mask": torch.zeros(77, 77)}
    wrapped = {"state_dict": {f"module.{key}": value for key, value in tensors.items()}}
    for name, content in (("a.pt", tensors), ("a.safetensors", tensors), ("b.bin", openai), ("c.pt", wrapped)):
        read = read_weights(str(write(content, tmp_path / name)))
        assert read.keys() == tensors.keys()
        assert all(torch.equal(read[key], tensors[key]) for key in tensors)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_broken_files_are_refused_by_name(tensors, tmp_path, suffix):
    broken = write(tensors, tmp_path / f"broken{suffix}")
    cut(broken)
    with pytest.raises(ValueError, match=r"broken.* cannot be read as CLIP weights"):
        read_weights(broken)


def test_torchscript_that_runs_code_when_it_is_read_is_refused(tmp_path, capfd):
    class Hostile(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("weight", torch.zeros(2))

        def forward(self, x):
            return x

        @torch.jit.export
        def __getstate__(self):
            return (self.weight, self.training)

        @torch.jit.export
        def __setstate__(self, tensors: tuple[torch.Tensor, bool]):
            print("it ran")  # TorchScript has few means; writing a tensor to a file is another
            self.weight = tensors[0]
            self.training = tensors[1]

    torch.jit.script(Hostile()).save(tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(tmp_path / "other.pt", "w") as other:
        for name in plain.namelist():  # torch does not tell upper from lower case
            other.writestr(name.replace("/code/", "/CODE/"), plain.read(name))
    for path in (tmp_path / "plain.pt", tmp_path / "other.pt"):
        with pytest.raises(ValueError, match=rf"{path.name} cannot be read.*code that would run"):
            read_weights(path)
        assert "it ran" not in capfd.readouterr().out
        torch.jit.load(path)
        assert "it ran" in capfd.readouterr().out  # so the file was hostile


def test_one_flipped_bit_in_a_torch_file_is_refused_by_name(tensors, tmp_path):
    path = write(tensors, tmp_path / "clip.pt")
    flip(path, path.read_bytes().find(tensors["visual.proj"].numpy().tobytes()) + 1)
    with pytest.raises(ValueError, match=r"clip\.pt is damaged or cut off"):
        read_weights(path)


@pytest.mark.parametrize("content", [5, [torch.zeros(2)], {"state_dict": 5}, {"a": 5}, {"a": {"b": torch.zeros(2)}}])
def test_file_of_something_else_than_named_tensors_is_refused_by_name(tmp_path, content):
    with pytest.raises(ValueError, match=r"other\.ckpt cannot be read as CLIP weights"):
        read_weights(write(content, tmp_path / "other.ckpt"))


def test_weights_that_cannot_be_fetched_end_in_one_error_with_ways_out(monkeypatch, caplog):
    def no_network(*_args, **_kwargs):
        logging.getLogger("huggingface_hub.utils").warning("retrying")
        msg = "name or service not known\nand a long story"
        raise OSError(msg)

    monkeypatch.setattr(open_clip, "download_pretrained", no_network)
    with pytest.raises(ConnectionError) as raised:
        torch_model("ViT-B-32", pretrained="openai")
    message = str(raised.value)
    for part in ("'openai' of ViT-B-32", "name or service not known", "pretrained=<file>", "cache", "tiny"):
        assert part in message
    assert "long story" not in message
    assert len(message.splitlines()) < 7
    assert raised.value.__suppress_context__
    assert "retrying" not in caplog.text
