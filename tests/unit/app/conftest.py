# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Weights that are calibrated for a product and have references."""

import numpy as np
import pytest
from PIL import Image

from anomalib_genclip import GenCLIP, Inferencer
from anomalib_genclip.pipelines.calibration import calibrate


@pytest.fixture(scope="package")
def calibrated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibrated")
    for name, value in (("references", 0), ("normal", 20)):
        (folder / name).mkdir()
        Image.fromarray(np.full((112, 112, 3), value, np.uint8)).save(folder / name / "bolt.png")
    model = GenCLIP(weights="tiny-demo", class_name="bolt", k_shot=1, few_shot_source=str(folder / "references"))
    calibrate(Inferencer(model), str(folder / "normal"), 0.5)
    return str(model.save_weights(folder / "bolt.safetensors", references=True))
