# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Device and precision by what there is."""

import pytest
import torch

from anomalib_genclip.utils.devices import bf16_is_fast, choose_device, choose_precision

ASKED = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
CPU = torch.device("cpu")


@pytest.mark.parametrize("abilities", [(), ASKED, *((name,) for name in ASKED), None])
def test_auto_takes_bf16_where_the_processor_has_it(monkeypatch, abilities):
    for name in ASKED:
        if abilities is None:  # another version of torch
            monkeypatch.delattr(torch.cpu, name)
        else:
            monkeypatch.setattr(torch.cpu, name, lambda name=name: name in abilities)
    assert choose_precision("auto", CPU) == ("bf16" if abilities else "float32")
    for precision in ("float32", "bf16"):
        assert choose_precision(precision, CPU) == precision


@pytest.mark.parametrize("ability", [True, False])
def test_gpus_are_asked_for_bf16_of_their_own(monkeypatch, ability):
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: ability and not including_emulation
    )
    assert bf16_is_fast(torch.device("cuda")) == ability
    assert not bf16_is_fast(torch.device("mps"))


@pytest.mark.parametrize("gpu", [None, torch.device("cuda")])
def test_device_is_the_gpu_where_there_is_one(monkeypatch, gpu):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: check_available and gpu)
    assert choose_device("auto") == (gpu or CPU)
    assert choose_device("cpu") == choose_device(CPU) == CPU
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    if gpu is None:
        with pytest.raises(ValueError, match="torch finds no GPU on this machine"):
            choose_device("gpu")
    else:
        assert choose_device("gpu") == gpu
