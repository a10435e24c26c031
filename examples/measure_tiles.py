# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Compare whole images with tiles: categories in MVTec AD's layout, maps compared at the size of the image.

    python examples/measure_tiles.py datasets/SyntheticLarge --categories leather gear --tile_size 256
    python examples/measure_tiles.py datasets/SyntheticLarge --render 1024 128 --categories leather gear --tile_size 256

Prints the mean over categories of image AUROC, pixel AUROC and AUPRO, of AUPRO for the defects (connected regions)
below and above 0.1 % of the image, and the seconds per image.
"""

import argparse
import statistics
import time
from collections import defaultdict
from pathlib import Path

import torch
from anomalib.data.utils import read_image, read_mask
from anomalib.utils.cv import connected_components_cpu
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc
from torchvision.tv_tensors import Image, Mask

from anomalib_genclip.components.anomaly_map import upsample
from anomalib_genclip.demo.synthetic import SyntheticDefects
from anomalib_genclip.evaluation.scores import ScoreHistogram
from anomalib_genclip.inferencer import load_trained
from anomalib_genclip.settings import TileSettings
from anomalib_genclip.utils.tensors import resize

SMALL = 0.001  # of the area of the image
KINDS = ("all", "small", "large")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--categories", nargs="+", required=True)
    parser.add_argument("--render", type=int, nargs=2, metavar=("SIZE", "DEFECT_SIZE"), help="render the categories")
    parser.add_argument("--normal", type=int, default=6, help="normal images to render")
    parser.add_argument("--per_defect", type=int, default=2, help="anomalous images to render of each kind")
    parser.add_argument("--weights", default="tiny-demo")
    parser.add_argument("--pretrained")
    parser.add_argument("--class_name", help="instead of the name of the category")
    parser.add_argument("--tile_size", type=int, required=True)
    parser.add_argument("--tile_stride", type=int)
    parser.add_argument("--working_size", type=int)
    parser.add_argument("--limit", type=int, help="images of each folder")
    return parser.parse_args()


def render(args: argparse.Namespace) -> None:
    """Render the categories that are not there."""
    size, defect_size = args.render
    counts = {"train_good": 1, "test_good": args.normal, "test_per_defect": args.per_defect}
    for category in args.categories:
        small = defect_size if defect_size < size else None
        SyntheticDefects(args.root, category, render_size=size, defect_size=small, **counts).prepare_data()


def by_size(mask: Tensor) -> dict[str, Tensor]:
    """Split a mask ``(H, W)`` into its small and its large regions."""
    regions = connected_components_cpu(mask[None, None].float())[0, 0].long()
    large = regions.flatten().bincount() > SMALL * mask.numel()
    return {"all": mask, "small": mask & ~large[regions], "large": mask & large[regions]}


class Scores:
    """Scores of one category, seen in one way."""

    def __init__(self) -> None:
        self.images: list[tuple[float, bool]] = []
        self.pixels = {kind: ScoreHistogram() for kind in KINDS}
        self.seconds: list[float] = []

    def add(self, score: float, anomaly_map: Tensor, mask: Tensor, seconds: float) -> None:
        """Add an image; for defects of one size the others are left out, like the normal image they would be."""
        self.images.append((score, bool(mask.any())))
        self.seconds.append(seconds)
        for kind, own in by_size(mask).items():
            if own.any() or not mask.any():
                self.pixels[kind].add(anomaly_map.masked_fill(mask & ~own, 0), own)

    def metrics(self) -> dict[str, float]:
        """Compute what is defined."""
        scores, labels = (torch.tensor(column) for column in zip(*self.images, strict=True))
        found = {"image AUROC": float(binary_auroc(scores, labels.int())), "seconds": statistics.median(self.seconds)}
        for kind, histogram in self.pixels.items():
            if histogram.regions:
                values = histogram.metrics()
                found |= {f"AUROC {kind}": values["AUROC"], f"AUPRO {kind}": values["AUPRO"]}
        return found


@torch.inference_mode()
def measure(args: argparse.Namespace, category: str, ways: dict[str, Scores]) -> None:
    """Score the test images of a category with and without tiles."""
    tiles = TileSettings(args.tile_size, args.tile_stride, args.working_size)
    model = load_trained(args.weights, args.pretrained, tiles=tiles).eval()
    tiler, name = model.model.tiler, model.model.class_index([args.class_name or category])
    for folder in sorted((args.root / category / "test").iterdir()):
        for path in sorted(folder.iterdir())[: args.limit]:
            image = Image(read_image(path, as_tensor=True)[None])
            mask = Mask(torch.zeros(image.shape[-2:]))
            if folder.name != "good":
                (file,) = (args.root / category / "ground_truth" / folder.name).glob(f"{path.stem}*")
                mask = Mask(read_mask(file, as_tensor=True))
            image, mask = model.pre_processor.transform(image, mask)
            for way, scores in ways.items():
                model.model.tiler = tiler if way == "tiles" else None
                started = time.perf_counter()
                parts = model.model.score_parts(
                    image if way == "tiles" else resize(image, model.model.image_size), name
                )
                seconds = time.perf_counter() - started
                anomaly_map = upsample(parts.anomaly_map, image.shape[-2:])[0, 0]
                scores.add(float(model.model.image_score(parts)), anomaly_map, mask.as_subclass(Tensor) > 0, seconds)


def main() -> None:
    """Measure, and print a table."""
    args = parse()
    if args.render:
        render(args)
    rows: dict[str, dict[str, list[float]]] = {way: defaultdict(list) for way in ("whole", "tiles")}
    for category in args.categories:
        ways = {way: Scores() for way in rows}
        measure(args, category, ways)
        for way, scores in ways.items():
            for metric, value in scores.metrics().items():
                rows[way][metric].append(value)
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    table = Table("", *names)
    for way, row in rows.items():
        values = [statistics.fmean(row[name]) for name in names]
        table.add_row(
            way, *(f"{v:.3f}" if n == "seconds" else f"{100 * v:.1f}" for n, v in zip(names, values, strict=True))
        )
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
