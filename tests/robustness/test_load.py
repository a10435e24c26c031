# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""A folder of ten thousand images: none is skipped, and memory does not grow."""

import os
from pathlib import Path

import numpy as np
import pytest
from helpers.runs import engine
from lightning.pytorch import Callback
from PIL import Image

from anomalib_genclip import GenCLIP
from anomalib_genclip.processing.visualizer import CategoryVisualizer

IMAGES = 10_000
WARM = 1_000
STATM = Path("/proc/self/statm")
ALLOWED = 64 * 2**20  # bytes: the allocator's breathing, less than a hundredth of what 9,000 kept images would take

SIZES = [(1, 1), (17, 400), (64, 64), (100, 37), (160, 120), (320, 240), (333, 500)]


class Watch(Callback):
    """Count images, and write down the memory of this process at every thousandth."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.memory: dict[int, int] = {}

    def on_predict_batch_end(self, trainer, pl_module, outputs, batch, *args) -> None:
        """Take note."""
        del trainer, pl_module, outputs, args
        assert batch.pred_score.isfinite().all()
        self.paths += batch.image_path
        if len(self.paths) % WARM == 0:
            self.memory[len(self.paths)] = int(STATM.read_text(encoding="ascii").split()[1]) * os.sysconf(
                "SC_PAGE_SIZE"
            )


def write_folder(folder: Path) -> set[str]:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        path = folder / f"{number:05}.png"
        if number < len(SIZES):
            Image.fromarray(rng.integers(0, 256, (*SIZES[number], 3), dtype=np.uint8)).save(path)
        else:
            os.link(folder / f"{number % len(SIZES):05}.png", path)
    return {str(path) for path in folder.iterdir()}


@pytest.mark.slow
@pytest.mark.skipif(not STATM.exists(), reason="memory is read as Linux tells it")
def test_memory_does_not_grow_and_no_image_is_skipped(tmp_path):
    files = write_folder(tmp_path / "images")
    assert len(files) == IMAGES
    watch = Watch()
    run = engine(tmp_path / "results", callbacks=[watch])
    model = GenCLIP(weights="tiny-demo", image_size=32, visualizer=CategoryVisualizer(field_size=(64, 64)))
    assert run.predict(model, data_path=tmp_path / "images", return_predictions=False) is None
    print("MB:", {count: memory // 2**20 for count, memory in watch.memory.items()})
    assert len(watch.paths) == IMAGES
    assert set(watch.paths) == files
    pictures = [path for path in Path(run.trainer.default_root_dir).rglob("*") if path.is_file()]
    assert len(pictures) == IMAGES
    assert max(watch.memory.values()) - watch.memory[WARM] < ALLOWED
