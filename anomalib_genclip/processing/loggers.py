# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Result images for the experiment loggers of Lightning and anomalib."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lightning.pytorch.loggers import Logger
    from PIL import Image


def log_picture(loggers: Iterable[Logger], name: str, picture: Image.Image, step: int) -> None:
    """Give a picture to every TensorBoard, W&B and MLflow logger; others are left alone (ours).

    anomalib's loggers derive from these classes. Their own ``add_image`` has another meaning in each and, for W&B,
    shows nothing before a call that Lightning does not make.
    """
    pixels = np.asarray(picture)
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, pixels, step, dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            logger.log_image(name, [picture], step=step)
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_image(logger.run_id, pixels, f"{name}.png")
