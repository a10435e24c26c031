# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Random numbers follow from the seed of a run and its epoch; whole trainings are in ``tests/robustness``."""

import random
from types import SimpleNamespace

import numpy as np
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
