# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Setup of a run: results folder, checkpoint I/O, number of epochs, validation, tiles; and what a training leaves."""

import logging
from contextlib import ExitStack, suppress
from math import ceil
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
from anomalib_genclip.processing.pre_processor import AntialiasedPreProcessor
from anomalib_genclip.settings import TileSettings
from anomalib_genclip.utils.devices import bf16_is_fast
from anomalib_genclip.utils.loaders import category_of
from anomalib_genclip.utils.messages import counted, hide_notes_on_runs

logger = logging.getLogger(__name__)

_LIGHTNING_DEFAULT_EPOCHS = 1000
FEWEST_STEPS = 100  # 12 images, 2 steps an epoch: 1 to 15 epochs were worse than no training, 50 were better


class RunSetup(Callback):
    """Prepare trainer and results folder for GenCLIP; the first of the model's callbacks.

    Lightning's trainer keeps a model's callbacks and how metrics are logged for the next model; this one removes both.
    """

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self._undo = ExitStack()

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:  # noqa: ANN401  # GenCLIP
        """Prepare a run; refuse training in pure float16."""
        hide_notes_on_runs()
        _forget_metrics(trainer)
        _share_results_folder(trainer)
        if trainer.is_global_zero:
            _version_results_folder(Path(trainer.default_root_dir))
        own_io = trainer.strategy.checkpoint_io
        if type(own_io) is AnomalibCheckpointIO:  # not one of the user's
            self._set(trainer.strategy, "checkpoint_io", GenCLIPCheckpointIO(own_io.extra_safe_globals))
        _warn_of_unused_class_names(trainer, pl_module)
        if _validates_nothing(trainer, pl_module):
            self._set(trainer, "limit_val_batches", 0)
        if stage in {"test", "predict"}:
            _hint_at_bf16(trainer, pl_module)
            if note := pl_module.model.ignore_mask.note_on(getattr(pl_module.post_processor, "calibration", None)):
                logger.warning(note)
        if stage != "fit":
            return
        if trainer.precision == "16-true":
            msg = "precision='16-true' cannot train: Adam underflows. Give '16-mixed', 'bf16-mixed' or 'bf16-true'."
            raise ValueError(msg)
        self._set(pl_module.model.ignore_mask, "applies", value=False)
        # Lightning's default means that the user gave no limit. anomalib's trainer_arguments would override one.
        if trainer.max_epochs == _LIGHTNING_DEFAULT_EPOCHS and trainer.max_steps == -1:
            trainer.fit_loop.max_epochs = self.epochs

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the training data, and warn if new prompts get so few steps that they can be worse than none."""
        steps = trainer.estimated_stepping_batches
        few = steps < FEWEST_STEPS and trainer.max_steps == -1
        if few and not pl_module.trained_on and trainer.is_global_zero:
            text = "Only %s in %s: fewer than %d can make prompts worse than untrained ones: --trainer.max_epochs %d."
            epochs = ceil(FEWEST_STEPS * trainer.max_epochs / steps)
            logger.warning(text, counted(steps, "step"), counted(trainer.max_epochs, "epoch"), FEWEST_STEPS, epochs)
        names = (getattr(trainer.datamodule, key, "") for key in ("name", "category"))
        pl_module.trained_on = " ".join(filter(None, names))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Return to the best checkpoint, if a callback monitors a metric, and write a prompts file beside them."""
        written = [own for own in trainer.checkpoint_callbacks if getattr(own, "best_model_path", "")]
        if best := next((own.best_model_path for own in written if own.monitor), None):
            pl_module.load_state_dict(trainer.strategy.checkpoint_io.load_checkpoint(best, "cpu")["state_dict"])
        if written:
            path = pl_module.save_weights(Path(trainer.default_root_dir) / "weights" / "prompts.safetensors")
            rank_zero_info(f"Prompts file: {path}")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the trainer's settings, and remove the model's callbacks: Lightning adds them at the end."""
        first = trainer.callbacks.index(self)
        kept = [callback for callback in trainer.callbacks[first:] if isinstance(callback, Checkpoint)]
        trainer.callbacks = [*trainer.callbacks[:first], *kept]
        _forget_metrics(trainer)
        self._undo.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore the trainer's settings, and remove the model's callbacks."""
        self.teardown(trainer, pl_module, "")

    def _set(self, owner: object, name: str, value: object) -> None:
        """Set an attribute until the run ends."""
        self._undo.callback(setattr, owner, name, getattr(owner, name))
        setattr(owner, name, value)


