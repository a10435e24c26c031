# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Precision by what a device can do."""

import pytest
import torch

from anomalib_genclip.utils.precision import bf16_is_fast, choose_precision

ASKED = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
CPU = torch.device("cpu")


def _processor(monkeypatch, *abilities):
    for name in ASKED:
        monkeypatch.setattr(torch.cpu, name, lambda name=name: name in abilities)


@pytest.mark.parametrize("ability", ASKED)
def test_auto_takes_bf16_where_the_processor_has_it(monkeypatch, ability):
    _processor(monkeypatch, ability)
    assert choose_precision("auto", CPU) == "bf16"


def test_auto_takes_float32_elsewhere(monkeypatch):
    _processor(monkeypatch)
    assert choose_precision("auto", CPU) == "float32"
    assert not bf16_is_fast(torch.device("mps"))


def test_torch_that_cannot_be_asked_means_float32(monkeypatch):
    for name in ASKED:
        monkeypatch.delattr(torch.cpu, name)
    assert choose_precision("auto", CPU) == "float32"


@pytest.mark.parametrize("ability", [True, False])
def test_gpus_are_asked_for_bf16_of_their_own(monkeypatch, ability):
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: ability and not including_emulation
    )
    assert bf16_is_fast(torch.device("cuda")) == ability


@pytest.mark.parametrize("abilities", [(), ASKED])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_what_was_asked_for_is_taken_everywhere(monkeypatch, precision, abilities):
    _processor(monkeypatch, *abilities)
    assert choose_precision(precision, CPU) == precision
