# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Measure the effect of the feature cache: seconds per training epoch without and with it, in one run.

    python examples/benchmark_feature_cache.py --backbone ViT-B-16 --image_size 224
    python examples/benchmark_feature_cache.py --backbone ViT-L-14-336 --image_size 518 --images 16 --batch_size 8

Weights are random and images are noise, which does not change the time. An epoch includes its validation on the
held-out tenth. The first epoch of each run is the warm-up; results are medians over the others.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from anomalib.data import Folder
from anomalib.engine import Engine
from lightning.pytorch import Callback
from PIL import Image
from rich.console import Console
from rich.table import Table

from anomalib_genclip import CrossDataset, GenCLIP
from anomalib_genclip.settings import TrainingSettings


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="ViT-B-16")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--images", type=int, default=64, help="half of them normal, half anomalous")
    parser.add_argument("--side", type=int, default=1024, help="of the images on disk, in pixels")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--accelerator", default="auto")
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    return parser.parse_args()


class Stopwatch(Callback):
    """Measure the time of epochs, and the shares of vision tower and data loading."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []
        self.fill = 0.0
        self._started = time.perf_counter()

    def setup(self, trainer, pl_module, stage) -> None:  # noqa: ANN001
        """Wrap the vision tower."""
        del trainer, stage
        encode = pl_module.model.clip.encode_image

        def timed(images):  # noqa: ANN001, ANN202
            start = time.perf_counter()
            result = encode(images)
            self._add("tower", start)
            return result

        pl_module.model.clip.encode_image = timed
        self._started = time.perf_counter()

    def on_train_start(self, trainer, pl_module) -> None:  # noqa: ANN001
        """Record the time of filling the cache."""
        del trainer, pl_module
        self.fill = time.perf_counter() - self._started

    def on_train_epoch_start(self, trainer, pl_module) -> None:  # noqa: ANN001
        """Start an epoch."""
        del trainer, pl_module
        self.epochs.append({"epoch": 0.0, "tower": 0.0, "data": 0.0})
        self._epoch = self._idle = time.perf_counter()

    def on_train_batch_start(self, *args, **kwargs) -> None:
        """Record the time of loading a batch."""
        del args, kwargs
        self._add("data", self._idle)

    def on_train_batch_end(self, *args, **kwargs) -> None:
        """Start to wait for the next batch."""
        del args, kwargs
        self._idle = time.perf_counter()

    on_validation_batch_start = on_train_batch_start
    on_validation_batch_end = on_validation_start = on_train_batch_end

    def on_train_epoch_end(self, trainer, pl_module) -> None:  # noqa: ANN001
        """Record the time of the epoch, validation included."""
        del trainer, pl_module
        self._add("epoch", self._epoch)

    def _add(self, what: str, since: float) -> None:
        if self.epochs:
            self.epochs[-1][what] += time.perf_counter() - since

    def medians(self) -> dict[str, float]:
        """Compute medians over all epochs except the first."""
        return {key: statistics.median(epoch[key] for epoch in self.epochs[1:]) for key in self.epochs[0]}


def write_pictures(folder: Path, images: int, side: int) -> None:
    """Write noise images, half of them with a white square."""
    random = np.random.default_rng(0)
    for name in ("train", "good", "bad", "mask"):
        (folder / name).mkdir(parents=True)
    for index in range(images):
        pixels = random.integers(0, 160, (side // 8, side // 8, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
        mask = np.zeros((side, side), np.uint8)
        if index % 2:
            mask[side // 4 : side // 2, side // 4 : side // 2] = 255
            Image.fromarray(mask).save(folder / "mask" / f"{index:04}.png")
        picture = Image.fromarray(np.maximum(pixels, mask[..., None]))
        picture.save(folder / ("bad" if index % 2 else "good") / f"{index:04}.png")
    picture.save(folder / "train" / "0.png")


def measure(args: argparse.Namespace, folder: Path, cache: Path | None) -> Stopwatch:
    """Train and return the times."""
    source = Folder(
        name="noise",
        root=folder / "pictures",
        normal_dir="train",
        normal_test_dir="good",
        abnormal_dir="bad",
        mask_dir="mask",
    )
    data = CrossDataset(
        source=source,
        target=source,
        train_batch_size=args.batch_size,
        eval_batch_size=args.batch_size,
        num_workers=args.workers,
    )
    training = TrainingSettings(feature_cache=cache)
    model = GenCLIP(args.backbone, None, args.image_size, visualizer=False, evaluator=False, training=training)
    watch = Stopwatch()
    engine = Engine(
        callbacks=[watch],
        default_root_dir=folder / "results",
        max_epochs=args.epochs,
        accelerator=args.accelerator,
        devices=1,
        precision=args.precision,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    engine.fit(model, datamodule=data)
    return watch


def main() -> None:
    """Measure and print."""
    args = parse()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pictures(folder / "pictures", args.images, args.side)
        without = measure(args, folder, None).medians()
        watch = measure(args, folder, folder / "cache")
        size = sum(path.stat().st_size for path in (folder / "cache").rglob("*.safetensors"))
    cached = watch.medians()
    before, after = (times["tower"] + times["data"] for times in (without, cached))
    result = {
        **{key: getattr(args, key) for key in ("backbone", "image_size", "images", "batch_size", "precision")},
        "seconds_per_epoch": without["epoch"],
        "seconds_per_cached_epoch": cached["epoch"],
        "ratio": without["epoch"] / cached["epoch"],
        "tower_seconds": without["tower"],
        "data_seconds": without["data"],
        "cached_data_seconds": cached["data"],
        "share_of_tower_and_data_gone": 1 - after / before,
        "seconds_to_fill": watch.fill,
        "cache_mb": size / 1e6,
    }
    if args.json:
        print(json.dumps(result))
        return
    table = Table("", "", title="Feature cache")
    for key, value in result.items():
        table.add_row(key, f"{value:.3f}" if isinstance(value, float) else str(value))
    Console().print(table)


if __name__ == "__main__":
    main()
