# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Tiles of large images: the model's settings, or those of anomalib's ``TilerConfigurationCallback``."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from anomalib_genclip.processing.pre_processor import AntialiasedPreProcessor
from anomalib_genclip.settings import TileSettings


class TileSetup(Callback):
    """Prepare a model for tiles, before each run too: anomalib's callback sets the tiler when a run starts.

    Args:
        settings (TileSettings | None): The model's settings, ``None`` without tiles.
    """

    def __init__(self, settings: TileSettings | None) -> None:
        self.settings = settings

    def apply(self, module: Any) -> None:  # noqa: ANN401  # GenCLIP
        """Set the tiler, and let images reach the model at their own or the working size."""
        if self.settings is not None:
            module.model.tiler = self.settings.tiler()
            module.model.tile_batch_size = self.settings.batch_size
            self._keep_size(module)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Prepare for a tiler that was set since the model was built.

        Raises:
            ValueError: If the tiler has settings that do not apply.
        """
        tiler: Any = getattr(pl_module.model, "tiler", None)
        if tiler is not None and tiler.remove_border_count:
            msg = (
                f"remove_border_count={tiler.remove_border_count} is of no use here: the weight of a tile falls to "
                "zero towards its border anyway. Leave it out."
            )
            raise ValueError(msg)
        if self._keep_size(pl_module) and (datamodule := getattr(trainer, "datamodule", None)) is not None:
            datamodule.setup(stage)  # it has taken the resize of the pre-processor before

    def _keep_size(self, module: Any) -> bool:  # noqa: ANN401  # GenCLIP
        """Stop the pre-processor from resizing images to the model's size; return whether it did so before."""
        pre_processor = module.pre_processor
        if module.model.tiler is None or not isinstance(pre_processor, AntialiasedPreProcessor):
            return False
        if pre_processor.keeps_size:
            return False
        pre_processor.keep_size(self.settings and self.settings.working_size, module.model.image_size)
        return True
