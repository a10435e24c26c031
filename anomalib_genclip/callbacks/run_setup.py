# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Setup of a run: results folder, checkpoint I/O, number of epochs, validation."""

import logging
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from anomalib.engine.plugins import AnomalibCheckpointIO
from anomalib.utils.path import create_versioned_dir
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_info

from anomalib_genclip.clip.backbone import TINY
from anomalib_genclip.components.class_names import GENERIC, clean_class_name
from anomalib_genclip.persistence.checkpoint_io import GenCLIPCheckpointIO
from anomalib_genclip.utils.loaders import category_of
from anomalib_genclip.utils.logs import hide_notes_on_runs
from anomalib_genclip.utils.precision import bf16_is_fast

logger = logging.getLogger(__name__)

_LIGHTNING_DEFAULT_EPOCHS = 1000


class RunSetup(Callback):
    """Prepare trainer and results folder for GenCLIP; the first of the model's callbacks.

    Lightning's trainer keeps the callbacks of a model, and would call them for the next model of the same engine. When
    a run ends, this one removes them. The trainer also remembers how test metrics are logged, and refuses another way
    for the same name; it forgets that before and after a run of GenCLIP.

    Args:
        epochs (int): Epochs of a training run whose trainer has no limit.
    """

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self._undo = ExitStack()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Prepare a run.

        Raises:
            ValueError: If the model would be trained in pure float16.
        """
        hide_notes_on_runs()
        trainer.test_loop._results.clear()  # noqa: SLF001
        _share_results_folder(trainer)
        if trainer.is_global_zero:
            _version_results_folder(Path(trainer.default_root_dir))
        own_io = trainer.strategy.checkpoint_io
        if type(own_io) is AnomalibCheckpointIO:  # not one of the user's
            self._undo.callback(setattr, trainer.strategy, "checkpoint_io", own_io)
            trainer.strategy.checkpoint_io = GenCLIPCheckpointIO(own_io.extra_safe_globals)
        _warn_of_unused_class_names(trainer, pl_module)
        if _validates_nothing(trainer, pl_module):
            self._undo.callback(setattr, trainer, "limit_val_batches", trainer.limit_val_batches)
            trainer.limit_val_batches = 0
        if stage in {"test", "predict"}:
            _hint_at_bf16(trainer, pl_module)
        if stage != "fit":
            return
        if trainer.precision == "16-true":
            msg = (
                "precision='16-true' cannot train: Adam's small values underflow in float16. Choose '16-mixed', "
                "'bf16-mixed' or 'bf16-true'; testing and prediction work with '16-true'."
            )
            raise ValueError(msg)
        # Lightning's default of 1000 epochs means that the user gave no limit. anomalib's trainer_arguments would
        # override a limit that the user did give.
        if trainer.max_epochs == _LIGHTNING_DEFAULT_EPOCHS and trainer.max_steps == -1:
            trainer.fit_loop.max_epochs = self.epochs
        names = (getattr(trainer.datamodule, key, "") for key in ("name", "category"))
        pl_module.trained_on = " ".join(filter(None, names))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the trainer's settings, and remove the model's callbacks: Lightning adds them at the end."""
        del pl_module, stage
        first = trainer.callbacks.index(self)
        kept = [callback for callback in trainer.callbacks[first:] if isinstance(callback, Checkpoint)]
        trainer.callbacks = [*trainer.callbacks[:first], *kept]
        trainer.test_loop._results.clear()  # noqa: SLF001
        self._undo.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore the trainer's settings, and remove the model's callbacks."""
        del exception
        self.teardown(trainer, pl_module, "")


def _validates_nothing(trainer: Trainer, module: Any) -> bool:  # noqa: ANN401  # GenCLIP
    """Return whether a run has no validation images, or does not need the results of validation.

    anomalib validates a zero-shot model before each test to compute thresholds, and its datamodules fail there with
    ``val_split_mode="none"``, which leaves no validation images.
    """
    datamodule: Any = trainer.datamodule
    if hasattr(datamodule, "val_split_mode") and not hasattr(datamodule, "val_data"):
        return True
    keeps_thresholds = getattr(module.post_processor, "keep_thresholds", False)
    return module.is_zero_shot and keeps_thresholds and not getattr(module.evaluator, "val_metrics", None)


def _share_results_folder(trainer: Trainer) -> None:
    """Link "latest" to the results folder of the first process.

    anomalib creates a results folder for each process of a distributed run and links "latest" to the last one.
    """
    if trainer.world_size == 1:
        return
    own = Path(trainer.default_root_dir)
    first = Path(trainer.strategy.broadcast(str(own)))
    if own != first:
        with suppress(OSError):  # it is not empty, or does not exist
            own.rmdir()
    latest = first.parent / "latest"
    if trainer.is_global_zero and latest.is_symlink() and latest.resolve() != first.resolve():
        latest.unlink()
        latest.symlink_to(first, target_is_directory=True)


def _version_results_folder(folder: Path) -> None:
    """Replace a plain results folder "latest" by a link to a versioned folder, as anomalib's training does.

    Without an earlier training run, anomalib tests and predicts into a plain folder of that name, which a later
    training run cannot replace by its link.
    """
    if folder.name != "latest" or folder.is_symlink():
        return
    aside = folder.with_name(f".{uuid4().hex}")
    if folder.is_dir():
        folder.rename(aside)
    versioned = create_versioned_dir(folder.parent)
    if aside.is_dir():
        versioned.rmdir()
        aside.rename(versioned)


def _hint_at_bf16(trainer: Trainer, module: Any) -> None:  # noqa: ANN401  # GenCLIP
    """Say that this device computes faster in bfloat16, where that would be noticed."""
    worthwhile = trainer.precision == "32-true" and module.model.spec.name != TINY
    if worthwhile and bf16_is_fast(trainer.strategy.root_device):
        rank_zero_info(
            "This device is faster in bfloat16, which changes scores slightly: --trainer.precision bf16-mixed."
        )


def _warn_of_unused_class_names(trainer: Trainer, module: Any) -> None:  # noqa: ANN401  # GenCLIP
    """Warn if ``class_name`` maps categories, and none of the dataset's is among them."""
    if trainer.datamodule is None or not module.names.of_category:
        return
    categories = {category_of(trainer.datamodule) or GENERIC}
    for key in ("train_data", "val_data", "test_data"):
        categories.update(getattr(getattr(trainer.datamodule, key, None), "samples", {}).get("category", []))
    if not module.names.of_category.keys() & map(clean_class_name, categories):
        logger.warning(
            "class_name has none of the categories of the dataset (%s): %s.",
            ", ".join(sorted(categories)),
            ", ".join(module.names.of_category),
        )
