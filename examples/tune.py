# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Settle the method's open choices by measurement: prompts trained on SOURCE, compared on TUNING.

The categories of TUNING, and photographs given with ``--photographs``, are used neither for training nor for reported
metrics. The frozen tower's outputs are computed once per image, so a variant costs little more than its text tower.
Each row is the mean and the standard deviation over the seeds.

    python examples/tune.py --pretrained clip.safetensors --seeds 3 --out tuning.csv
    python examples/tune.py --folds 5 --seeds 1 --only default "dropout of V 0 (paper)"
"""

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from anomalib.data import Folder, MVTecAD, SyntheticDefects
from anomalib.models.image.winclip.prompting import create_prompt_ensemble
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from anomalib_genclip import GenCLIP
from anomalib_genclip.clip.backbone import load_clip
from anomalib_genclip.clip.frozen_clip import FrozenCLIP, ImageTokens
from anomalib_genclip.components.anomaly_map import (
    TEMPERATURE,
    abnormal_probability,
    similarity_logits,
    top_mean,
    upsample,
)
from anomalib_genclip.components.loss import GenCLIPLoss
from anomalib_genclip.demo.synthetic import SOURCE, TUNING
from anomalib_genclip.evaluation.scores import CategoryScores
from anomalib_genclip.model_settings import ModelSettings
from anomalib_genclip.torch_model import BranchMaps, GenCLIPModel

BATCH = 16


@dataclass(frozen=True)
class Variant:
    """One set of choices; the defaults are the package's."""

    name: str
    learning_rate: float = 1e-3
    vision_learning_rate: float | None = None
    projection_learning_rate: float = 1e-3
    decay: bool = True
    epochs: int = 5
    query_only_prob: float = 0.3
    image_loss_weight: float = 0.5
    vision_weight_decay: float = 0.0
    vision_dropout: float = 0.5
    words: bool = False
    average: float = 0.0
    patch_attention: str = "clip"


BASE = Variant("default")
VARIANTS = [
    BASE,
    replace(BASE, name="dropout of V 0 (paper)", vision_dropout=0.0),
    replace(BASE, name="dropout of V 0.8", vision_dropout=0.8),
    replace(BASE, name="query_only_prob 0.5", query_only_prob=0.5),
    replace(BASE, name="prompts 3e-3", learning_rate=3e-3),
    replace(BASE, name="psi 1e-4", projection_learning_rate=1e-4),
    replace(BASE, name="average 0.98", average=0.98),
    replace(BASE, name="words", words=True),
    replace(BASE, name="psi 3e-4", projection_learning_rate=3e-4),
    replace(BASE, name="constant rates", decay=False),
    replace(BASE, name="15 epochs", epochs=15),
    replace(BASE, name="image_loss_weight 0 (paper)", image_loss_weight=0.0),
    replace(BASE, name="query_only_prob 0 (paper)", query_only_prob=0.0),
    replace(BASE, name="phi 1e-4", vision_learning_rate=1e-4),
    replace(BASE, name="phi weight decay 1", vision_weight_decay=1.0),
    replace(BASE, name="value-value attention", patch_attention="value"),
]


@dataclass
class Split:
    """Images of some categories as the tower sees them, with masks, labels and category names."""

    tokens: ImageTokens
    masks: Tensor | None
    labels: Tensor
    categories: list[str]

    def part(self, index: Tensor) -> ImageTokens:
        """Take some images' tokens."""
        tokens = self.tokens
        patches = tuple(layer[index].float() for layer in tokens.patches)
        return ImageTokens(patches, tokens.cls[index], tokens.pooled[index], tokens.embedding[index])

    def of(self, categories: set[str]) -> "Split":
        """Take the images of some categories."""
        index = torch.tensor([i for i, name in enumerate(self.categories) if name in categories])
        masks = None if self.masks is None else self.masks[index]
        return Split(self.part(index), masks, self.labels[index], [self.categories[i] for i in index.tolist()])


