# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Rate and memory of `genclip predict` on many small images, of which one in a hundred is broken.

    python examples/benchmark_many_images.py --images 20000
    python examples/benchmark_many_images.py --images 1000000 --links

With --links the images are hard links to one file, and the model is trivial (mean brightness), so that file names, rows
and tables remain.
"""

import argparse
import os
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import psutil
import torch
from PIL import Image
from torchvision.transforms.v2 import Resize

from anomalib_genclip.inferencer import Inferencer
from anomalib_genclip.prediction import run as run_module
from anomalib_genclip.prediction import scoring
from anomalib_genclip.prediction.settings import RunSettings
from anomalib_genclip.records import Record

FORMATS = ("png", "jpg", "bmp", "tiff", "webp")
MODES = ("RGB", "L", "RGBA", "P")
FOLDERS = 10
BROKEN = 100  # every hundredth
MOST_LINKS = 50_000  # to one file; ext4 allows 65,000


class Brightness:
    """In place of an inferencer, a trivial model: the brighter, the more anomalous."""

    transform = Resize([8, 8])

    def predict_batch(self, images: torch.Tensor, paths: list, sizes: list, categories: list) -> list[Record]:
        """Use the brightness as anomaly map."""
        del categories
        maps = images.float().mean(dim=1).numpy() / 255
        scored = zip(paths, sizes, maps, maps.mean(axis=(1, 2)).tolist(), strict=True)
        return [
            Record(path, size, score=score, anomalous=score > 0.5, anomaly_map=anomaly_map, mask=anomaly_map > 0.5)
            for path, size, anomaly_map, score in scored
        ]

    def watch(self, records: list[Record]) -> None:
        """There is no calibration."""


def write_images(root: Path, count: int) -> None:
    """Write images of 32 to 320 px in several formats and modes; the broken ones are empty, cut off, or text."""
    draws = random.Random(0)  # noqa: S311  # no secret
    for number in range(count):
        path = root / f"{number % FOLDERS}" / f"{number:07}.{FORMATS[number % len(FORMATS)]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        width, height = draws.randint(32, 320), draws.randint(32, 320)
        seed = np.frombuffer(draws.randbytes(8 * 8 * 3), np.uint8).reshape(8, 8, 3)
        image = Image.fromarray(seed).resize((width, height), Image.Resampling.BICUBIC)
        mode = draws.choice(MODES)
        image.convert("RGB" if path.suffix in {".jpg", ".webp"} and mode != "L" else mode).save(path)
        if number % BROKEN == BROKEN - 1:
            content = path.read_bytes()
            path.write_bytes(draws.choice((b"", b"no image", content[: len(content) // 3])))


def link_images(root: Path, count: int) -> None:
    """Link a file under many names, in one folder."""
    root.mkdir()
    for number in range(count):
        if number % MOST_LINKS == 0:
            original = root.parent / f"image{number}.bmp"
            Image.new("RGB", (8, 8), "white").save(original)
        os.link(original, root / f"{number:07}.bmp")


@contextmanager
def watch(every: int) -> Iterator[None]:
    """Print rate and memory of this process after each so many images."""
    start, process, shown = time.perf_counter(), psutil.Process(), 0

    class Bar(run_module.tqdm):
        """A progress bar that prints lines."""

        def update(self, n: float | None = 1) -> bool | None:
            """Count images."""
            nonlocal shown
            self.n += n
            if self.n - shown >= every:
                shown = self.n // every * every
                seconds, memory = time.perf_counter() - start, process.memory_info().rss
                print(f"{self.n:8} images {seconds:6.0f} s  {memory / 1e6:6.0f} MB", flush=True)
            return None

    with mock.patch.object(run_module, "tqdm", Bar):
        yield


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--weights", default="tiny-demo")
    parser.add_argument("--links", action="store_true")
    parser.add_argument("--num_workers", type=int)
    parser.add_argument("--ray_actors", type=int, help="use Ray with so many actors")
    parser.add_argument(
        "--folder", type=Path, help="folder of images and results, which stay; default: a temporary one"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = args.folder or Path(name)
        if not (folder / "images").exists():
            (link_images if args.links else write_images)(folder / "images", args.images)
        settings = RunSettings(
            weights=args.weights,
            data=str(folder / "images"),
            out=str(folder / "out"),
            num_workers=args.num_workers,
            on_error="record",
            regions=True,
            engine="ray" if args.ray_actors else "local",
            ray_actors=args.ray_actors,
        )
        start = time.perf_counter()
        model = (lambda *_, **__: Brightness()) if args.links else Inferencer
        with watch(max(1000, args.images // 20)), mock.patch.object(scoring, "Inferencer", model):
            outcome = run_module.run(settings)
        seconds = time.perf_counter() - start
    counts = outcome.counts
    rate = counts["images"] / seconds
    print(f"{counts['images']} images, {counts['errors']} errors, {seconds:.0f} s, {rate:.1f} images/s")


if __name__ == "__main__":
    main()
