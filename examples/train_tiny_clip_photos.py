# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Train the bundled demonstration CLIP on with photographs and a teacher, on an ordinary processor or a GPU.

Each step takes pictures that the teacher has seen (``examples/teacher_features.py``) and captioned renders::

    python examples/train_tiny_clip.py render --pool /tmp/pool --shards 3
    python examples/teacher_features.py --photos PHOTOS --pool /tmp/pool --out /tmp/teacher
    python examples/train_tiny_clip_photos.py --pool /tmp/pool --teacher /tmp/teacher --out runs/photos --minutes 75

It continues from its own checkpoint when it is started again. ``examples/measure_features.py`` measures a checkpoint,
``examples/export_tiny_clip.py`` writes the weights file. No word of a state and no mask of a defect reaches a patch.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from open_clip import tokenize
from open_clip.model import CLIP
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
from torch.nn import functional
from train_tiny_clip import (
    GRID,
    TEMPERATURE,
    Batch,
    Pool,
    Restoration,
    Vocabulary,
    build,
    contrast,
    encode_texts,
    load_clip,
    project,
    tower,
)  # fmt: skip

from anomalib_genclip.demo.tiny_clip import VISION

LAYERS = (2, 4, 6, 8)
# Sizes of the teacher's stages in a row of features, and how much of each a layer's own similarities follow.
STAGES = (32, 64, 96)
FOLLOWS = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0]])
PHOTO = 0
# Of the time; before, the tower sees a share of the patches of photographs, which takes half the time.
FULL_FROM = 0.75
TEMPLATES = ("a photo of a {}", "a {}", "a close-up photo of a {}", "a photo of the {}")


class PhotoVocabulary(Vocabulary):
    """Also the tokens of ImageNet's class names and of the photographs' own.

    Args:
        names: The photographs' class names.
    """

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        sentences = [template.format(name) for name in (*IMAGENET_CLASSNAMES, *names) for template in TEMPLATES]
        self.ids = sorted({*self.ids, *(int(i) for chunk in tokenize(sentences) for i in chunk if i)})
        self.place = {token: k for k, token in enumerate(self.ids)}


