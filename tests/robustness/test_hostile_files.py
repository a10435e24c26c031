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

from anomalib_genclip import GenCLIP, Inferencer
from anomalib_genclip.clip.backbone import backbone_spec, load_clip
from anomalib_genclip.persistence.prompts_file import load_weights
from anomalib_genclip.pipelines.comparison import read_settings

SMALL = "ViT-S-32-alt"


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> SimpleNamespace:
    """A checkpoint, a prompts file and a data set for one small model."""
    folder = tmp_path_factory.mktemp("files")
    model = build()
    save_checkpoint(model, folder / "model.ckpt")
    prompts = model.save_weights(folder / "prompts.safetensors")
    data = data_trees.mvtec_ad(folder / "data", normal=2, anomalous=2)
    return SimpleNamespace(checkpoint=folder / "model.ckpt", prompts=prompts, data=data, model=model)


def same_prompts(model: GenCLIP, files: SimpleNamespace) -> bool:
    return torch.equal(model.model.prompts.normal, files.model.model.prompts.normal)


PLACES = {
    "alone": lambda _, payload: payload,
    "beside the rest": lambda checkpoint, payload: {**checkpoint, "extra": payload},
    "as a hyperparameter": lambda checkpoint, payload: {**checkpoint, "hyper_parameters": {"class_name": payload}},
    "among the tensors": lambda checkpoint, payload: {**checkpoint, "state_dict": {"model.prompts.normal": payload}},
}


@pytest.mark.parametrize("place", PLACES)
def test_payload_in_a_checkpoint_is_refused_by_everything_that_reads_one(files, tmp_path, place):
    trace, hostile = tmp_path / "ran", tmp_path / "hostile.ckpt"
    torch.save(PLACES[place](torch.load(files.checkpoint, weights_only=True), Payload(trace)), hostile)
    readers = [
        partial(GenCLIP.load_from_checkpoint, hostile),
        partial(Inferencer, hostile),
        partial(load_clip, backbone_spec(SMALL), str(hostile), (64, 64)),
        partial(GenCLIP, weights=hostile),
    ]
    if place == "alone":  # the engine reads a checkpoint as a whole, wherever the payload is
        calls = engine(tmp_path).test, engine(tmp_path, max_epochs=1).fit
        readers += [partial(call, files.model, datamodule=files.data, ckpt_path=hostile) for call in calls]
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
        for reader in (partial(load_clip, backbone_spec(SMALL), str(path), (64, 64)), partial(GenCLIP, weights=path)):
            with pytest.raises(ValueError, match=path.stem):
                reader()
    assert not trace.exists()


def test_prompts_with_flipped_bits_are_refused_by_name_or_the_same(files, tmp_path):
    """A flip may hit a note for the reader; whatever else it hits is noticed."""
    header, tensors = 8 + int.from_bytes(files.prompts.read_bytes()[:8], "little"), load_weights(files.prompts).tensors
    for seed in range(26):
        part = slice(0, header) if seed < 20 else slice(-(2**16), None)
        path = with_flipped_bits(files.prompts, tmp_path / "flipped.safetensors", seed, part)
        try:
            loaded = load_weights(path)
        except ValueError as error:
            assert "flipped.safetensors" in str(error)  # noqa: PT017  # either is right
        else:
            assert seed < 20
            assert all(torch.equal(tensor, tensors[name]) for name, tensor in loaded.tensors.items())


@pytest.mark.parametrize(
    "change",
    [
        lambda m: [m],
        lambda _: "x",
        lambda m: {**m, "signature": 5},
        lambda m: {**m, "signature": {}},
        lambda m: {**m, "pretrained": 5},
        lambda m: {**m, "image_size": [64]},
        lambda m: {**m, "image_size": ["64", "64"]},
        lambda m: {**m, "image_size": 64},
        lambda m: {**m, "class_name": ["nut"]},
        lambda m: {**m, "tiles": 64},
        # A file must not say which weights are read, or from where.
        *(
            lambda m, path=path: {**m, "pretrained": path}
            for path in ("/etc/hostname", "../clip.pt", "folder/clip.pt", "..")
        ),
    ],
)
def test_prompts_with_another_description_are_refused_by_name(files, tmp_path, change):
    path = rewritten(files.prompts, tmp_path / "changed.safetensors", description=change)
    with pytest.raises(ValueError, match=r"changed\.safetensors"):
        GenCLIP(weights=path)


@pytest.mark.parametrize("backbone", ["local-dir:/etc", "hf-hub:org/model", "../../x"])
def test_prompts_do_not_name_backbones_elsewhere(files, tmp_path, backbone):
    change = lambda m: {**m, "signature": {**m["signature"], "backbone": backbone}}  # noqa: E731
    path = rewritten(files.prompts, tmp_path / "p.safetensors", description=change)
    with pytest.raises(ValueError, match=r"Backbone .*ViT-L-14-336"):
        GenCLIP(weights=path)


@pytest.mark.parametrize(
    ("name", "value"), [("threshold.image", torch.zeros(3)), ("threshold.pixel", torch.tensor(7.0))]
)
def test_prompts_with_numbers_out_of_range_are_refused_by_name(files, tmp_path, name, value):
    path = rewritten(files.prompts, tmp_path / "p.safetensors", tensors=lambda t: t.update({name: value}))
    with pytest.raises(ValueError, match=r"p\.safetensors.*between 0 and 1"):
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
        assert same_prompts(loaded, files)
        return
    with pytest.raises(ValueError, match=r"flipped\.ckpt is damaged or cut off"):
        GenCLIP.load_from_checkpoint(path)