def folds_of(source: Split, number: int) -> Iterator[tuple[Split, dict[str, Split]]]:
    """Yield what is left of the source and the categories that are held out, so that each is held out once."""
    categories = list(dict.fromkeys(source.categories))
    order = np.random.default_rng(0).permutation(len(categories))
    for fold in range(number):
        held = {categories[i] for i in order[fold::number]}
        yield source.of(set(categories) - held), {f"fold {fold}": source.of(held)}


def synthetic(categories: tuple[str, ...], root: str) -> Iterator[tuple[str, object]]:
    """Yield the synthetic data of some categories."""
    for category in categories:
        yield category, SyntheticDefects(root, category=category, eval_batch_size=32, num_workers=0)


def photographs(folder: Path) -> Iterator[tuple[str, object]]:
    """Yield the datasets of a folder: in MVTec AD's layout, or without masks."""
    for path in sorted(p for p in folder.iterdir() if p.is_dir()):
        if (path / "ground_truth").is_dir():
            yield path.name, MVTecAD(folder, category=path.name, eval_batch_size=16, num_workers=0)
        else:
            kinds = [f"test/{p.name}" for p in (path / "test").iterdir() if p.name != "good"]
            folder_data = Folder(
                name=path.name,
                root=path,
                normal_dir="train/good",
                abnormal_dir=kinds,
                normal_test_dir="test/good",
                eval_batch_size=16,
                num_workers=0,
                val_split_mode="none",
            )
            yield path.name, folder_data


@torch.no_grad()
def read(model: GenCLIP, data: Iterator[tuple[str, object]]) -> Split:
    """Run the tower over the test images."""
    parts, masks, labels, names = [], [], [], []
    for category, datamodule in data:
        datamodule.prepare_data()
        datamodule.setup()
        for batch in datamodule.test_dataloader():
            images, mask = model.pre_processor.transform(batch.image, batch.gt_mask)
            parts.append(model.model.clip.encode_image(images))
            masks.append(mask)
            labels.append(batch.gt_label)
            names += [category] * len(images)
    layers = tuple(torch.cat(layer).half() for layer in zip(*(part.patches for part in parts), strict=True))
    rest = (torch.cat([getattr(part, field) for part in parts]) for field in ("cls", "pooled", "embedding"))
    whole = None if masks[0] is None else torch.cat(masks)
    return Split(ImageTokens(layers, *rest), whole, torch.cat(labels).bool(), names)


def feed(model: GenCLIPModel, split: Split) -> None:
    """Let the model take image numbers for images: its tower then looks the tokens up."""
    model.clip.encode_image = split.part  # type: ignore[method-assign]


@torch.no_grad()
def start_with_words(model: GenCLIPModel) -> None:
    """Start N_p, A_p and Q_p from the embeddings of written words."""
    tokenizer = model.clip.tokenizer
    for tensor, text in (
        (model.prompts.normal, "perfect flawless normal clean"),
        (model.prompts.abnormal, "damaged broken defective faulty"),
        (model.prompts.query, "a photo of a"),
    ):
        ids = tokenizer.encode(text)[: len(tensor)]
        tensor.copy_(model.clip.embed(ids))


