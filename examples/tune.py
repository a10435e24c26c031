# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Settle the method's open choices by measurement, on photographs and on rendered categories.

Prompts are trained on the rendered categories SOURCE. They are tested on TUNING and on the photographs given, or with
``--folds`` on categories of SOURCE that were held out: none of these are for reported metrics. The frozen tower runs
once per image. Each row of the tables is a way to compute map or score; ``default`` is the package's. Other maps have
their top 1 % as image score, those of other zero-shot weights the default score. The file has a line per row, set, seed
and draw of references; the tables have means over draws and sets, and over seeds mean ± standard deviation.

    python examples/tune.py --photographs ~/photographs --variants all --out tuning.csv
    python examples/tune.py --folds 5 --seeds 1 --out folds.csv
    python examples/tune.py --photographs ~/other_photographs --only default   # report on other sets
"""

import argparse
import math
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from anomalib.data import AnomalibDataModule, Folder, MVTecAD, SyntheticDefects
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from anomalib_genclip import GenCLIP
from anomalib_genclip.callbacks.reference_images import draw_references
from anomalib_genclip.clip.frozen_clip import ImageTokens
from anomalib_genclip.components import references
from anomalib_genclip.components.anomaly_map import abnormal_probability, similarity_logits, top_mean, upsample
from anomalib_genclip.components.loss import GenCLIPLoss
from anomalib_genclip.components.references import ReferenceMemory, join_map, join_score
from anomalib_genclip.data.normal_images import images_of_datamodule
from anomalib_genclip.demo.synthetic import SOURCE, TUNING
from anomalib_genclip.evaluation.scores import CategoryScores
from anomalib_genclip.model_settings import ModelSettings
from anomalib_genclip.pipelines.free_text import FreeText
from anomalib_genclip.pipelines.written_prompts import WrittenPrompts
from anomalib_genclip.settings import TrainingSettings
from anomalib_genclip.torch_model import BranchMaps, GenCLIPModel, ScoreParts

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "vision_dropout 0": {"vision_dropout": 0.0},
    "image_loss_weight 0": {"image_loss_weight": 0.0},
    "query_only_prob 0": {"query_only_prob": 0.0},
    "15 epochs": {"epochs": 15},
    "free vectors instead of text": {"model": FreeText.torch_model},
    "value-value attention": {"patch_attention": "value"},  # last: the tower runs anew
}
METRICS = ("image_AUROC", "pixel_AUROC", "pixel_AUPRO")
PHOTOGRAPHS, RENDERED = "photographs", "rendered"
TRAIN_BATCH, TEST_BATCH = 16, 64

Rows = dict[str, tuple[Tensor, Tensor | None]]  # image scores (B,), and maps (B, 1, H, W) if they are others


@dataclass
class ImageSet:
    """Test images of one category as the tower sees them, and memories of its good parts, one per draw."""

    name: str
    kind: str
    tokens: ImageTokens
    masks: Tensor | None
    labels: Tensor
    memories: list[ReferenceMemory]


def join(parts: Sequence[ImageTokens]) -> ImageTokens:
    """Concatenate batches; patches are kept in half precision."""
    patches = tuple(torch.cat(layer).half() for layer in zip(*(part.patches for part in parts), strict=True))
    return ImageTokens(patches, *(torch.cat(rest) for rest in zip(*(part[1:] for part in parts), strict=True)))


def take(tokens: ImageTokens, index: Tensor) -> ImageTokens:
    """Take some images' tokens."""
    return ImageTokens(tuple(layer[index].float() for layer in tokens.patches), *(rest[index] for rest in tokens[1:]))


def photographs(folders: Sequence[Path]) -> Iterator[AnomalibDataModule]:
    """Yield the sets in folders: in MVTec AD's layout, or the same without masks."""
    for path in sorted(path for folder in folders for path in folder.iterdir() if (path / "test").is_dir()):
        if (path / "ground_truth").is_dir():
            yield MVTecAD(path.parent, category=path.name, eval_batch_size=16, num_workers=0)
        else:
            yield Folder(
                name=path.name,
                root=path,
                normal_dir="train/good",
                abnormal_dir=[f"test/{kind.name}" for kind in (path / "test").iterdir() if kind.name != "good"],
                normal_test_dir="test/good",
                eval_batch_size=16,
                num_workers=0,
                val_split_mode="none",
            )