@pytest.mark.parametrize("call", ["fit", "train", "validate", "test", "predict"])
def test_damage_outside_the_model_is_found_by_every_call_of_the_engine(files, tmp_path, call):
    """The optimiser's state, for one."""
    momentum = torch.rand(1000)
    checkpoint = {**torch.load(files.checkpoint, weights_only=True), "optimizer_states": [{"momentum": momentum}]}
    path = tmp_path / "damaged.ckpt"
    torch.save(checkpoint, path)
    content = bytearray(path.read_bytes())
    content[content.find(momentum.numpy().tobytes()) + 42] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged\.ckpt is damaged or cut off \(\w+/data/\d+\)"):
        getattr(engine(tmp_path, max_epochs=1), call)(files.model, datamodule=files.data, ckpt_path=path)


def test_checkpoint_that_is_none_is_refused_by_name(files, tmp_path):
    for content in (b"", b"no checkpoint", files.checkpoint.read_bytes()[:-500]):
        (tmp_path / "broken.ckpt").write_bytes(content)
        with pytest.raises(ValueError, match=r"broken\.ckpt is damaged or cut off"):
            GenCLIP.load_from_checkpoint(tmp_path / "broken.ckpt")


def _rewritten_checkpoint(source: Path, target: Path, change) -> Path:
    checkpoint = torch.load(source, weights_only=True)
    changed = change(checkpoint)
    torch.save(checkpoint if changed is None else changed, target)
    return target


def set_prompts(value):
    """Return a change of a checkpoint's normal prompts."""
    return lambda c: c["state_dict"].update({"model.prompts.normal": value})


STRANGERS = {
    "a tensor": lambda _: torch.zeros(3),
    "a list": lambda _: [1],
    "another model's": lambda c: c.pop("genclip") and None,
    "description is a number": lambda c: c.update(genclip=5),
    "description lacks a part": lambda c: c["genclip"].pop("trained_on") and None,
    "description has a tensor": lambda c: c["genclip"].update(trained_on=torch.zeros(1)),
    "no tensors": lambda c: c.update(state_dict=None),
    "a text among the tensors": set_prompts("text"),
    "a tensor without contents": set_prompts(torch.zeros(2).to("meta")),
    "nan": set_prompts(torch.full((4, 256), float("nan"))),
    "whole numbers": set_prompts(torch.zeros(4, 256).long()),
    "another shape": set_prompts(torch.zeros(3, 7)),
    "a tensor less": lambda c: c["state_dict"].popitem() and None,
}


@pytest.mark.parametrize("change", STRANGERS)
def test_checkpoint_of_something_else_is_refused_by_name_before_a_model_is_built(files, tmp_path, monkeypatch, change):
    path = _rewritten_checkpoint(files.checkpoint, tmp_path / "other.ckpt", STRANGERS[change])
    monkeypatch.setattr("anomalib_genclip.lightning_model.load_clip", lambda *_: pytest.fail("CLIP was loaded"))
    with pytest.raises(ValueError, match=r"The checkpoint .*other\.ckpt (was not written by GenCLIP|is damaged)"):
        GenCLIP.load_from_checkpoint(path)


def test_engine_refuses_the_checkpoint_of_something_else_by_name(files, tmp_path):
    path = _rewritten_checkpoint(files.checkpoint, tmp_path / "other.ckpt", STRANGERS["another model's"])
    with pytest.raises(ValueError, match=r"The checkpoint .*other\.ckpt was not written by GenCLIP"):
        engine(tmp_path).test(files.model, datamodule=files.data, ckpt_path=path)


@pytest.mark.parametrize(
    "settings",
    [
        {"_instantiator": "lightning.pytorch.cli.instantiate_module", "pre_processor": {"class_path": "evil.E"}},
        {"_instantiator": "evil.instantiate"},
        {"visualizer": {"class_path": "evil.E"}},
        {"class_name": [{"class_path": "evil.E"}]},
        {"tiles": {"class_path": "evil.E"}},
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
        with pytest.raises((ValueError, TypeError), match=r"could run code|class_name|tiles|Passed object should be"):
            GenCLIP.load_from_checkpoint(reader)
    assert not (tmp_path / "ran").exists()
    assert sys.modules.get("evil") is None


def test_prompts_do_not_bring_tensors_of_clip(files, tmp_path):
    bring = {"clip.model.visual.proj": torch.zeros_like(files.model.model.clip.model.visual.proj)}
    path = rewritten(files.prompts, tmp_path / "clip.safetensors", tensors=lambda t: t.update(bring))
    with pytest.raises(ValueError, match=r"clip\.safetensors, tensor 'clip\.model\.visual\.proj'.*the model none"):
        build(weights=path)


def test_checkpoint_does_not_choose_folders_and_prompts(files, tmp_path):
    here = {"weights": "/etc/hostname", "fine_tune": True, "k_shot": 1, "few_shot_source": "/etc"}
    here["training"] = {"feature_cache": str(tmp_path / "cache"), "epochs": 3}
    path = tmp_path / "model.ckpt"
    _rewritten_checkpoint(files.checkpoint, path, lambda c: c["hyper_parameters"].update(here))
    loaded = GenCLIP.load_from_checkpoint(path)
    assert (loaded.training_settings.feature_cache, loaded.training_settings.epochs) == (None, 3)
    assert loaded.hparams["few_shot_source"] is None
    assert same_prompts(loaded, files)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- a\n- b", "must be a mapping of settings"),
        (b"model: [", "not readable YAML"),
        (b"\xff\xfe\x00", "not readable YAML"),
        (b"model: !!python/object/apply:os.system ['exit 1']", "not readable YAML"),
    ],
)
def test_settings_file_is_refused_by_what_is_wrong(tmp_path, content, message):
    (tmp_path / "settings.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=rf"settings\.yaml .*{message}"):
        read_settings(tmp_path / "settings.yaml")