def train(model: GenCLIPModel, split: Split, variant: Variant) -> None:
    """Train the prompts as GenCLIP does."""
    feed(model, split)
    loss = GenCLIPLoss(variant.image_loss_weight)
    prompts = model.prompts
    if variant.words:
        start_with_words(model)
    optimizer = torch.optim.AdamW(
        [
            {"params": [prompts.normal, prompts.abnormal, prompts.query], "lr": variant.learning_rate},
            {
                "params": prompts.vision.parameters(),
                "lr": variant.vision_learning_rate or variant.learning_rate,
                "weight_decay": variant.vision_weight_decay,
            },
            {"params": model.projections.parameters(), "lr": variant.projection_learning_rate},
        ],
        weight_decay=0.0,
    )
    names = model.class_index([name.replace("_", " ") for name in split.categories])
    steps = variant.epochs * math.ceil(len(names) / BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1 - k / steps if variant.decay else 1.0)
    learned = [*prompts.parameters(), *model.projections.parameters()]
    averaged = [value.detach().clone() for value in learned]
    model.train()
    for _ in range(variant.epochs):
        for index in torch.randperm(len(names)).split(BATCH):
            query_only = torch.rand(len(index)) < variant.query_only_prob
            maps, cls = model.training_logits(index, names[index], query_only, variant.vision_dropout)
            value = loss(maps, cls, split.masks[index], split.labels[index])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step()
            for mean, now in zip(averaged, learned, strict=True):
                mean.lerp_(now.detach(), 1 - variant.average)
    if variant.average:
        for mean, now in zip(averaged, learned, strict=True):
            now.data.copy_(mean)
    model.eval()


@torch.no_grad()
def frozen_scores(clip: FrozenCLIP, split: Split) -> dict[str, Tensor]:
    """Image scores of the frozen CLIP: the CLS token against one written pair, and against WinCLIP's ensemble."""
    result = {"pair": torch.zeros(len(split.labels)), "ensemble": torch.zeros(len(split.labels))}
    for category in dict.fromkeys(split.categories):
        index = torch.tensor([i for i, name in enumerate(split.categories) if name == category])
        name = category.replace("_", " ")
        texts = {
            "pair": ([f"a photo of a perfect {name}"], [f"a photo of a damaged {name}"]),
            "ensemble": create_prompt_ensemble(name),
        }
        for kind, states in texts.items():
            means = [clip.encode_texts(list(dict.fromkeys(state))).mean(0) for state in states]
            pair = torch.nn.functional.normalize(torch.stack(means), dim=-1)
            result[kind][index] = (split.tokens.embedding[index] @ pair.T / TEMPERATURE).softmax(-1)[:, 1]
    return result


def trained_cls(model: GenCLIPModel, image: ImageTokens, result: BranchMaps) -> Tensor:
    """Compare the CLS token with the learned prompts, which the package does not do at inference, ``(B,)``."""
    cls = (image.pooled @ model.projections[-1]).unsqueeze(1)
    own = [abnormal_probability(similarity_logits(cls, text[-1]))[:, 0] for text in result.text.values()]
    return torch.stack(own).mean(0)


def _auroc(scores: Tensor, labels: Tensor) -> float:
    return 100 * binary_auroc(scores, labels.int()).item()


