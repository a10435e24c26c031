# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Pictures for experiment loggers, whose clients are stand-ins: nothing is installed or sent."""

from unittest.mock import Mock

import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from PIL import Image

from anomalib_genclip.processing.visualizer import log_picture

PICTURE = Image.new("RGB", (6, 4), "red")


@pytest.mark.parametrize(
    ("kind", "method"),
    [(TensorBoardLogger, "experiment.add_image"), (WandbLogger, "log_image"), (MLFlowLogger, "experiment.log_image")],
)
def test_each_logger_gets_the_picture_once(kind, method):
    logger = Mock(spec=kind, experiment=Mock(), run_id="run")
    log_picture([logger], "test/bottle/0", PICTURE, 3)
    target = logger
    for part in method.split("."):
        target = getattr(target, part)
    target.assert_called_once()
    args, named = target.call_args
    if kind is WandbLogger:
        assert (args, named) == (("test/bottle/0", [PICTURE]), {"step": 3})
        return
    pixels = args[1]
    assert pixels.shape == (4, 6, 3)
    assert (pixels == np.asarray(PICTURE)).all()
    if kind is TensorBoardLogger:
        assert (args[0], args[2], named) == ("test/bottle/0", 3, {"dataformats": "HWC"})
    else:
        assert (args[0], args[2], named) == ("run", "test/bottle/0.png", {})


def test_other_loggers_are_left_alone(tmp_path):
    log_picture([CSVLogger(tmp_path)], "test/0", PICTURE, 0)
    assert not list(tmp_path.iterdir())
