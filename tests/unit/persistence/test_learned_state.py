# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""What is learned, on its way to checkpoints and prompts files and back."""

import pytest
import torch
from helpers.runs import build, engine, learned

from anomalib_genclip import GenCLIP


def test_checkpoint_holds_no_clip_and_loads_with_weights_only(trained):
    checkpoint = torch.load(trained.checkpoint, weights_only=True)
    assert not [key for key in checkpoint["state_dict"] if ".clip." in key]
    assert "model.prompts.query" in checkpoint["state_dict"]
    loaded = GenCLIP.load_from_checkpoint(trained.checkpoint)
    expected = learned(trained.model)
    assert all(torch.equal(value, expected[key]) for key, value in learned(loaded).items())
    assert loaded.post_processor.raw_thresholds() == trained.model.post_processor.raw_thresholds()


@pytest.mark.parametrize("call", ["fit", "validate", "test", "predict"])
def test_every_call_takes_the_checkpoint(trained, tmp_path, call):
    model = build(epochs=2)
    run = engine(tmp_path, limit_train_batches=1)
    getattr(run, call)(model=model, datamodule=trained.data, ckpt_path=trained.checkpoint)
    if call == "fit":
        assert run.trainer.global_step == torch.load(trained.checkpoint, weights_only=True)["global_step"] + 1
        assert run.trainer.current_epoch == 2
    else:
        expected = learned(trained.model)
        assert all(torch.equal(value, expected[key]) for key, value in learned(model).items())


def test_missing_learned_tensor_is_an_error():
    model = build()
    state = model.state_dict()
    model.load_state_dict({key: value for key, value in state.items() if ".clip." not in key})
    with pytest.raises(RuntimeError, match=r"model\.prompts\.query"):
        model.load_state_dict({key: value for key, value in state.items() if key != "model.prompts.query"})
    with pytest.raises(RuntimeError, match="stray"):
        model.load_state_dict({**state, "stray": torch.zeros(1)})


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"backbone": "ViT-S-16-alt"}, ["'ViT-S-32-alt'", "'ViT-S-16-alt'"]),
        ({"layers": [6, 12]}, [r"\[3, 6, 9, 12\]", r"\[6, 12\]"]),
        ({"patch_attention": "value"}, ["patch_attention 'clip'", "this model has 'value'"]),
        ({"state_length": 2}, ["state_length 4", "this model has 2"]),
        ({"backbone": "ViT-S-32-alt-quickgelu"}, ["'ViT-S-32-alt'", "'ViT-S-32-alt-quickgelu'"]),
    ],
)
def test_checkpoint_of_another_model_is_refused_by_name(trained, tmp_path, settings, named):
    with pytest.raises(ValueError, match=".*".join(named)):
        engine(tmp_path).test(model=build(**settings), datamodule=trained.data, ckpt_path=trained.checkpoint)


def test_foreign_checkpoint_is_refused():
    with pytest.raises(ValueError, match=r"The checkpoint .*backbone"):
        build().on_load_checkpoint({"state_dict": {}})


def test_prompts_know_that_their_clip_had_quickgelu(tmp_path):
    model = build(backbone="ViT-S-32-alt-quickgelu")
    model.save_weights(tmp_path / "prompts.safetensors")
    again = GenCLIP(weights=tmp_path / "prompts.safetensors", visualizer=False)
    assert again.model.fingerprint == model.model.fingerprint
    assert again.signature.backbone == "ViT-S-32-alt-quickgelu"
