# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Training that can be interrupted: random numbers that depend on the epoch alone, checkpoints that appear whole."""

import io
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anomalib.engine.plugins import AnomalibCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer

from .files import check_archive, is_file, why_unreadable, write_whole

_SEEDS = 2**31


class EpochSeeds(Callback):
    """Make an epoch's random numbers a function of the run's seed and the epoch.

    A run that goes on from the checkpoint of an epoch then sees the images in the same order, and draws the same
    numbers, as one that was never interrupted. The run's seed is drawn when training starts, so it follows from
    ``seed_everything``, and travels in the checkpoint.
    """

    def __init__(self) -> None:
        self.seed: int | None = None
        self.epoch = 0  # the one to go on with
        self.rank = 0
        self._seeded = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seed the first epoch: Lightning makes its iterator, which draws numbers, before that epoch starts."""
        del pl_module
        self.rank = trainer.global_rank  # processes see other images and draw other numbers
        if self.seed is None:
            self.seed = int(torch.randint(_SEEDS, ()))
        self._seed()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seed every other epoch."""
        del pl_module
        if not self._seeded:
            self.epoch = trainer.current_epoch
            self._seed()
        self._seeded = False

    def on_train_batch_end(self, trainer: Trainer, *args, **kwargs) -> None:
        """Count the epoch when its last step is done, before anything saves a checkpoint."""
        del args, kwargs
        if trainer.is_last_batch:
            self.epoch = trainer.current_epoch + 1

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the seeding: a resumed run first ends the epoch that its checkpoint was saved in."""
        del trainer, pl_module
        self._seeded = False

    def state_dict(self) -> dict[str, Any]:
        """Return seed and epoch for the checkpoint."""
        return {"seed": self.seed, "epoch": self.epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take seed and epoch from the checkpoint."""
        self.seed, self.epoch = state_dict["seed"], state_dict["epoch"]

    def _seed(self) -> None:
        generator = np.random.default_rng([self.seed or 0, self.epoch, self.rank])
        number = int(generator.integers(_SEEDS))
        random.seed(number)
        np.random.seed(number)  # noqa: NPY002  # augmentations draw from numpy's global generator
        torch.manual_seed(number)
        self._seeded = True


@contextmanager
def checked_checkpoint(path: str | Path) -> Iterator[None]:
    """Refuse a checkpoint that is damaged, or holds what could run code, by name.

    Args:
        path (str | Path): The checkpoint, to be read in the context. Folders and addresses are left to their readers.

    Raises:
        ValueError: If it is no whole file of tensors and plain data.
    """
    if is_file(path):
        check_archive(Path(path))
    try:
        yield
    except Exception as error:
        if type(error).__name__ != "UnpicklingError":  # the class is in pickle
            raise
        msg = f"{path} cannot be read as a checkpoint: {why_unreadable(error)}."
        raise ValueError(msg) from error


class WholeCheckpointIO(AnomalibCheckpointIO):
    """Write checkpoints whole or not at all, and refuse damaged ones by name.

    Lightning writes into the system's temporary folder and then moves the file. Where that folder is on another disk
    the move is a copy over the last good checkpoint, which a full disk or a killed process leaves in pieces; and
    Lightning says nothing if it was not allowed to write.
    """

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:  # noqa: ANN401
        """Read a checkpoint.

        Args:
            path (str | Path): The checkpoint.
            *args (Any): As in anomalib.
            **kwargs (Any): As in anomalib.

        Returns:
            dict[str, Any]: State of model and trainer.

        Raises:
            ValueError: If it is damaged, or holds what could run code; names the file.
        """
        with checked_checkpoint(path):
            return super().load_checkpoint(path, *args, **kwargs)

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:  # noqa: ANN401
        """Write a checkpoint.

        Args:
            checkpoint (dict[str, Any]): State of model and trainer.
            path (str | Path): Where to. Addresses such as ``s3://`` are left to Lightning.
            storage_options (Any): As in Lightning. Defaults to ``None``.

        Raises:
            OSError: If it cannot be written; names the file. What was there before stays.
        """
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        content = io.BytesIO()
        torch.save(checkpoint, content)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_whole(Path(path), content.getvalue())