# --- pictures -----------------------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """Pictures that the teacher has seen.

    Args:
        images: As teacher and student see them, ``(n, 3, S, S)`` uint8.
        clean: The same before parts were replaced, for those where ``corrupted``; else the same.
        corrupted: ``(n,)`` bool.
        features: The teacher's features on the patch grid, ``(n, 196, 192)`` float32, each stage's part at most 1 long.
        logits: Of ImageNet's classes, ``(n, 1000)`` float32.
        names: Class names of photographs, empty for other pictures.
        photo: Which are photographs, ``(n,)`` bool.
    """

    images: torch.Tensor
    clean: torch.Tensor
    corrupted: torch.Tensor
    features: torch.Tensor
    logits: torch.Tensor
    names: list[str]
    photo: torch.Tensor

    def to(self, device: str) -> "Seen":
        """Move all tensors."""
        moved = (v.to(device, non_blocking=True) if isinstance(v, torch.Tensor) else v for v in self)
        return Seen(*moved)


class SeenPool(torch.utils.data.IterableDataset):
    """Endless batches from the teacher's folder, mirrored and recoloured at random.

    Args:
        folder: Written by ``teacher_features.py``, which may still run.
        batch: Pictures per batch.
        seed: Seed of order and augmentation; each loader process draws its own.
    """

    def __init__(self, folder: Path, batch: int, seed: int) -> None:
        super().__init__()
        self.folder, self.batch, self.seed = folder, batch, seed

    def __iter__(self) -> Iterator[Seen]:
        """Yield batches."""
        worker = torch.utils.data.get_worker_info()
        rng = np.random.default_rng([self.seed, worker.id if worker else 0])
        arrays = {k: np.load(self.folder / f"{k}.npy", mmap_mode="r") for k in ("seen", "clean", "features", "logits")}
        while True:
            facts = json.loads((self.folder / "facts.json").read_text())
            order = rng.permutation(facts["count"])
            for start in range(0, len(order) - self.batch + 1, self.batch):
                yield self._take(np.sort(order[start : start + self.batch]), arrays, facts, rng)

    def _take(self, rows: np.ndarray, arrays: dict, facts: dict, rng: np.random.Generator) -> Seen:
        parts = {name: torch.from_numpy(array[rows]) for name, array in arrays.items()}
        corrupted = torch.tensor([facts["corrupted"][k] for k in rows])
        images = parts["seen"].permute(0, 3, 1, 2)
        clean = torch.where(corrupted.view(-1, 1, 1, 1), parts["clean"].permute(0, 3, 1, 2), images)
        features = parts["features"].float()
        flip = torch.from_numpy(rng.random(len(rows)) < 0.5)
        images[flip], clean[flip] = images[flip].flip(-1), clean[flip].flip(-1)
        features[flip] = features[flip].unflatten(1, (GRID, GRID)).flip(2).flatten(1, 2)
        if rng.random() < 0.6:  # brightness, contrast and tint, which leave the teacher's features as they were
            gain = torch.from_numpy(rng.uniform(0.7, 1.3, (len(rows), 1, 1, 1)).astype(np.float32))
            shift = torch.from_numpy(rng.normal(0, 16, (len(rows), 1, 1, 1)).astype(np.float32))
            shift = shift + torch.from_numpy(rng.normal(0, 5, (len(rows), 3, 1, 1)).astype(np.float32))
            images, clean = (((x.float() - 128) * gain + 128 + shift).clamp(0, 255).byte() for x in (images, clean))
        names = [facts["names"][k] for k in rows]
        photo = torch.tensor([facts["kinds"][k] == PHOTO for k in rows])
        return Seen(images, clean, corrupted, features, parts["logits"].float(), names, photo)


# --- losses -------------------------------------------------------------------------------------------------------


class Dense(torch.nn.Module):
    """What the teacher's patch features ask of the student's.

    Two terms. *relations*: cosines between the patches of some pictures, which are what a distance to good parts is
    made of, are the teacher's; they are of the tapped tokens themselves, so that no head stands between. *heads*: a
    linear head on each layer says the teacher's features, which brings in what cosines alone teach slowly.

    Args:
        group: Pictures whose patches are compared with each other.
        share: Share of a picture's patches that are.
    """

    def __init__(self, group: int = 4, share: float = 0.35) -> None:
        super().__init__()
        self.heads = torch.nn.ModuleList(torch.nn.Linear(VISION["width"], sum(STAGES)) for _ in LAYERS)
        self.group, self.patches = group, int(share * GRID**2)

    def forward(self, tokens: list[torch.Tensor], features: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute both terms, and as ``follow`` how well relations agree (correlation, not to be trained on).

        Args:
            tokens: Normed patch tokens of each layer ``(n, P, d_v)``.
            features: The teacher's ``(n, P, 192)``.
        """
        stages = features.split(STAGES, -1)
        heads = 0
        for head, layer in zip(self.heads, tokens, strict=True):
            for guess, stage in zip(head(layer).split(STAGES, -1), stages, strict=True):
                heads = heads + (1 - functional.cosine_similarity(guess, stage, dim=-1)).mean() / 12
        groups, known = len(features) // self.group, features.shape[1]
        chosen = torch.rand(groups * self.group, known, device=features.device).argsort(1)[:, : self.patches, None]

        def pick(x: torch.Tensor) -> torch.Tensor:
            """Choose patches and join those of a group: ``(groups, group * patches, d)``."""
            x = x[: len(chosen)].gather(1, chosen.expand(-1, -1, x.shape[-1]))
            return x.unflatten(0, (groups, self.group)).flatten(1, 2)

        grams = [known @ known.transpose(1, 2) for known in map(pick, stages)]
        relations, follow = 0, 0
        for layer, weights in zip(tokens, FOLLOWS.tolist(), strict=True):
            own = pick(functional.normalize(layer, dim=-1))
            own = own @ own.transpose(1, 2)
            wanted = sum(weight * gram for weight, gram in zip(weights, grams, strict=True) if weight)
            relations = relations + self._relation(own, wanted) / 4
            with torch.no_grad():
                rows, cols = torch.triu_indices(own.shape[-1], own.shape[-1], 1, device=own.device)
                pair = torch.stack([own[0, rows, cols], wanted[0, rows, cols]])
                follow = follow + torch.corrcoef(pair)[0, 1] / len(tokens)
        return {"relations": relations, "heads": heads, "follow": follow}

    @staticmethod
    def _relation(own: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """Compare cosines ``(groups, P, P)``: all of them, and which patches are the nearest of each."""
        same = torch.eye(own.shape[-1], device=own.device)
        pairs = len(own) * (same.numel() - len(same))
        middle = (wanted * (1 - same)).sum() / pairs
        spread = (((wanted - middle) * (1 - same)) ** 2).sum().div(pairs).sqrt()
        # What all patches have in common does not matter to which is near.
        error = (own - wanted) * (1 - same)
        scattered = ((error**2).sum() / pairs - (error.sum() / pairs) ** 2) / spread**2
        temperature = 0.4 * spread
        near = (wanted / temperature - 1e4 * same).softmax(-1)
        guess = (own / temperature - 1e4 * same).log_softmax(-1)
        return scattered + functional.kl_div(guess, near, reduction="sum") / near[..., 0].numel()


class Names:
    """Names of what photographs show: the teacher's class probabilities and the photographs' own names.

    Args:
        vocabulary: Tokens of both.
        classes: ImageNet's classes that a step compares, besides those that its pictures look like.
    """

    def __init__(self, vocabulary: PhotoVocabulary, classes: int = 40) -> None:
        self.vocabulary, self.classes = vocabulary, classes
        self.tokens, self.last = vocabulary.encode_all([TEMPLATES[0].format(name) for name in IMAGENET_CLASSNAMES])

    def texts(self, seen: Seen) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Choose a step's sentences: tokens and ends of classes and own names, the classes, and whose name is which."""
        likely = seen.logits[seen.photo].topk(2, -1).indices.flatten()
        chosen = torch.unique(torch.cat([likely, torch.randint(1000, (self.classes,), device=likely.device)]))
        own = sorted({name for name in seen.names if name})
        template = TEMPLATES[int(torch.randint(len(TEMPLATES), ()))]
        tokens, last = self.vocabulary.encode_all([
            template.format(name.replace("-", " ").replace("_", " ")) for name in own
        ])
        width = max(self.tokens.shape[1], tokens.shape[1])
        rows = [functional.pad(x, (0, width - x.shape[1])) for x in (self.tokens[chosen.cpu()], tokens)]
        where = torch.tensor([own.index(name) for name in seen.names if name])
        device = seen.images.device
        tokens, last = torch.cat(rows).to(device), torch.cat([self.last[chosen.cpu()], last]).to(device)
        return tokens, last, chosen, where.to(device)

    @staticmethod
    def losses(
        images: torch.Tensor,
        texts: torch.Tensor,
        scale: torch.Tensor,
        seen: Seen,
        chosen: torch.Tensor,
        where: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Compute both losses from image features of the photographs and text features of :meth:`texts`."""
        wanted = (seen.logits[seen.photo][:, chosen] / 1.5).softmax(-1)
        said = functional.log_softmax(scale * images @ texts[: len(chosen)].T, -1)
        entropy = -(wanted * wanted.clamp(min=1e-9).log()).sum(-1).mean()
        classes = -(wanted * said).sum(-1).mean() - entropy
        return {"classes": classes, "label": functional.cross_entropy(scale * images @ texts[len(chosen) :].T, where)}


def step_loss(
    model: CLIP, parts: torch.nn.ModuleDict, names: Names, batch: Batch, seen: Seen, share: float = 1.0
) -> dict[str, torch.Tensor]:
    """Compute the losses of one step, of which the tower sees only a share of the patches of ``seen``."""
    kept = torch.rand(len(seen.images), GRID**2, device=seen.images.device).argsort(1)[:, : int(share * GRID**2)]
    captions = batch.captions
    tokens, last, chosen, where = names.texts(seen)
    # On a processor small pieces keep the activations in its cache, and bf16 may be slow.
    with torch.autocast(seen.images.device.type, torch.bfloat16, enabled=seen.images.is_cuda):
        texts = encode_texts(model, captions.tokens, captions.last)
        more = encode_texts(model, tokens, last)
        size = 10**6 if seen.images.is_cuda else 16
        captioned = torch.cat([tower(model, piece, LAYERS[-1:])[0][:, 0] for piece in batch.images.split(size)])
        pieces = [
            tower(model, piece, LAYERS, places)
            for piece, places in zip(seen.images.split(size), kept.split(size), strict=True)
        ]
        layers = [torch.cat(piece) for piece in zip(*pieces, strict=True)]
        cls, seen_cls = project(model, captioned), project(model, layers[-1][:, 0])
    layers = [layer[:, 1:].float() for layer in layers]
    scale = model.logit_scale.exp().clamp(max=50)
    states = torch.einsum("bd,bsd->bs", cls, texts[captions.states]) / TEMPERATURE
    losses = {
        "contrast": contrast(cls @ texts.T, captions.own, captions.truth, scale),
        "state": functional.cross_entropy(states, captions.damaged),
    }
    losses |= names.losses(seen_cls[seen.photo], more, scale, seen, chosen, where)
    hurt = seen.corrupted
    tokens_of_hurt = [x[hurt] for x in layers[1:]]
    losses["restore"] = parts["restoration"](tokens_of_hurt, seen.images[hurt], seen.clean[hurt], kept[hurt])
    normed = [
        functional.layer_norm(x, x.shape[-1:], model.visual.ln_post.weight, model.visual.ln_post.bias) for x in layers
    ]
    features = seen.features.gather(1, kept[..., None].expand(-1, -1, seen.features.shape[-1]))
    return losses | parts["dense"](normed, features)


# --- training -----------------------------------------------------------------------------------------------------


def start_from(source: str, vocabulary: PhotoVocabulary) -> CLIP:
    """Build the model for a vocabulary with the weights of another; new words start near the mean of the known."""
    old, ids = load_clip(source)
    model, rows = build(len(vocabulary)), old.token_embedding.weight.detach()
    state = {key: value for key, value in old.state_dict().items() if key != "token_embedding.weight"}
    model.load_state_dict(state, strict=False)
    with torch.no_grad():
        weight = rows.mean(0) + rows.std(0) * 0.3 * torch.randn(len(vocabulary), rows.shape[1])
        weight[[vocabulary.place[token] for token in ids]] = rows
        model.token_embedding.weight.copy_(weight)
    return model


def learning_rate(step: int, progress: float, peak: float) -> float:
    """Rise over 40 steps, stay, and fall to zero over the last 60 % of the time."""
    return peak * min(1, (step + 1) / 40) * min(1, max(0.01, (1 - progress) / 0.6))


def train(args: argparse.Namespace) -> None:
    """Train for a time or a number of steps, continuing from the last checkpoint of ``args.out`` if there is one."""
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(1)
    classes = json.loads((args.teacher / "classes.json").read_text())  # of all photographs, seen by the teacher or not
    vocabulary = PhotoVocabulary([name.replace("-", " ").replace("_", " ") for name in classes])
    pool = Pool(args.pool, args.batch, 0, args.seed)
    pool.vocabulary = vocabulary
    model = start_from(args.start, vocabulary)
    pictures = next(iter(SeenPool(args.teacher, 256, args.seed)))
    parts = torch.nn.ModuleDict({"restoration": Restoration(pictures.clean), "dense": Dense()})
    if args.start.endswith(".pt"):
        parts.load_state_dict(torch.load(args.start, weights_only=True)["parts"])
    model.to(args.device), parts.to(args.device)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.02}, {"params": [*others, *parts.parameters()], "weight_decay": 0.0}],
        lr=args.lr, betas=(0.9, 0.98),
    )  # fmt: skip
    last, step, spent = args.out / "last.pt", 0, 0.0
    if last.exists():
        saved = torch.load(last, map_location=args.device, weights_only=True)
        model.load_state_dict(saved["model"])
        parts.load_state_dict(saved["parts"])
        optimizer.load_state_dict(saved["optimizer"])
        step, spent = saved["step"], saved["seconds"]
    loader = lambda source: iter(torch.utils.data.DataLoader(source, None, num_workers=args.workers))  # noqa: E731
    pool.seed = args.seed + 1000 * step  # a resumed run goes on with other draws
    captioned, distilled = loader(pool), loader(SeenPool(args.teacher, args.seen, args.seed + 1000 * step))
    names, weights = Names(vocabulary), {name: getattr(args, name) for name in WEIGHTS}
    since, totals, counted, saved_at = time.time(), {}, 0, spent
    while (progress := max(step / args.steps if args.steps else 0, spent / 60 / args.minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, progress, args.lr)
        share = args.share if progress < FULL_FROM else 1.0
        batch, seen = next(captioned).to(args.device), next(distilled).to(args.device)
        losses = step_loss(model, parts, names, batch, seen, share)
        optimizer.zero_grad()
        sum(weight * losses[name] for name, weight in weights.items() if weight).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        optimizer.step()
        step, counted = step + 1, counted + 1
        for name, loss in losses.items():
            totals[name] = totals.get(name, 0) + loss.detach().item()
        spent, since = spent + time.time() - since, time.time()
        if step % args.every == 0:
            means = " ".join(f"{name} {total / counted:.3f}" for name, total in totals.items())
            print(f"step {step} {spent / 60:.1f} min {means} scale {model.logit_scale.exp().item():.1f}", flush=True)
            totals, counted = {}, 0
        if spent - saved_at > 60 * args.save_minutes:
            saved_at = spent
            _save(last, model, parts, optimizer, step, spent, vocabulary)
            since = time.time()
    _save(last, model, parts, optimizer, step, spent, vocabulary)
    print(f"done: {step} steps of {args.batch} + {args.seen}, {spent / 60:.1f} minutes", flush=True)


def _save(
    path: Path,
    model: CLIP,
    parts: torch.nn.ModuleDict,
    optimizer: torch.optim.Optimizer,
    step: int,
    seconds: float,
    vocabulary: PhotoVocabulary,
) -> None:
    """Write a checkpoint atomically, and keep one per call without the optimizer's state."""
    content = {"model": model.state_dict(), "ids": vocabulary.ids, "step": step, "seconds": seconds}
    content["parts"] = parts.state_dict()
    torch.save(content, path.with_name(f"step_{step:05}.pt"))
    torch.save(content | {"optimizer": optimizer.state_dict()}, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


# With weights of 0.15 for the first two and eight captioned renders a step, the states were forgotten.
WEIGHTS = {"contrast": 0.7, "state": 0.5, "classes": 1.0, "label": 0.3, "restore": 1.0, "relations": 1.5, "heads": 3.0}


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=Path, required=True, help="rendered by train_tiny_clip.py")
    parser.add_argument("--teacher", type=Path, required=True, help="written by teacher_features.py")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", default="bundled", help="weights to start from: 'bundled', a file or a checkpoint")
    parser.add_argument(
        "--minutes", type=float, required=True, help="end after this time; the learning rate falls by it"
    )
    parser.add_argument("--steps", type=int, help="or after so many steps")
    parser.add_argument("--batch", type=int, default=10, help="captioned renders per step")
    parser.add_argument("--seen", type=int, default=40, help="pictures per step that the teacher has seen")
    parser.add_argument("--share", type=float, default=0.45, help="of the patches of those that it sees at first")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--device", default="cpu", help="a GPU takes batches of hundreds of images, in bf16")
    parser.add_argument("--workers", type=int, default=0, help="processes that read and augment, for each source")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--every", type=int, default=20, help="steps between lines of progress")
    parser.add_argument("--save_minutes", type=float, default=5, help="time between checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    for name, weight in WEIGHTS.items():
        parser.add_argument(f"--{name}", type=float, default=weight, help="weight of this term")
    train(parser.parse_args())


if __name__ == "__main__":
    _main()
