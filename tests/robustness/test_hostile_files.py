# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Files from strangers: nothing in them runs, broken ones are refused by name, and none leads out of its folder."""

import contextlib
import io
import pickle
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import data_trees
from helpers.damage import Payload, with_flipped_bits
from helpers.prompts_files import rewritten
from helpers.runs import build, engine, save_checkpoint
from safetensors.torch import save_file

from anomalib_genclip import GenCLIP
from anomalib_genclip.clip.backbone import backbone_spec, load_clip
from anomalib_genclip.pipelines.comparison import compare, read_settings
from anomalib_genclip.utils.tensors import digest

SMALL = "ViT-S-32-alt"


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("files")
    model = build()
    save_checkpoint(model, folder / "model.ckpt")
    prompts = model.save_weights(folder / "prompts.safetensors")
    clip = folder / "clip.safetensors"
    save_file(model.model.clip.model.state_dict(), clip)
    return SimpleNamespace(checkpoint=folder / "model.ckpt", prompts=prompts, clip=clip, model=model)


# Payloads


PLACES = {
    "alone": lambda _, payload: payload,
    "beside the rest": lambda checkpoint, payload: {**checkpoint, "extra": payload},
    "as a hyperparameter": lambda checkpoint, payload: {**checkpoint, "hyper_parameters": {"class_name": payload}},
    "among the tensors": lambda checkpoint, payload: {**checkpoint, "state_dict": {"model.prompts.normal": payload}},
}


@pytest.mark.parametrize("place", PLACES)
def test_payload_in_a_checkpoint_is_refused_by_everything_that_reads_one(files, tmp_path, place):
    trace = tmp_path / "ran"
    hostile = tmp_path / "hostile.ckpt"
    torch.save(PLACES[place](torch.load(files.checkpoint, weights_only=True), Payload(trace)), hostile)
    readers = [
        lambda: GenCLIP.load_from_checkpoint(hostile),
        lambda: load_clip(backbone_spec(SMALL), str(hostile), (64, 64)),
        lambda: GenCLIP(weights=hostile),
    ]
    if place == "alone":  # the engine reads a checkpoint as a whole, wherever the payload is
        data = data_trees.mvtec_ad(tmp_path / "data")
        calls = engine(tmp_path).test, engine(tmp_path, max_epochs=1).fit
        readers += [partial(call, files.model, datamodule=data, ckpt_path=hostile) for call in calls]
    for reader in readers:
        with pytest.raises(ValueError, match=r"hostile\.ckpt") as refused:
            reader()
        assert "weights_only" not in str(refused.value)  # torch advises to run the code
        assert not trace.exists()
    torch.load(hostile, weights_only=False)
    assert trace.exists()  # so the file was hostile


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_plain_pickle_is_refused_whatever_it_is_called(tmp_path, protocol):
    trace = tmp_path / "ran"
    for name in ("clip.pt", "clip.bin", "clip.safetensors", "prompts.safetensors"):
        path = tmp_path / name
        path.write_bytes(pickle.dumps(Payload(trace), protocol=protocol))
        with pytest.raises(ValueError, match=path.stem):
            load_clip(backbone_spec(SMALL), str(path), (64, 64))
        with pytest.raises(ValueError, match=path.stem):
            GenCLIP(weights=path)
    assert not trace.exists()


@pytest.mark.parametrize("seed", range(6))
def test_prompts_with_flipped_bits_in_the_header_are_refused_by_name_or_the_same(files, tmp_path, seed):
    """A flip may hit a note for the reader; whatever else it hits is noticed."""
    header = int.from_bytes(files.prompts.read_bytes()[:8], "little")
    path = with_flipped_bits(files.prompts, tmp_path / "flipped.safetensors", seed, slice(0, 8 + header))
    with contextlib.suppress(ValueError):
        loaded = GenCLIP(weights=path, pretrained=None, visualizer=False)
        assert torch.equal(loaded.model.prompts.normal, files.model.model.prompts.normal)
        return
    with pytest.raises(ValueError, match=r"flipped\.safetensors"):
        GenCLIP(weights=path, pretrained=None, visualizer=False)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: [m],
        lambda _: "x",
        *(
            lambda m, changed=changed: {**m, **changed}
            for changed in ({"signature": 5}, {"signature": {}}, {"pretrained": 5}, {"image_size": ["64", "64"]})
        ),
    ],
)
def test_prompts_with_another_description_are_refused_by_name(files, tmp_path, change):
    path = rewritten(files.prompts, tmp_path / "changed.safetensors", description=change)
    with pytest.raises(ValueError, match=r"changed\.safetensors"):
        GenCLIP(weights=path, visualizer=False)


