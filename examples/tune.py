# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Settle the method's open choices by measurement: prompts trained on SOURCE, compared on TUNING.

The categories of TUNING are used neither for training nor for reported figures. The frozen tower's outputs are
computed once per image, so a variant costs little more than its text tower.

    python examples/tune.py --epochs 8 --out tuning.md
"""

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from anomalib.data import SyntheticDefects
from rich.progress import track
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from anomalib_genclip import GenCLIP
from anomalib_genclip.clip.frozen_clip import FrozenCLIP, ImageTokens
from anomalib_genclip.components.loss import GenCLIPLoss
from anomalib_genclip.demo.synthetic import SOURCE, TUNING
from anomalib_genclip.evaluation.category import CategoryScores, ImageScores
from anomalib_genclip.torch_model import GenCLIPModel, gaussian_blur

BATCH = 16
WEIGHTS = (0.0, 0.25, 0.5, 1.0)  # w: share of the CLS token in the image score


@dataclass(frozen=True)
class Variant:
    """One set of choices; the defaults are the package's."""

    name: str
    learning_rate: float = 1e-3
    projection_learning_rate: float = 1e-4
    decay: bool = True
    query_only_prob: float = 0.3
    image_loss_weight: float = 0.5
    value_attention: bool = False


BASE = Variant("default")
VARIANTS = [
    BASE,
    replace(BASE, name="constant learning rates", decay=False),
    replace(BASE, name="psi learning rate 1e-3", projection_learning_rate=1e-3),
    replace(BASE, name="psi learning rate 1e-5", projection_learning_rate=1e-5),
    replace(BASE, name="prompt learning rate 3e-3", learning_rate=3e-3),
    replace(BASE, name="query_only_prob 0 (paper)", query_only_prob=0.0),
    replace(BASE, name="query_only_prob 0.5", query_only_prob=0.5),
    replace(BASE, name="image_loss_weight 0 (paper)", image_loss_weight=0.0),
    replace(BASE, name="image_loss_weight 1", image_loss_weight=1.0),
    replace(BASE, name="value-value attention", value_attention=True),
]


@dataclass
class Split:
    """Images of some categories as the tower sees them, with masks and labels."""

    tokens: ImageTokens
    masks: Tensor
    categories: list[str]

    def part(self, index: Tensor) -> ImageTokens:
        """Take some images' tokens."""
        tokens = self.tokens
        patches = tuple(layer[index].float() for layer in tokens.patches)
        return ImageTokens(patches, tokens.cls[index], tokens.pooled[index], tokens.embedding[index])


def value_attention(clip: FrozenCLIP, images: Tensor) -> ImageTokens:
    """Read patch tokens that attend by the similarity of their values, as AnomalyCLIP does (ours to compare)."""
    inputs: dict[int, Tensor] = {}
    blocks = clip.model.visual.transformer.resblocks
    hooks = [
        block.register_forward_pre_hook(lambda _, args, number=number: inputs.update({number: args[0]}))
        for number, block in enumerate(blocks, start=1)
        if number in clip.layers
    ]
    tokens = clip.encode_image(images)
    for hook in hooks:
        hook.remove()
    patches = [_attend_by_value(blocks[number - 1], inputs[number])[:, 1:] for number in clip.layers]
    return tokens._replace(patches=tuple(clip.model.visual.ln_post(layer) for layer in patches))


@torch.no_grad()
def _attend_by_value(block: torch.nn.Module, tokens: Tensor) -> Tensor:
    attention = block.attn
    tokens = tokens if attention.batch_first else tokens.transpose(0, 1)
    width = tokens.shape[-1]
    value = block.ln_1(tokens) @ attention.in_proj_weight[2 * width :].T + attention.in_proj_bias[2 * width :]
    heads = value.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
    mixed = torch.nn.functional.scaled_dot_product_attention(heads, heads, heads)
    return attention.out_proj(mixed.transpose(1, 2).flatten(2))


def read(model: GenCLIP, categories: tuple[str, ...], by_value: bool) -> Split:
    """Render the categories if need be and run the tower over their test images."""
    parts, masks, names = [], [], []
    for category in track(categories, "Reading images"):
        data = SyntheticDefects(category=category, eval_batch_size=32, num_workers=0)
        data.prepare_data()
        data.setup()
        for batch in data.test_dataloader():
            images, mask = model.pre_processor.transform(batch.image, batch.gt_mask)
            clip = model.model.clip
            parts.append(value_attention(clip, images) if by_value else clip.encode_image(images))
            masks.append(mask)
            names += [category] * len(images)
    layers = tuple(torch.cat(layer).half() for layer in zip(*(part.patches for part in parts), strict=True))
    rest = (torch.cat([getattr(part, field) for part in parts]) for field in ("cls", "pooled", "embedding"))
    return Split(ImageTokens(layers, *rest), torch.cat(masks), names)