@torch.no_grad()
def compute_metrics(
    model: GenCLIPModel, split: Split, frozen: dict[str, Tensor], branches: tuple[str, ...]
) -> dict[str, float]:
    """Compute mean metrics over the categories, in percent."""
    feed(model, split)
    names = model.class_index([name.replace("_", " ") for name in split.categories])
    rows: list[dict[str, float]] = []
    for category in dict.fromkeys(split.categories):
        index = torch.tensor([i for i, name in enumerate(split.categories) if name == category])
        labels, row = split.labels[index], {}
        for branch in branches:
            model.branches = branch
            results = [model.branch_maps(batch, names[batch]) for batch in index.split(64)]
            grid = torch.cat([torch.stack(list(result.maps.values())).mean(0) for result in results])
            cls = torch.cat([
                trained_cls(model, split.part(batch), result)
                for batch, result in zip(index.split(64), results, strict=True)
            ])
            maps = upsample(grid, model.image_size)
            top = top_mean(maps)
            scores = CategoryScores()
            if split.masks is not None:
                for i, (anomaly_map, mask) in enumerate(zip(maps.squeeze(1), split.masks[index] > 0, strict=True)):
                    scores.add(str(i), float(top[i]), bool(labels[i]), anomaly_map, mask)
                values, _ = scores.compute_metrics()
                row |= {f"{branch} pixel": 100 * values["pixel_AUROC"], f"{branch} aupro": 100 * values["pixel_AUPRO"]}
            row |= {f"{branch} top": _auroc(top, labels), f"{branch} cls": _auroc(cls, labels)}
            row[f"{branch} top+cls"] = _auroc(top + cls, labels)
            if branch == "both":
                ensemble, flat = frozen["ensemble"][index], maps.flatten(1)
                scores_of = {
                    "pair": frozen["pair"][index],
                    "ensemble": ensemble,
                    "top+ens": top + ensemble,
                    "cls+ens": cls + ensemble,
                    "2top+cls+ens": 2 * top + cls + ensemble,
                    "top+cls+ens": top + cls + ensemble,
                    "top+cls+2ens": top + cls + 2 * ensemble,
                    "max": flat.amax(1),
                    "top 5 %": flat.topk(flat.shape[1] // 20, 1)[0].mean(1),
                    "top-median": top - flat.median(1)[0],
                }
                row |= {key: _auroc(value, labels) for key, value in scores_of.items()}
        rows.append(row)
    keys = list(dict.fromkeys(key for row in rows for key in row))
    return {key: sum(row[key] for row in rows if key in row) / sum(key in row for row in rows) for key in keys}


def main() -> None:
    """Run all variants and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pretrained", help="weights of the backbone tiny; bundled if left out")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", help="names of the variants to run")
    parser.add_argument("--root", default="./datasets/SyntheticDefects")
    parser.add_argument("--photographs", type=Path, help="folder of further datasets to choose with")
    parser.add_argument("--folds", type=int, default=0, help="test on categories of SOURCE, held out in so many folds")
    parser.add_argument("--out", type=Path, default=Path("tuning.csv"))
    args = parser.parse_args()
    settings = ModelSettings.resolve("tiny", pretrained=args.pretrained)
    clip = load_clip(settings.spec, settings.pretrained, settings.image_size)
    splits: dict[str, tuple[Split, dict[str, Split]]] = {}
    table: list[dict[str, object]] = []
    for variant in VARIANTS:
        if args.only and variant.name not in args.only:
            continue
        if variant.patch_attention not in splits:
            reader = GenCLIP(backbone="tiny", pretrained=args.pretrained, patch_attention=variant.patch_attention)
            targets: dict[str, Split] = {}
            if not args.folds:
                targets["tuning"] = read(reader, synthetic(TUNING, args.root))
                for name, datamodule in photographs(args.photographs) if args.photographs else []:
                    targets[name] = read(reader, iter([(name, datamodule)]))
            source = read(reader, synthetic(SOURCE, args.root))
            splits = {variant.patch_attention: (source, targets)}  # one at a time, for memory
        every = splits[variant.patch_attention]
        rounds = list(folds_of(every[0], args.folds)) if args.folds else [every]
        frozen = [
            {name: frozen_scores(reader.model.clip, split) for name, split in targets.items()} for _, targets in rounds
        ]
        for ((source, targets), scores), seed in product(zip(rounds, frozen, strict=True), range(args.seeds)):
            start = time.monotonic()
            torch.manual_seed(seed)
            model = GenCLIPModel(clip, settings).eval()
            branches = ("both", "vision", "query")
            stages = ["untrained", variant.name] if variant is BASE and seed == 0 else [variant.name]
            for stage in stages:
                if stage == variant.name:
                    train(model, source, variant)
                for name, split in targets.items():
                    row = compute_metrics(model, split, scores[name], branches)
                    table.append({"variant": stage, "data": name, "seed": seed, **row})
            pd.DataFrame(table).round(2).to_csv(args.out, index=False)
            shown = {key: round(value, 1) for key, value in table[-len(targets)].items() if isinstance(value, float)}
            print(f"{variant.name} seed {seed} {time.monotonic() - start:.0f} s {shown}", flush=True)


if __name__ == "__main__":
    main()
