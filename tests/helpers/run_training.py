# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Train in a process of its own, which stops itself at a given step: run by test_interruption.py.

python -m helpers.run_training '{"root": "data", "out": "results", "stop": 7}'
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from lightning.pytorch import Callback, seed_everything

from anomalib_genclip import CrossDataset, GenCLIP
from helpers import data_trees
from helpers.runs import engine


class StopAt(Callback):
    """Stop in the middle of a step."""

    def __init__(self, step: int, how: str) -> None:
        self.step = step
        self.how = how

    def on_before_zero_grad(self, trainer, *args) -> None:
        """Send this process a signal, or raise an error."""
        del args
        if trainer.global_step != self.step:
            return
        if self.how == "error":
            msg = "stopped"
            raise RuntimeError(msg)
        os.kill(os.getpid(), signal.Signals[self.how])


def train(
    root: Path,
    out: str,
    data: str = "labels",
    stop: int | None = None,
    how: str = "SIGKILL",
    ckpt: str | None = None,
    workers: int = 0,
    seed: int = 5,
    **limits: float,
) -> dict[str, torch.Tensor]:
    """Train for three epochs of five or six steps and return what was learned."""
    seed_everything(seed)
    if data == "labels":
        source = data_trees.mvtec_ad(root / "source", ("cable",), normal=6, anomalous=6)
        target = data_trees.mvtec_ad(root / "target", ("bottle",), normal=2, anomalous=2)
        datamodule = CrossDataset(source, target, train_batch_size=2, eval_batch_size=4, num_workers=workers)
    else:
        datamodule = data_trees.mvtec_ad(root / "one_class", ("bottle",), normal=12, anomalous=2)
        datamodule.train_batch_size, datamodule.num_workers = 2, workers
    model = GenCLIP(backbone="tiny", image_size=32, visualizer=False)
    if ckpt:
        torch.rand(7)  # a run that goes on need not have drawn the same numbers before
    callbacks = [] if stop is None else [StopAt(stop, how)]
    run = engine(root / out, deterministic=True, callbacks=callbacks, **{"max_epochs": 3, **limits})
    run.fit(model, datamodule=datamodule, ckpt_path=ckpt)
    model.save_weights(root / out / "prompts.safetensors")
    return {key: value for key, value in model.state_dict().items() if not key.startswith("model.clip.")}


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job of a shell's background ignores it
    run = json.loads(sys.argv[1])
    train(Path(run.pop("root")), **run)
