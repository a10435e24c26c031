# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Log messages of other packages."""

import logging
import subprocess
import sys

import pytest
from helpers.data_trees import write_anomalous

from anomalib_genclip.utils.messages import quiet, summarize

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


@pytest.mark.parametrize("level", [logging.NOTSET, logging.INFO])
def test_warnings_are_suppressed_until_the_end_even_of_an_error(caplog, level):
    logger = logging.getLogger("other.package")
    logger.setLevel(level)
    with pytest.raises(KeyError), quiet("other"):  # noqa: PT012
        logging.getLogger("other.client").warning("retrying")
        raise KeyError
    logging.getLogger("other.client").warning("after")
    assert caplog.messages == ["after"]
    with quiet("other.package"):
        logger.warning("retrying")
    assert logger.level == level


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


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([], ""),
        (["a"], "a"),
        (iter(range(5)), "0, 1, 2, 3, 4"),
        (range(6), "0, 1, 2, 3, 4 and 1 more"),
        ({"a": 1} | {str(i): i for i in range(1000)}, "a, 0, 1, 2, 3 and 996 more"),
    ],
)
def test_a_few_values_are_shown_and_the_others_counted(values, text):
    assert summarize(values) == text
