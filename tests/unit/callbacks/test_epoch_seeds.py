# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Random numbers follow from the seed of a run and its epoch; whole trainings are in ``tests/robustness``."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from anomalib_genclip.callbacks.epoch_seeds import EpochSeeds


def trainer(epoch: int = 0, rank: int = 0, *, is_last_batch: bool = True) -> SimpleNamespace:
    return SimpleNamespace(current_epoch=epoch, global_rank=rank, is_last_batch=is_last_batch)


def drawn() -> tuple[float, float, float]:
    return random.random(), np.random.rand(), torch.rand(()).item()  # noqa: NPY002, S311


def run_epochs(callback: EpochSeeds, epochs: range, rank: int = 0) -> list[tuple[float, float, float]]:
    numbers = []
    callback.on_fit_start(trainer(rank=rank), None)
    for epoch in epochs:
        callback.on_train_epoch_start(trainer(epoch, rank), None)
        numbers.append(drawn())
        drawn()  # the rest of the epoch
        callback.on_train_batch_end(trainer(epoch))
        callback.on_train_epoch_end(trainer(epoch), None)
    return numbers


def test_every_epoch_has_its_own_numbers_and_every_run_the_same():
    first = run_epochs(EpochSeeds(3), range(4))
    torch.rand(7)
    assert run_epochs(EpochSeeds(3), range(4)) == first
    assert len(set(first)) == 4
    assert not set(run_epochs(EpochSeeds(4), range(4))) & set(first)


def test_processes_draw_different_numbers():
    assert not set(run_epochs(EpochSeeds(3), range(2))) & set(run_epochs(EpochSeeds(3), range(2), rank=1))


@pytest.mark.parametrize("done", [1, 3])
def test_a_run_goes_on_with_the_numbers_of_the_next_epoch(done):
    whole, stopped, resumed = EpochSeeds(3), EpochSeeds(3), EpochSeeds()
    expected = run_epochs(whole, range(4))
    run_epochs(stopped, range(done))
    resumed.load_state_dict(stopped.state_dict())
    assert resumed.state_dict() == {"seed": 3, "epoch": done}
    assert run_epochs(resumed, range(done, 4)) == expected[done:]


def test_seed_follows_from_the_global_one_unless_it_is_given():
    seeds = []
    for number, given in ((1, None), (1, None), (2, None), (2, 0)):
        torch.manual_seed(number)
        callback = EpochSeeds(given)
        callback.on_fit_start(trainer(), None)
        seeds.append(callback.seed)
    assert seeds[0] == seeds[1] != seeds[2]
    assert seeds[3] == 0