@pytest.mark.parametrize("value", [torch.zeros(3), torch.tensor(7.0), torch.tensor(1)])
def test_prompts_with_thresholds_out_of_range_are_refused_by_name(files, tmp_path, value):
    path = rewritten(files.prompts, tmp_path / "p.safetensors", tensors=lambda t: t.update({"threshold.image": value}))
    with pytest.raises(ValueError, match=r"p\.safetensors.*(between 0 and 1|finite)"):
        GenCLIP(weights=path)


PARTS = {"start": slice(1000), "middle": slice(1000, -20_000), "end": slice(-20_000, None)}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("seed", range(3))
def test_checkpoint_with_flipped_bits_is_refused_by_name_or_the_same(files, tmp_path, part, seed):
    """A flip may hit what torch fills its archives up with, or what they hold twice."""
    path = with_flipped_bits(files.checkpoint, tmp_path / "flipped.ckpt", seed, PARTS[part])
    with contextlib.suppress(ValueError):
        loaded = GenCLIP.load_from_checkpoint(path)
        assert part != "middle"
        assert torch.equal(loaded.model.prompts.normal, files.model.model.prompts.normal)
        return
    with pytest.raises(ValueError, match=r"flipped\.ckpt is damaged or cut off"):
        GenCLIP.load_from_checkpoint(path)


@pytest.mark.parametrize("call", ["fit", "predict"])
def test_damage_outside_the_model_is_found_by_the_engine(files, tmp_path, call):
    """The optimiser's state, for one."""
    momentum = torch.rand(1000)
    checkpoint = {**torch.load(files.checkpoint, weights_only=True), "optimizer_states": [{"momentum": momentum}]}
    path = tmp_path / "damaged.ckpt"
    torch.save(checkpoint, path)
    content = bytearray(path.read_bytes())
    content[content.find(momentum.numpy().tobytes()) + 42] ^= 1
    path.write_bytes(content)
    data = data_trees.mvtec_ad(tmp_path / "data")
    with pytest.raises(ValueError, match=r"damaged\.ckpt is damaged or cut off \(\w+/data/\d+\)"):
        getattr(engine(tmp_path, max_epochs=1), call)(files.model, datamodule=data, ckpt_path=path)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None])
def test_checkpoint_that_is_none_is_refused_by_name(files, tmp_path, content):
    path = tmp_path / "broken.ckpt"
    path.write_bytes(files.checkpoint.read_bytes()[:-500] if content is None else content)
    with pytest.raises(ValueError, match=r"broken\.ckpt is damaged or cut off"):
        GenCLIP.load_from_checkpoint(path)


def _rewritten_checkpoint(source: Path, target: Path, change) -> Path:
    checkpoint = torch.load(source, weights_only=True)
    changed = change(checkpoint)
    torch.save(checkpoint if changed is None else changed, target)
    return target


STRANGERS = {
    "a tensor": lambda _: torch.zeros(3),
    "a list": lambda _: [1],
    "another model's": lambda c: c.pop("genclip") and None,
    "description is a number": lambda c: c.update(genclip=5),
    "description lacks a part": lambda c: c["genclip"].pop("trained_on") and None,
    "description holds a tensor": lambda c: c["genclip"].update(trained_on=torch.zeros(1)),
    "no tensors": lambda c: c.update(state_dict=None),
    "a text among the tensors": lambda c: c["state_dict"].update({"model.prompts.normal": "text"}),
    "a tensor without contents": lambda c: c["state_dict"].update({"model.prompts.normal": torch.zeros(2).to("meta")}),
}


@pytest.mark.parametrize("change", STRANGERS)
def test_checkpoint_of_something_else_is_refused_by_name_before_a_model_is_built(files, tmp_path, monkeypatch, change):
    path = _rewritten_checkpoint(files.checkpoint, tmp_path / "other.ckpt", STRANGERS[change])
    monkeypatch.setattr("anomalib_genclip.lightning_model.load_clip", lambda *_: pytest.fail("CLIP was loaded"))
    with pytest.raises(ValueError, match=r"The checkpoint .*other\.ckpt (was not written by GenCLIP|is damaged)"):
        GenCLIP.load_from_checkpoint(path)
    data = data_trees.mvtec_ad(tmp_path / "data")
    with pytest.raises(ValueError, match=r"The checkpoint .*other\.ckpt (was not written by GenCLIP|is damaged)"):
        engine(tmp_path).test(files.model, datamodule=data, ckpt_path=path)


