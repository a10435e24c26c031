# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""How much of the model's rate `genclip predict` keeps, with reading, resizing, regions and writing.

    python examples/benchmark_predict.py --backbone ViT-B-16 --image_size 224 --images 64

CLIP's weights are random, which does not change the time. The bare model sees one batch in memory again and again;
then a folder of JPEG files is scored, and the bare model once more.
"""

import argparse
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image

from anomalib_genclip import GenCLIP, Inferencer
from anomalib_genclip.prediction import scoring
from anomalib_genclip.prediction.run import run
from anomalib_genclip.prediction.settings import RunSettings


def write_photographs(folder: Path, count: int, size: tuple[int, int]) -> None:
    """Write JPEG files that compress about as photographs do: smooth noise of several scales."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        layers = [
            rng.integers(0, 256, (size[1] // scale, size[0] // scale, 3), dtype=np.uint8) for scale in (64, 16, 4)
        ]
        images = [np.asarray(Image.fromarray(layer).resize(size, Image.Resampling.BICUBIC), float) for layer in layers]
        pixels = np.average(images, axis=0, weights=[4, 2, 1]).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:06}.jpg", quality=90)


def bare_rate(inferencer: Inferencer, batch: torch.Tensor, batches: int) -> float:
    """Measure images per second of the model alone."""
    start, size = time.perf_counter(), len(batch)
    for _ in range(batches):
        inferencer.predict_batch(batch, [""] * size, [(1, 1)] * size, [None] * size)
    return batches * len(batch) / (time.perf_counter() - start)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="ViT-B-16")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--images", type=int, default=64, help="a multiple of the batch size (%(default)s)")
    parser.add_argument("--file_size", type=int, nargs=2, default=(1024, 768), help="width and height of the files")
    parser.add_argument("--num_workers", type=int)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--accelerator", default="auto")
    args = parser.parse_args()

    model = GenCLIP(backbone=args.backbone, pretrained="random", image_size=args.image_size)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_photographs(folder / "images", args.images, tuple(args.file_size))
        settings = RunSettings(
            weights=str(model.save_weights(folder / "prompts.safetensors")),
            data=str(folder / "images"),
            out=str(folder / "out"),
            batch_size=args.batch_size,
            num_workers=args.num_workers,
            precision=args.precision,
            accelerator=args.accelerator,
            regions=True,
        )
        inferencer = Inferencer(model, device=args.accelerator, precision=args.precision)
        batch = torch.rand(args.batch_size, 3, args.image_size, args.image_size)
        bare_rate(inferencer, batch, 1)  # warms up
        before = bare_rate(inferencer, batch, args.images // args.batch_size)
        start = time.perf_counter()
        with mock.patch.object(scoring, "Inferencer", return_value=inferencer):  # loading is not measured
            run(settings)
        rate = args.images / (time.perf_counter() - start)
        after = bare_rate(inferencer, batch, args.images // args.batch_size)
    bare = 2 / (1 / before + 1 / after)
    print(f"{args.backbone}, {args.image_size} px, batch {args.batch_size}, {torch.get_num_threads()} thread(s)")
    print(f"bare model {before:.3f} and {after:.3f} images/s, predict {rate:.3f} images/s, ratio {rate / bare:.3f}")


if __name__ == "__main__":
    main()
