# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Reproducible resuming: random numbers that depend on the run's seed and the epoch only."""

import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

_SEEDS = 2**31


class EpochSeeds(Callback):
    """Seed every epoch from the run's seed and the epoch's number.

    A run that resumes from the checkpoint of an epoch then draws the same random numbers, the order of the images
    included, as an uninterrupted run. The run's seed is saved in the checkpoint; without one, it is drawn when training
    starts, so that it follows from ``seed_everything``.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed
        self.epoch = 0  # the next one to train
        self._seeded = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seed the first epoch; Lightning creates its iterator, which draws numbers, before that epoch starts."""
        if self.seed is None:
            self.seed = int(torch.randint(_SEEDS, ()))
        self._seed_epoch(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seed all other epochs."""
        if not self._seeded:
            self.epoch = trainer.current_epoch
            self._seed_epoch(trainer)
        self._seeded = False

    def on_train_batch_end(self, trainer: Trainer, *args, **kwargs) -> None:
        """Advance the epoch after its last step, before a checkpoint is saved."""
        if trainer.is_last_batch:
            self.epoch = trainer.current_epoch + 1

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reset the flag: a resumed run first ends the epoch in which its checkpoint was saved."""
        self._seeded = False

    def state_dict(self) -> dict[str, Any]:
        """Describe the state for a checkpoint."""
        return {"seed": self.seed, "epoch": self.epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore seed and epoch from the checkpoint."""
        self.seed, self.epoch = state_dict["seed"], state_dict["epoch"]

    def _seed_epoch(self, trainer: Trainer) -> None:
        """Seed all generators; each process draws its own numbers."""
        number = int(np.random.default_rng([self.seed or 0, self.epoch, trainer.global_rank]).integers(_SEEDS))
        random.seed(number)
        np.random.seed(number)  # noqa: NPY002  # augmentations may use NumPy's global generator
        torch.manual_seed(number)
        self._seeded = True