def feed(model: GenCLIPModel, split: Split) -> None:
    """Let the model take image numbers for images: its tower then looks the tokens up."""
    model.clip.encode_image = split.part  # type: ignore[method-assign]


def train(model: GenCLIPModel, split: Split, variant: Variant, epochs: int) -> None:
    """Train the prompts as GenCLIP does."""
    feed(model, split)
    loss = GenCLIPLoss(variant.image_loss_weight)
    optimizer = torch.optim.Adam([
        {"params": model.prompts.parameters(), "lr": variant.learning_rate},
        {"params": model.projections.parameters(), "lr": variant.projection_learning_rate},
    ])
    names = model.class_index([name.replace("_", " ") for name in split.categories])
    steps = epochs * math.ceil(len(names) / BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1 - k / steps if variant.decay else 1.0)
    model.train()
    for _ in track(range(epochs), variant.name):
        for index in torch.randperm(len(names)).split(BATCH):
            query_only = torch.rand(len(index)) < variant.query_only_prob
            value = loss(*model.training_logits(index, names[index], query_only), split.masks[index])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step()
    model.eval()


@torch.no_grad()
def predict(model: GenCLIPModel, split: Split) -> Iterator[tuple[str, Tensor, Tensor, Tensor, Tensor]]:
    """Yield for each category maps, the two parts of the score, and masks."""
    feed(model, split)
    names = model.class_index([name.replace("_", " ") for name in split.categories])
    for category in dict.fromkeys(split.categories):
        index = torch.tensor([i for i, name in enumerate(split.categories) if name == category])
        parts = [model.score_parts(batch, names[batch]) for batch in index.split(64)]
        maps, top, cls = (torch.cat([getattr(part, key) for part in parts]) for key in ("anomaly_map", "top", "cls"))
        yield category, maps, top, cls, split.masks[index]


def compute_metrics(model: GenCLIPModel, split: Split) -> dict[str, float]:
    """Compute mean figures over the categories, in percent; the image AUROC for each ``w``."""
    rows: list[dict[str, float]] = []
    for _, maps, top, cls, masks in predict(model, split):
        labels = masks.flatten(1).amax(dim=1) > 0
        row = {f"image w={w}": binary_auroc(torch.lerp(top, cls, w), labels.int()).item() for w in WEIGHTS}
        scores = CategoryScores()
        for i, (anomaly_map, mask) in enumerate(zip(maps.squeeze(1), masks > 0, strict=True)):
            scores.add(ImageScores(str(i), float(top[i]), bool(labels[i]), anomaly_map, mask))
        values, _ = scores.compute_metrics()
        rows.append({**row, "pixel AUROC": values["pixel_AUROC"], "AUPRO": values["pixel_AUPRO"]})
    return {key: 100 * sum(row[key] for row in rows) / len(rows) for key in rows[0]}


def rows_of(variant: Variant, source: Split, target: Split, epochs: int) -> Iterator[tuple[str, dict[str, float]]]:
    """Train a variant and yield its figures: branch by branch, and smoothed for the default."""
    torch.manual_seed(0)
    model = GenCLIPModel("tiny", None)
    if variant is BASE:
        yield "untrained", compute_metrics(model.eval(), target)
    train(model, source, variant, epochs)
    for branches in ("both", "vision", "query"):
        model.branches = branches
        yield f"{variant.name}, {branches}", compute_metrics(model, target)
    if variant is BASE:
        model.branches = "both"
        for sigma in (1.0, 2.0, 4.0, 6.0):
            model.smoothing = gaussian_blur(sigma)
            yield f"{variant.name}, smoothing {sigma}", compute_metrics(model, target)


def main() -> None:
    """Run all variants and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--only", nargs="*", help="names of the variants to run")
    parser.add_argument("--out", type=Path, default=Path("tuning.md"))
    args = parser.parse_args()
    model = GenCLIP(backbone="tiny")
    splits: dict[bool, tuple[Split, Split]] = {}
    lines: list[str] = []
    for variant in VARIANTS:
        if args.only and variant.name not in args.only:
            continue
        by_value = variant.value_attention
        if by_value not in splits:
            splits[by_value] = read(model, SOURCE, by_value), read(model, TUNING, by_value)
        start = time.monotonic()
        for name, row in rows_of(variant, *splits[by_value], args.epochs):
            if not lines:
                lines += [f"| variant | {' | '.join(row)} |", "|---" * (len(row) + 1) + "|"]
            lines.append(f"| {name} | {' | '.join(f'{value:.1f}' for value in row.values())} |")
            args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
            print(lines[-1])
        print(f"{variant.name}: {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
