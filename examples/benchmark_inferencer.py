# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Latency from the file to the verdict, one image at a time: Inferencer beside the bare model, in turn.

    python examples/benchmark_inferencer.py --backbone tiny --images 200
    python examples/benchmark_inferencer.py --backbone ViT-B-16 --image_size 224 --images 30

The weights of other backbones than tiny are random, which changes no time.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2.functional import to_image

from anomalib_genclip import GenCLIP, Inferencer


def bare(model: GenCLIP) -> Callable[[Path], bool]:
    """Return the least that leads from a file to a verdict."""
    names = model.look_up(["metal nut"])
    threshold = float(model.post_processor.normalized_image_threshold)

    @torch.inference_mode()
    def verdict(path: Path) -> bool:
        with Image.open(path) as image:
            pixels = to_image(image.convert("RGB"))
        found = model.model(model.pre_processor.transform(pixels[None].float() / 255), *names)
        found.anomaly_map.numpy()
        return found.pred_score.item() > threshold

    return verdict


def main() -> None:
    """Read the command line, measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="tiny")
    parser.add_argument("--image_size", type=int)
    parser.add_argument("--images", type=int, default=200)
    args = parser.parse_args()
    weights = None if args.backbone == "tiny" else "random"
    model = GenCLIP(args.backbone, weights, args.image_size, seed=0).eval()
    inferencer = Inferencer(model, "metal nut", precision="float32")
    ways = {"bare model": bare(model), "Inferencer": lambda path: inferencer.predict(path).anomalous}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "part.png"
        pixels = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        for turn in range(args.images + 3):  # the first three warm up
            for name in sorted(ways, reverse=bool(turn % 2)):
                start = time.perf_counter()
                ways[name](path)
                seconds[name] += [time.perf_counter() - start] * (turn >= 3)
    milliseconds = {name: np.percentile(np.multiply(times, 1000), [50, 99]) for name, times in seconds.items()}
    for name, (median, last) in milliseconds.items():
        print(f"{name:12} median {median:8.2f} ms, 99th percentile {last:8.2f} ms")
    ratio = np.median(np.divide(seconds["Inferencer"], seconds["bare model"]))
    print(f"Inferencer / bare model, median of the pairs: {ratio:.3f}")


if __name__ == "__main__":
    main()