@torch.no_grad()
def read(reader: GenCLIP, datamodule: AnomalibDataModule, kind: str, draws: int) -> ImageSet:
    """Run the tower over the test images, and draw references from the normal training images."""
    datamodule.prepare_data()
    datamodule.setup()
    tokens, masks, labels = [], [], []
    for batch in datamodule.test_dataloader():
        images, mask = reader.pre_processor.transform(batch.image, batch.gt_mask)
        tokens.append(reader.model.clip.encode_image(images))
        masks.append(None if mask is None else mask > 0)
        labels.append(batch.gt_label)
    good, memories = images_of_datamodule(datamodule), []
    for draw in range(draws):
        draw_references(reader, dict(good), draw)
        memories.append(reader.model.references.memories[0])
    whole = None if masks[0] is None else torch.cat(masks)
    return ImageSet(good[0][0], kind, join(tokens), whole, torch.cat(labels).bool(), memories)


def read_rendered(reader: GenCLIP, categories: Sequence[str], root: str, draws: int) -> list[ImageSet]:
    """Read rendered categories, which are rendered if they are missing."""
    data = [SyntheticDefects(root, category=category, eval_batch_size=32, num_workers=0) for category in categories]
    return [read(reader, datamodule, RENDERED, draws) for datamodule in data]


def rounds_of(
    source: list[ImageSet], targets: list[ImageSet], folds: int
) -> Iterator[tuple[list[ImageSet], list[ImageSet]]]:
    """Yield what to train on and what to test on: the targets, or the source with each category held out once."""
    if not folds:
        yield source, targets
    order = np.random.default_rng(0).permutation(len(source))
    for fold in range(folds):
        held = {*order[fold::folds].tolist()}
        kept = [found for number, found in enumerate(source) if number not in held]
        yield kept, [source[number] for number in sorted(held)]


def train(model: GenCLIPModel, source: list[ImageSet], settings: TrainingSettings, epochs: int) -> None:
    """Train the prompts as GenCLIP does."""
    tokens, labels = join([found.tokens for found in source]), torch.cat([found.labels for found in source])
    masks = torch.cat([found.masks for found in source if found.masks is not None])
    names = model.class_index([found.name for found in source for _ in found.labels])
    loss = GenCLIPLoss(settings.image_loss_weight)
    optimizer = torch.optim.Adam([
        {"params": model.prompts.parameters(), "lr": settings.learning_rate},
        {"params": model.projections.parameters(), "lr": settings.projection_learning_rate},
    ])
    steps = max(1, epochs * math.ceil(len(names) / TRAIN_BATCH))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    model.train()
    for _ in range(epochs):
        for index in torch.randperm(len(names)).split(TRAIN_BATCH):
            query_only = torch.rand(len(index)) < settings.query_only_prob
            images = take(tokens, index)
            maps, cls = model.training_logits(images, names[index], query_only, settings.vision_dropout)
            optimizer.zero_grad()
            loss(maps, cls, masks[index], labels[index]).backward()
            optimizer.step()
            schedule.step()
    model.eval()


def pooled_score(model: GenCLIPModel, tokens: ImageTokens, result: BranchMaps) -> Tensor:
    """Pool each layer's patches with the map as weights, and compare them with the learned prompts: ``(B,)``."""
    grid = torch.stack([*result.maps.values()]).mean(0).flatten(1)
    weights = (grid / grid.sum(1, keepdim=True)).unsqueeze(1)
    scores = []
    for patches, projection, *text in zip(tokens.patches, model.projections, *result.text.values(), strict=True):
        pooled = weights @ F.normalize(patches @ projection, dim=-1)
        scores += [abnormal_probability(similarity_logits(pooled, states))[:, 0] for states in text]
    return torch.stack(scores).mean(0)


def name_rows(model: GenCLIPModel, tokens: ImageTokens, given: Tensor) -> Rows:
    """Compute the rows in which every image has its ``given`` class name, or none has."""
    model.references.set({})
    indices = {"given names, no CNF": given, "no names": torch.zeros_like(given)}
    with patch.object(model, "class_name_filter", new=False):
        parts = {name: model.score_parts(tokens, index) for name, index in indices.items()}
    return {name: (model.image_score(own), own.anomaly_map) for name, own in parts.items()}


