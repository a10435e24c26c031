# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Files of CLIP weights: only tensors are read, and what cannot be read is named."""

import logging
import zipfile
from pathlib import Path

import open_clip
import pytest
import torch
from helpers.damage import Payload, cut, with_flipped_bits
from helpers.models import torch_model
from safetensors.torch import save_file

from anomalib_genclip.clip.backbone import backbone_spec, load_clip
from anomalib_genclip.clip.weights import is_torchscript, read_weights


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    """Tensors under names that CLIP has."""
    return {"visual.proj": torch.rand(40, 30), "ln_final.weight": torch.rand(50)}


def write(state: dict[str, torch.Tensor], path: Path) -> Path:
    """Write a file of tensors of the kind that its name says."""
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


def is_state(read: dict[str, torch.Tensor], state: dict[str, torch.Tensor]) -> bool:
    return read.keys() == state.keys() and all(torch.equal(read[key], state[key]) for key in state)


# What is read


def test_torch_and_safetensors_files_are_read(state, tmp_path):
    for name in ("clip.pt", "clip.bin", "clip.safetensors"):
        assert is_state(read_weights(write(state, tmp_path / name)), state)
    wrapped = {"state_dict": {f"module.{key}": value for key, value in state.items()}}
    assert is_state(read_weights(write(wrapped, tmp_path / "wrapped.pt")), state)


def test_what_is_no_weight_is_left_out(state, tmp_path):
    """OpenAI's files hold sizes and the mask beside the weights."""
    sizes = dict.fromkeys(("input_resolution", "context_length", "vocab_size"), torch.tensor(77))
    path = write({**state, **sizes, "attn_mask": torch.zeros(77, 77)}, tmp_path / "clip.pt")
    assert is_state(read_weights(str(path)), state)


def test_torchscript_is_told_from_other_files(state, tmp_path):
    class Archive(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("weight", state["visual.proj"])

        def forward(self, x):
            return x

    torch.jit.script(Archive()).save(tmp_path / "script.pt")
    assert is_torchscript(tmp_path / "script.pt")
    assert torch.equal(read_weights(tmp_path / "script.pt")["weight"], state["visual.proj"])
    for name in ("clip.pt", "clip.safetensors"):
        assert not is_torchscript(write(state, tmp_path / name))


# What is refused


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_broken_files_are_refused_by_name(state, tmp_path, suffix):
    broken = write(state, tmp_path / f"broken{suffix}")
    cut(broken)
    with pytest.raises(ValueError, match=r"broken.* cannot be read as CLIP weights"):
        read_weights(broken)


def test_pickled_payload_does_not_run(tmp_path):
    torch.save({"state_dict": Payload(tmp_path / "ran")}, tmp_path / "hostile.pt")
    with pytest.raises(ValueError, match=r"hostile\.pt cannot be read.*could run code"):
        read_weights(tmp_path / "hostile.pt")
    assert not (tmp_path / "ran").exists()


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
    content = bytearray(path.read_bytes())
    content[content.find(state["visual.proj"].numpy().tobytes()) + 1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"clip\.pt is damaged or cut off"):
        read_weights(path)


@pytest.mark.parametrize("content", [5, [torch.zeros(2)], {"state_dict": 5}, {"a": 5}, {"a": {"b": torch.zeros(2)}}])
def test_file_of_something_else_than_named_tensors_is_refused_by_name(tmp_path, content):
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"other\.ckpt cannot be read as CLIP weights"):
        read_weights(tmp_path / "other.ckpt")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("seed", range(8))
def test_flipped_bits_in_the_header_are_refused_by_name(tmp_path, suffix, seed):
    state = {"visual.proj": torch.zeros(2), "ln_final.weight": torch.zeros(3)}
    path = write(state, tmp_path / f"clip{suffix}")
    with_flipped_bits(path, path, seed, slice(None, 400))
    with pytest.raises(ValueError, match=rf"clip\{suffix}"):  # at the latest, because tensors are missing
        load_clip(backbone_spec("ViT-S-32-alt"), str(path), (64, 64))


def test_weights_that_cannot_be_fetched_end_in_one_error_with_ways_out(monkeypatch, caplog):
    def no_network(*_args, **_kwargs):
        logging.getLogger("huggingface_hub.utils").warning("retrying")
        msg = "name or service not known\nand a long story"
        raise OSError(msg)

    monkeypatch.setattr(open_clip, "download_pretrained", no_network)
    with pytest.raises(ConnectionError) as raised:
        torch_model("ViT-B-32", pretrained="openai")
    message = str(raised.value)
    assert "'openai' of ViT-B-32" in message
    assert "name or service not known" in message
    assert "long story" not in message
    for way_out in ("pretrained=<file>", "cache", "tiny"):
        assert way_out in message
    assert len(message.splitlines()) < 7
    assert raised.value.__suppress_context__
    assert "retrying" not in caplog.text
