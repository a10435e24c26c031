# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Checkpoints as files; hostile ones are in tests/robustness."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from anomalib.models import get_model
from helpers.runs import SETTINGS, build, save_checkpoint

from anomalib_genclip import GenCLIP


def test_checkpoint_is_read_from_an_open_file_and_with_the_types_of_a_subclass(trained, tmp_path):
    with Path(trained.checkpoint).open("rb") as file:
        assert torch.equal(GenCLIP.load_from_checkpoint(file).model.prompts.normal, trained.model.model.prompts.normal)

    class Own(GenCLIP):
        def __init__(self, rest=None, **settings):
            super().__init__(**settings)
            self.rest = rest

        @classmethod
        def checkpoint_safe_globals(cls):
            return (timedelta,)  # not an enum: some patch releases of Python pickle those through getattr

    checkpoint = torch.load(trained.checkpoint, weights_only=True)
    checkpoint["hyper_parameters"]["rest"] = timedelta(hours=1)
    torch.save(checkpoint, tmp_path / "own.ckpt")
    assert Own.load_from_checkpoint(tmp_path / "own.ckpt").rest == timedelta(hours=1)


def test_settings_of_numpy_become_plain_and_hidden_ones_stay_out(tmp_path):
    training = {"learning_rate": np.float32(0.5), "epochs": np.int64(3), "query_only_prob": np.float64(0.5)}
    model = build(training=training)
    model.hparams["_instantiator"] = "lightning.pytorch.cli.instantiate_module"  # as LightningCLI does
    save_checkpoint(model, tmp_path / "model.ckpt")
    again = GenCLIP.load_from_checkpoint(tmp_path / "model.ckpt")
    assert again.training_settings == model.training_settings
    assert again.training_settings.epochs == 3


def test_checkpoint_of_a_model_by_get_model_loads(tmp_path):
    """It gives mappings and lists of OmegaConf."""
    groups = {"training": {"learning_rate": 0.5}, "tiles": {"size": [64, 48]}, "class_name": {"01": "metal_nut"}}
    model = get_model({"class_path": "GenCLIP", "init_args": {**SETTINGS, "layers": [6, 12], **groups}})
    save_checkpoint(model, tmp_path / "model.ckpt")
    again = GenCLIP.load_from_checkpoint(tmp_path / "model.ckpt")
    assert again.hparams == model.hparams
    assert again.names.name_of("01") == "metal nut"
    assert again.training_settings.learning_rate == 0.5
    assert (again.model.layers, again.hparams["tiles"]["size"]) == ([6, 12], [64, 48])