def zero_shot_rows(model: GenCLIPModel, tokens: ImageTokens, parts: ScoreParts, frozen: dict[str, Tensor]) -> Rows:
    """Compute the rows without references; ``frozen`` are the scores of the CLS token by written prompts."""
    result, top = parts.branches, parts.top
    pixels = parts.anomaly_map[0].numel()
    rows: Rows = {f"top {share} %": (top_mean(parts.anomaly_map, round(share * pixels)), None) for share in (0.1, 1, 5)}
    for name, cls in {"trained CLS": result.cls, **frozen}.items():
        rows[name] = cls, None
        rows |= {f"top, w {w} {name}": (torch.lerp(top, cls, w), None) for w in (0.25, 0.5, 0.75)}
    rows["pooled patches"] = pooled_score(model, tokens, result), None
    layers = torch.stack([*result.layers.values()])  # of the branches, (2, M, B, 1, h, w)
    grids = {f"{branch} branch": grid for branch, grid in result.maps.items()}
    grids |= {f"last {number} layers": layers[:, -number:].mean((0, 1)) for number in (1, 2, 3)}
    for name, grid in grids.items():
        maps = upsample(grid, model.image_size)
        rows[name] = top_mean(maps), maps
    return rows


def reference_rows(model: GenCLIPModel, parts: ScoreParts) -> Rows:
    """Compute the rows with references."""
    result, distance = parts.branches, parts.distance
    assert distance is not None
    grid = torch.stack([*result.maps.values()]).mean(0)
    alone = upsample(distance.patches.exp().view_as(grid), model.image_size)
    rows: Rows = {"references": (top_mean(alone), alone)}
    for weight in (0, 0.1, 0.25, 0.5):
        with patch.object(references, "ZERO_SHOT_WEIGHT", weight):
            maps = upsample(join_map(grid, distance), model.image_size)
        rows[f"zero-shot weight {weight}"] = model.image_score(parts._replace(top=top_mean(maps))), maps
    for weight, w in product((0.25, 0.5, 1), (0, 0.25, 0.5, 0.75)):
        with patch.object(references, "CLS_WEIGHT", weight):
            score = join_score(torch.lerp(parts.top, result.cls, w), distance)
        rows[f"CLS weight {weight}, w {w}"] = score, None
    return rows


