# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Log messages of other packages."""

import subprocess
import sys

from helpers.data_trees import write_anomalous

PROGRAM = """
import sys, torch
from anomalib_genclip.utils.messages import quiet_screen
quiet_screen()
from anomalib.data import Folder
from anomalib.engine import Engine
from anomalib_genclip import GenCLIP
from lightning.pytorch.utilities import rank_zero_warn
data = Folder("x", root=sys.argv[1], normal_dir="images", train_batch_size=2, num_workers=0, val_split_mode="none",
              test_split_mode="none")
model = GenCLIP(backbone="tiny", training={"anomaly_source": "synthetic"})
Engine(max_epochs=1, default_root_dir=sys.argv[1] + "/results", accelerator="cpu").fit(model=model, datamodule=data)
rank_zero_warn("shown")
"""


def test_notes_that_nobody_can_act_on_are_hidden_and_others_are_not(tmp_path):
    for number in range(2):
        write_anomalous(tmp_path / "images" / f"{number}.png", seed=number)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr
    for note in ("FutureWarning", "eval mode", "no logger", "LeafSpec", "Tip", "GPU available"):
        assert note not in done.stderr, done.stderr
    assert "shown" in done.stderr