@pytest.mark.parametrize(
    "settings",
    [
        {"_instantiator": "lightning.pytorch.cli.instantiate_module", "pre_processor": {"class_path": "evil.E"}},
        {"_instantiator": "evil.instantiate"},
        {"visualizer": {"class_path": "evil.E"}},
        {"class_names": [{"class_path": "evil.E"}]},
        {5: "evil.E"},
    ],
)
@pytest.mark.parametrize("key", ["hyper_parameters", "hparams", "module_arguments"])
def test_checkpoint_does_not_choose_what_is_imported(files, tmp_path, monkeypatch, settings, key):
    (tmp_path / "evil.py").write_text("import pathlib\npathlib.Path(__file__).with_name('ran').touch()\nclass E: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "hostile.ckpt"
    _rewritten_checkpoint(files.checkpoint, path, lambda c: c.update({key: {**c["hyper_parameters"], **settings}}))
    for reader in (path, io.BytesIO(path.read_bytes())):
        with pytest.raises((ValueError, TypeError), match=r"could run code|class_names|Passed object should be"):
            GenCLIP.load_from_checkpoint(reader)
    assert not (tmp_path / "ran").exists()
    assert sys.modules.get("evil") is None


def test_files_do_not_bring_tensors_of_clip(files, tmp_path):
    def add(checkpoint):
        state = checkpoint["state_dict"]
        state["model.clip.model.visual.proj"] = torch.zeros_like(files.model.model.clip.model.visual.proj)
        checkpoint["genclip"].pop("digest")
        checkpoint["genclip"]["digest"] = digest(state, checkpoint["genclip"])

    path = _rewritten_checkpoint(files.checkpoint, tmp_path / "clip.ckpt", add)
    with pytest.raises(ValueError, match=r"clip\.ckpt contains tensors of CLIP"):
        GenCLIP.load_from_checkpoint(path)
    zero = {"clip.model.visual.proj": torch.zeros_like(files.model.model.clip.model.visual.proj)}
    path = rewritten(files.prompts, tmp_path / "clip.safetensors", tensors=lambda t: t.update(zero))
    with pytest.raises(ValueError, match=r"clip\.safetensors, tensor 'clip\.model\.visual\.proj'.*the model none"):
        build(weights=path)


def test_checkpoint_does_not_choose_folders_and_prompts(files, tmp_path):
    path = tmp_path / "model.ckpt"
    here = {"feature_cache": str(tmp_path / "cache"), "weights": "/etc/hostname", "fine_tune": True}
    _rewritten_checkpoint(files.checkpoint, path, lambda c: c["hyper_parameters"].update(here))
    assert GenCLIP.load_from_checkpoint(path)._feature_cache is None


@pytest.mark.parametrize("seed", range(2))
def test_prompts_with_flipped_bits_in_a_tensor_are_refused_by_name(files, tmp_path, seed):
    path = with_flipped_bits(files.prompts, tmp_path / "flipped.safetensors", seed, slice(-(2**16), None))
    with pytest.raises(ValueError, match=r"flipped\.safetensors.*(damaged|finite)"):
        GenCLIP(weights=path, pretrained=None, visualizer=False)


CHECKPOINT_CHANGES = {
    "nan": lambda state: state["model.prompts.normal"].fill_(float("nan")),
    "whole numbers": lambda state: state.update({"model.prompts.normal": torch.zeros(4, 256).long()}),
    "another shape": lambda state: state.update({"model.prompts.normal": torch.zeros(3, 7)}),
    "a tensor less": lambda state: state.pop("model.prompts.normal"),
}


@pytest.mark.parametrize("change", CHECKPOINT_CHANGES)
def test_wrong_tensors_in_a_checkpoint_are_refused_by_name(files, tmp_path, change):
    checkpoint = torch.load(files.checkpoint, weights_only=True)
    CHECKPOINT_CHANGES[change](checkpoint["state_dict"])
    torch.save(checkpoint, tmp_path / "wrong.ckpt")
    with pytest.raises(ValueError, match=r"model\.prompts\.normal.*finite|damaged|\(3, 7\)"):
        GenCLIP.load_from_checkpoint(tmp_path / "wrong.ckpt")


@pytest.mark.parametrize("pretrained", ["/etc/hostname", "../clip.pt", "folder/clip.pt", ".."])
def test_prompts_do_not_name_weights_elsewhere(files, tmp_path, pretrained):
    path = rewritten(files.prompts, tmp_path / "p.safetensors", description=lambda m: {**m, "pretrained": pretrained})
    with pytest.raises(ValueError, match=r"p\.safetensors.*pretrained"):
        GenCLIP(weights=path)


@pytest.mark.parametrize("backbone", ["local-dir:/etc", "hf-hub:org/model", "../../x"])
def test_prompts_do_not_name_backbones_elsewhere(files, tmp_path, backbone):
    change = lambda m: {**m, "signature": {**m["signature"], "backbone": backbone}}  # noqa: E731
    path = rewritten(files.prompts, tmp_path / "p.safetensors", description=change)
    with pytest.raises(ValueError, match=r"Backbone .* cannot be used.*ViT-L-14-336"):
        GenCLIP(weights=path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must be a mapping of settings"),
        (b"\xff\xfe\x00", "not readable YAML"),
        (b"model: !!python/object/apply:os.system ['exit 1']", "not readable YAML"),
    ],
)
def test_settings_file_of_a_comparison_is_refused_by_what_is_wrong(tmp_path, content, message):
    (tmp_path / "settings.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        compare(read_settings(tmp_path / "settings.yaml"))