@torch.no_grad()
def measure(
    model: GenCLIPModel, found: ImageSet, written: dict[str, GenCLIPModel], only: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Yield a line for each row, and with references for each draw, with metrics in percent."""
    scores: dict[tuple[int | str, str], CategoryScores] = defaultdict(CategoryScores)
    more = [*only] != ["default"]
    for index in torch.arange(len(found.labels)).split(TEST_BATCH):
        tokens, names = take(found.tokens, index), [found.name] * len(index)
        given, rows_of_names, frozen = model.class_index(names), {}, {}
        result = model.branch_maps(tokens, given)
        if more:
            rows_of_names = name_rows(model, tokens, given)
            frozen = {name: one.branch_maps(tokens, one.class_index(names)).cls for name, one in written.items()}
        # The package computes map and score; the branches' maps, the same for all draws, are looked up.
        with patch.object(model, "branch_maps", return_value=result):
            for draw, memory in [("", None), *enumerate(found.memories)]:
                model.references.set({} if memory is None else {"": memory})
                parts = model.score_parts(tokens)
                rows: Rows = {"default": (model.image_score(parts), parts.anomaly_map)}
                if more and memory is None:
                    rows |= zero_shot_rows(model, tokens, parts, frozen) | rows_of_names
                elif more:
                    rows |= reference_rows(model, parts)
                for name in [name for name in rows if not only or name in only]:
                    add(scores[draw, name], found, index, *rows[name])
    for (draw, name), row in scores.items():
        values, _ = row.compute_metrics()
        k_shot = 0 if draw == "" else found.memories[0].cls.shape[1]
        line = {"row": name, "k_shot": k_shot, "kind": found.kind, "set": found.name, "draw": draw}
        yield line | {metric: 100 * values.get(metric, math.nan) for metric in METRICS}


def add(row: CategoryScores, found: ImageSet, index: Tensor, scores: Tensor, maps: Tensor | None) -> None:
    """Add a batch to a row's scores, pixels to its histogram."""
    for place, number in enumerate(index.tolist()):
        mask = None if found.masks is None else found.masks[number]
        anomaly_map = None if maps is None else maps[place, 0]
        row.add(str(number), float(scores[place]), bool(found.labels[number]), anomaly_map, mask)
    row.to_histogram()


def print_tables(lines: pd.DataFrame) -> None:
    """Print a table for each metric: means over photographs and over rendered categories, and each photograph set."""
    keys = ["variant", "k_shot", "row", "column"]
    single = lines[lines["kind"] == PHOTOGRAPHS]
    every = pd.concat([lines.assign(column=lines["kind"]), single.assign(column=single["set"])])
    values = every.groupby([*keys, "seed", "set"], sort=False)[[*METRICS]].mean()  # over draws
    values = values.groupby([*keys, "seed"], sort=False).mean()  # over sets
    statistics = values.groupby(keys, sort=False).agg(["mean", "std"])
    for metric in METRICS:
        known = statistics[metric].dropna(subset="mean").reset_index()
        spread = known["std"].map(" ± {:.1f}".format, na_action="ignore").fillna("")  # one seed has none
        known["cell"] = known["mean"].map("{:.1f}".format) + spread
        table = known.pivot_table(index=keys[:3], columns=keys[3], values="cell", aggfunc="first", sort=False)
        print(f"\n{metric}\n{table.fillna('').to_string()}")


def main() -> None:
    """Train and measure, and write file and tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="tiny")
    parser.add_argument("--pretrained", help="its weights; the bundled ones of tiny if left out")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5, help="of variants that do not say; 0 for untrained prompts")
    parser.add_argument("--variants", nargs="+", default=["default"], choices=[*VARIANTS, "all"], metavar="NAME")
    parser.add_argument("--only", nargs="+", default=[], metavar="ROW", help="rows to measure; all if left out")
    parser.add_argument("--root", default="./datasets/SyntheticDefects", help="of rendered categories")
    parser.add_argument("--photographs", type=Path, nargs="+", default=[], help="folders of sets in MVTec AD's layout")
    parser.add_argument("--folds", type=int, default=0, help="test on categories of SOURCE, held out in so many folds")
    parser.add_argument("--k_shot", type=int, default=4, help="good parts of a draw of references; 0 for none")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("tuning.csv"))
    args = parser.parse_args()
    backbone = {"backbone": args.backbone, "pretrained": args.pretrained}
    draws = args.draws if args.k_shot else 0
    written: dict[str, GenCLIPModel] = {}
    for name in ("ensemble", "pair"):
        written[f"frozen CLS, {name}"] = WrittenPrompts(name, class_name_filter=False, **backbone).model
    source, targets, read_with = [], [], ""
    lines: list[dict[str, Any]] = []
    for variant in VARIANTS if "all" in args.variants else args.variants:
        chosen = {"patch_attention": "clip", "epochs": args.epochs, **VARIANTS[variant]}
        kind = chosen.pop("model", GenCLIPModel)
        epochs, backbone["patch_attention"] = chosen.pop("epochs"), chosen.pop("patch_attention")
        if backbone["patch_attention"] != read_with:
            read_with, reader = backbone["patch_attention"], GenCLIP(k_shot=args.k_shot, **backbone)
            source = read_rendered(reader, SOURCE, args.root, draws if args.folds else 0)
            if not args.folds:
                targets = [read(reader, data, PHOTOGRAPHS, draws) for data in photographs(args.photographs)]
                targets += read_rendered(reader, TUNING, args.root, draws)
        for (learned, tested), seed in product(rounds_of(source, targets, args.folds), range(args.seeds)):
            start = time.monotonic()
            torch.manual_seed(seed)
            model = kind(reader.model.clip.model, ModelSettings.resolve(**backbone))
            train(model, learned, TrainingSettings(**chosen), epochs)
            for found in tested:
                own = measure(model, found, written, args.only)
                lines += [{"variant": variant, "seed": seed, **line} for line in own]
            if not lines:
                sys.exit(f"There is no row {' or '.join(map(repr, args.only))}.")
            pd.DataFrame(lines).to_csv(args.out, index=False, float_format="%.2f")
            names = ", ".join(found.name for found in tested)
            print(f"{variant}, seed {seed}: {names}: {time.monotonic() - start:.0f} s", flush=True)
    print_tables(pd.DataFrame(lines))


if __name__ == "__main__":
    main()