class TileSetup(Callback):
    """Prepare a model for tiles: before each run too, because ``TilerConfigurationCallback`` sets them then."""

    def __init__(self, settings: TileSettings | None) -> None:
        self.settings = settings

    def apply(self, module: Any) -> None:  # noqa: ANN401  # GenCLIP
        """Set the tiler, and let images reach the model at their own or the working size."""
        if self.settings is not None:
            module.model.tiler = self.settings.tiler()
            module.model.tile_batch_size = self.settings.batch_size
            self._keep_size(module)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Prepare for a tiler that was set since the model was built; refuse settings that do not apply."""
        tiler: Any = getattr(pl_module.model, "tiler", None)
        if tiler is not None and tiler.remove_border_count:
            msg = f"remove_border_count={tiler.remove_border_count}: tiles fade towards their borders. Leave it out."
            raise ValueError(msg)
        if self._keep_size(pl_module) and (datamodule := getattr(trainer, "datamodule", None)) is not None:
            datamodule.setup(stage)  # it has taken the resize of the pre-processor before

    def _keep_size(self, module: Any) -> bool:  # noqa: ANN401  # GenCLIP
        """Stop the pre-processor from resizing images to the model's size; return whether it did so before."""
        own, tiler = module.pre_processor, module.model.tiler
        resizes = tiler is not None and isinstance(own, AntialiasedPreProcessor) and not own.keeps_size
        if resizes:
            own.keep_size(self.settings and self.settings.working_size, module.model.image_size)
        return resizes


def _forget_metrics(trainer: Trainer) -> None:
    """Let the next run log metrics of the same names in another way."""
    for loop in (trainer.test_loop, trainer.fit_loop.epoch_loop.val_loop):
        loop._results.clear()  # noqa: SLF001


def _validates_nothing(trainer: Trainer, module: Any) -> bool:  # noqa: ANN401  # GenCLIP
    """Return whether a run cannot or need not validate, as anomalib does with a zero-shot model before each test."""
    datamodule: Any = trainer.datamodule
    if hasattr(datamodule, "val_split_mode") and not hasattr(datamodule, "val_data"):
        return True
    keeps_thresholds = getattr(module.post_processor, "keep_thresholds", False)
    return module.is_zero_shot and keeps_thresholds and not getattr(module.evaluator, "val_metrics", None)


def _share_results_folder(trainer: Trainer) -> None:
    """Link "latest" to the results folder of the first process; anomalib creates one each, and links the last one."""
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
    """Replace a plain folder "latest", which a later training could not replace, by a link to a versioned folder."""
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
        rank_zero_info("bf16 is faster here and changes scores slightly: --trainer.precision bf16-mixed.")


def _warn_of_unused_class_names(trainer: Trainer, module: Any) -> None:  # noqa: ANN401  # GenCLIP
    """Warn if ``class_name`` maps categories, and none of the dataset's is among them."""
    if trainer.datamodule is None or not module.names.of_category:
        return
    categories = {category_of(trainer.datamodule) or GENERIC}
    for key in ("train_data", "val_data", "test_data"):
        categories.update(getattr(getattr(trainer.datamodule, key, None), "samples", {}).get("category", []))
    if not module.names.of_category.keys() & map(clean_class_name, categories):
        text = "class_name has none of the categories of the dataset (%s): %s."
        logger.warning(text, ", ".join(sorted(categories)), ", ".join(module.names.of_category))
