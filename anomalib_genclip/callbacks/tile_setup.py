# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Tiles of large images: the model's settings, or those of anomalib's ``TilerConfigurationCallback``."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from anomalib_genclip.components.tiles import TrainingTiles
from anomalib_genclip.model_settings import TileSettings
from anomalib_genclip.processing.pre_processor import AntialiasedPreProcessor


class TileSetup(Callback):
    """Prepare a model for tiles, before each run too: anomalib's callback sets the tiler when a run starts.

    Args:
        settings (TileSettings): The model's settings.
    """

    def __init__(self, settings: TileSettings) -> None:
        self.settings = settings

    def apply(self, module: Any) -> None:  # noqa: ANN401  # GenCLIP
        """Set the tiler, and let images reach the model at their own or the working size.

        Args:
            module (GenCLIP): The model, just built.
        """
        module.model.tiler = self.settings.tiler()
        module.model.tile_batch_size = self.settings.tile_batch_size
        self._keep_size(module)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Prepare for a tiler that was set since the model was built.

        Raises:
            ValueError: If the tiler has settings that do not apply, or the run needs tiles and has none.
        """
        tiler: Any = pl_module.model.tiler
        if tiler is None and self.settings.tile_training and stage == "fit":
            msg = "tile_training=True needs tiles: give tile_size."
            raise ValueError(msg)
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
        tiler, pre_processor, settings = module.model.tiler, module.pre_processor, self.settings
        if tiler is None or not isinstance(pre_processor, AntialiasedPreProcessor) or pre_processor.keeps_size:
            return False
        tile = (tiler.tile_size_h, tiler.tile_size_w) if settings.tile_training else None
        pre_processor.keep_size(settings.working_size, TrainingTiles(module.model.image_size, tile))
        return True
