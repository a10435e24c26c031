# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Files of CLIP weights: only tensors are read, what cannot be read is named; pickles are in ``test_hostile_files``."""

import logging
import zipfile

import open_clip
import pytest
import torch
from helpers.damage import cut, flip
from helpers.models import torch_model
from safetensors.torch import save_file

from anomalib_genclip.clip.backbone import read_weights


@pytest.fixture
def state():
    return {"visual.proj": torch.rand(40, 30), "ln_final.weight": torch.rand(50)}


def write(state, path):
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


def test_torch_and_safetensors_files_are_read_without_what_is_no_weight(state, tmp_path):
    sizes = dict.fromkeys(("input_resolution", "context_length", "vocab_size"), torch.tensor(77))
    openai = {**state, **sizes, "attn_mask": torch.zeros(77, 77)}
    wrapped = {"state_dict": {f"module.{key}": value for key, value in state.items()}}
    for name, content in (("a.pt", state), ("a.safetensors", state), ("b.bin", openai), ("c.pt", wrapped)):
        read = read_weights(str(write(content, tmp_path / name)))
        assert read.keys() == state.keys()
        assert all(torch.equal(read[key], state[key]) for key in state)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_broken_files_are_refused_by_name(state, tmp_path, suffix):
    broken = write(state, tmp_path / f"broken{suffix}")
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
        def __setstate__(self, state: tuple[torch.Tensor, bool]):
            print("it ran")  # TorchScript has few means; writing a tensor to a file is another
            self.weight = state[0]
            self.training = state[1]

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


def test_one_flipped_bit_in_a_torch_file_is_refused_by_name(state, tmp_path):
    path = write(state, tmp_path / "clip.pt")
    flip(path, path.read_bytes().find(state["visual.proj"].numpy().tobytes()) + 1)
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
