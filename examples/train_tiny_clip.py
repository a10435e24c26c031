# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Train the bundled demonstration CLIP on captioned renders, on an ordinary processor.

Two commands, the second of which continues from its own checkpoint when it is started again::

    python examples/train_tiny_clip.py render --pool /tmp/pool --shards 40
    python examples/train_tiny_clip.py train --pool /tmp/pool --out runs/tiny

``examples/export_tiny_clip.py`` then writes the weights file of the package. What is trained on what, and how well
it does, is in ``docs/tiny_clip_model_card.md``.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from anomalib.metrics.aupro import _AUPRO
from export_tiny_clip import scale_embedding
from open_clip import tokenize
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score
from torch.nn import functional
from unnamed_renders import render_anonymous

from anomalib_genclip.demo.synthetic import CATEGORIES, DEFECTS_OF, SOURCE, TEXTURES, TUNING, UNSEEN_BY_TINY, render
from anomalib_genclip.demo.tiny_clip import EMBED_DIM, TEXT, TINY_CLIP_FILE, TRAINED_IDS, TRAINED_ROWS, VISION

SEEN = tuple(name for name in CATEGORIES if name not in UNSEEN_BY_TINY)
SHARD = 1000
# Share of nameless things among the pictures, and of damaged ones.
ANONYMOUS, DAMAGED = 0.55, 0.6
# TINY_CLIP_SIDE=224 trains with twice the pixels in the same patches; export_tiny_clip.py goes back to the package's.
SIDE = int(os.environ.get("TINY_CLIP_SIDE", VISION["image_size"]))
GRID = VISION["image_size"] // VISION["patch_size"]
PATCH = SIDE // GRID
POOL_SIDE = SIDE * 8 // 7
# Sizes in pixels below are meant for 112 px.
SCALE = SIDE / 112
# Pixels along a side of a patch that masked prediction has to say.
RESTORED = 8
# Of the state and region terms; the contrast between images and captions learns its own, as CLIP does.
TEMPERATURE = 0.07
MEAN = torch.tensor(OPENAI_DATASET_MEAN).view(3, 1, 1)
STD = torch.tensor(OPENAI_DATASET_STD).view(3, 1, 1)


# --- pictures -----------------------------------------------------------------------------------------------------


def render_shard(folder: Path, number: int, seed: int) -> None:
    """Render 1,000 pictures.

    They are in ``NNN.npy``, ``(1000, P, P, 4)`` uint8 (RGB and mask), and their facts in ``NNN.json``.
    """
    rng = np.random.default_rng([seed, number])
    pictures, facts = np.empty((SHARD, POOL_SIDE, POOL_SIDE, 4), np.uint8), []
    for k in range(SHARD):
        damaged = bool(rng.random() < DAMAGED)
        if rng.random() < ANONYMOUS:
            image, mask, surface, kind = render_anonymous(damaged, POOL_SIDE, rng)
            name = None
        else:
            name = str(rng.choice(SEEN))
            kind = str(rng.choice(DEFECTS_OF[name])) if damaged else None
            image, mask = render(name, kind, POOL_SIDE, rng)
            surface = name in TEXTURES
        pictures[k, ..., :3], pictures[k, ..., 3] = image, mask
        facts.append({"name": name, "surface": surface, "kind": kind})
    np.save(folder / f"{number:03}.tmp.npy", pictures)
    (folder / f"{number:03}.json").write_text(json.dumps(facts))
    (folder / f"{number:03}.tmp.npy").rename(folder / f"{number:03}.npy")


def render_pool(folder: Path, first: int, shards: int, seed: int) -> None:
    """Render the shards that are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    for number in range(first, shards):
        if not (folder / f"{number:03}.npy").exists():
            start = time.time()
            render_shard(folder, number, seed)
            print(f"shard {number}: {time.time() - start:.0f} s", flush=True)


class Pool(torch.utils.data.IterableDataset):
    """Endless augmented batches from the rendered shards.

    Args:
        folder: Where the shards are. New ones are noticed every 200 batches.
        batch: Captioned images per batch.
        corrupted: Images per batch without a caption, to be restored.
        seed: Seed of the order, the augmentation and the captions; each loader process draws its own.
    """

    def __init__(self, folder: Path, batch: int, corrupted: int, seed: int) -> None:
        super().__init__()
        self.folder, self.batch, self.corrupted, self.seed = folder, batch, corrupted, seed
        self.vocabulary = Vocabulary()

    def _open(self) -> list[tuple[np.ndarray, list[dict]]]:
        files = sorted(self.folder.glob("[0-9][0-9][0-9].npy"))
        return [(np.load(file, mmap_mode="r"), json.loads(file.with_suffix(".json").read_text())) for file in files]

    def __iter__(self) -> Iterator["Batch"]:
        """Yield batches."""
        cv2.setNumThreads(1)
        worker = torch.utils.data.get_worker_info()
        rng = np.random.default_rng([self.seed, worker.id if worker else 0])
        for number in range(10**9):
            if number % 200 == 0:
                shards = self._open()
            images, facts = [], []
            for _ in range(self.batch + self.corrupted):
                pictures, known = shards[rng.integers(len(shards))]
                k = rng.integers(len(known))
                image, mask = augment(pictures[k], rng)
                images.append(image)
                facts.append(known[k] | {"damaged": bool(mask.any()), "place": place_of(mask)})
            clean = images[self.batch :]
            corrupted = [corrupt(image, clean[k - 1], rng) for k, image in enumerate(clean)]
            captions = write_captions(facts[: self.batch], self.vocabulary, rng)
            yield Batch(_stack(images[: self.batch]), captions, _stack(corrupted), _stack(clean))


def _stack(images: list[np.ndarray]) -> torch.Tensor:
    """Stack images ``(S, S, 3)`` to ``(n, 3, S, S)``."""
    return torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image in images]) if images else torch.empty(0)


def corrupt(image: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Hide or replace parts of an image, for masked prediction; no label and no caption enter.

    Args:
        image: ``(S, S, 3)`` uint8.
        other: Another image, from which parts may be taken.
        rng: Source of randomness.

    Returns:
        The corrupted image, ``(S, S, 3)`` uint8.
    """
    contents = (
        lambda: np.roll(other, rng.integers(-SIDE // 2, SIDE // 2, 2), (0, 1)),
        lambda: np.roll(image, rng.integers(-SIDE // 2, SIDE // 2, 2), (0, 1)),
        lambda: rng.uniform(0, 255, 3).astype(np.float32),
        lambda: cv2.GaussianBlur(image, (0, 0), SCALE * rng.uniform(1.5, 5)),
        lambda: image * np.float32(rng.uniform(0.3, 1.7)) + rng.uniform(-40, 40, 3).astype(np.float32),
        lambda: np.roll(image, np.round(SCALE * rng.choice([-5, -4, -3, 3, 4, 5], 2)).astype(int), (0, 1)),
    )
    result = image.astype(np.float32)
    for _ in range(rng.integers(1, 5)):
        alpha = _random_region(rng)[..., None] * np.float32(rng.uniform(0.5, 1))
        result += alpha * (contents[rng.choice(6, p=(0.2, 0.2, 0.2, 0.1, 0.2, 0.1))]() - result)
    return np.clip(result, 0, 255).astype(np.uint8)


def _random_region(rng: np.random.Generator) -> np.ndarray:
    """Draw whole patches, a smooth blob or a curve, ``(S, S)`` in [0, 1]."""
    kind = rng.random()
    if kind < 0.3:
        patches = (rng.random((GRID, GRID)) < rng.uniform(0.02, 0.12)).astype(np.float32)
        return np.kron(patches, np.ones((PATCH, PATCH), np.float32))
    sheet = np.zeros((112, 112), np.float32)
    centre, turns = rng.uniform(0, 112, 2), np.cumsum(rng.normal(0, rng.uniform(0.05, 0.6), 12)) + rng.uniform(0, 7)
    if kind < 0.65:
        axes = rng.uniform(2, rng.choice([5, 10, 20]), 2)
        cv2.ellipse(sheet, (tuple(centre.tolist()), tuple((2 * axes).tolist()), rng.uniform(0, 180)), 1.0, -1)
        bend = cv2.resize(rng.normal(0, 1, (9, 9, 2)).astype(np.float32), (112, 112), interpolation=cv2.INTER_CUBIC)
        at = np.stack(np.meshgrid(np.arange(112), np.arange(112)), -1).astype(np.float32) + bend * axes.mean() * 0.4
        sheet = cv2.remap(sheet, at.astype(np.float32), None, cv2.INTER_LINEAR)
    else:
        step = rng.uniform(1, 7)
        points = centre + np.cumsum(step * np.stack([np.cos(turns), np.sin(turns)], 1), 0)
        cv2.polylines(
            sheet,
            [np.round(points).astype(np.int32)],
            isClosed=False,
            color=1.0,
            thickness=int(rng.choice([1, 1, 2, 3])),
        )
    sheet = cv2.GaussianBlur(sheet, (0, 0), rng.uniform(0.3, 1.2))
    return sheet if SIDE == 112 else cv2.resize(sheet, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)


def augment(picture: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Crop, mirror, recolour and blur a picture of the pool.

    A crop must either hold at least 24 damaged pixels (at 112 px) or none, so that its caption is true.

    Returns:
        Image ``(S, S, 3)`` uint8 and mask ``(S, S)`` float32 of zeros and ones.
    """
    for attempt in range(6):
        side = POOL_SIDE if rng.random() < 0.45 or attempt == 5 else int(SCALE * rng.uniform(48, 128))
        top, left = rng.integers(0, POOL_SIDE - side + 1, 2)
        crop = picture[top : top + side, left : left + side]
        damaged = int((crop[..., 3] > 127).sum())
        if damaged == 0 or damaged >= 24 * SCALE**2:
            break
    crop = np.rot90(crop, rng.integers(4))
    crop = cv2.resize(np.ascontiguousarray(crop[:, :: rng.choice([-1, 1])]), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    mask = (crop[..., 3] > 127).astype(np.float32)
    return recolour(np.ascontiguousarray(crop[..., :3]), rng), mask


def recolour(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change the colours, contrast, sharpness and noise of an image ``(S, S, 3)`` uint8."""
    if rng.random() < 0.5:
        image = image[..., rng.permutation(3)]
    if rng.random() < 0.15:
        image = np.repeat(image.mean(-1, keepdims=True).astype(np.uint8), 3, -1)
    if rng.random() < 0.7:
        ramp = np.linspace(0, 1, 256, dtype=np.float32)[:, None]
        ramp = np.clip((ramp - 0.5) * rng.uniform(0.6, 1.5) + 0.5 + rng.uniform(-0.15, 0.15), 0, 1)
        ramp = np.clip(ramp ** rng.uniform(0.7, 1.4, 3) * rng.uniform(0.8, 1.1, 3), 0, 1)
        ramp = 1 - ramp if rng.random() < 0.08 else ramp
        table = (ramp * 255).astype(np.uint8)
        image = np.stack([table[image[..., k], k] for k in range(3)], -1)
    if rng.random() < 0.2:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.2))
    if rng.random() < 0.3:
        noise = rng.standard_normal(image.shape, dtype=np.float32) * rng.uniform(2, 12)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(image)


def place_of(mask: np.ndarray) -> str | None:
    """Name the third of the picture that a defect's centre lies in, or ``None`` for a normal picture."""
    if not mask.any():
        return None
    rows, cols = np.nonzero(mask)
    row, col = ("top", "", "bottom")[int(rows.mean() * 3 / SIDE)], ("left", "", "right")[int(cols.mean() * 3 / SIDE)]
    return f"{row} {col}".strip() or "centre"


# --- captions -----------------------------------------------------------------------------------------------------

PERFECT = (
    "a photo of a perfect {}", "a photo of a flawless {}", "a photo of a {} without defect", "a perfect {}",
    "a photo of an intact {}", "a photo of a normal {}", "a photo of a {} in good condition", "a clean {}",
    "a close-up photo of a perfect {}", "a photo of an unblemished {}",
)  # fmt: skip
DAMAGED_WORDS = (
    "a photo of a damaged {}", "a photo of a broken {}", "a photo of a {} with a defect", "a damaged {}",
    "a photo of a defective {}", "a photo of an abnormal {}", "a photo of a {} with damage", "a {} with a flaw",
    "a close-up photo of a damaged {}", "a photo of a faulty {}",
)  # fmt: skip
NEUTRAL = ("a photo of a {}", "a {}", "a close-up photo of a {}", "a photo of the {}")
KIND_WORDS = {
    "scratch": ("a scratch", "scratches"), "crack": ("a crack", "a fracture"), "stain": ("a stain", "a spot"),
    "hole": ("a hole", "a puncture"), "dent": ("a dent", "a bump"), "missing": ("a missing part", "a part missing"),
    "chip": ("a chip", "a chipped edge"), "contamination": ("contamination", "dirt on it"),
    "misprint": ("a misprint", "a wrong pattern"), "discoloration": ("discoloration", "a wrong colour"),
    "distortion": ("a distortion", "a bent part"),
}  # fmt: skip
# A made-up name: its only token is the mean of all others, which is how unknown words are read later.
MADE_UP = "\x00"


@dataclass(frozen=True)
class Caption:
    """A sentence and what it claims; ``None`` claims nothing."""

    text: str
    name: str
    damaged: bool | None = None
    kind: str | None = None
    place: str | None = None


def _say(template: str, name: str) -> str:
    """Put a class name into a template; only "object" takes "an"."""
    article = template.replace(" a {}", " an {}") if name == "object" else template
    return article.format(name.replace("_", " "))


def choose_name(fact: dict, rng: np.random.Generator) -> str:
    """Call a picture by its name, by a made-up one if it has none, or (a fifth at least) just "object"."""
    if rng.random() < 0.2:
        return "object"
    if fact["name"]:
        return fact["name"]
    if fact["surface"] and rng.random() < 0.4:
        return "surface"
    return MADE_UP if rng.random() < 0.4 else "object"


def caption_of(fact: dict, name: str, rng: np.random.Generator) -> Caption:
    """Write a caption: class, state, and for damage half the time its kind and perhaps its place."""
    if rng.random() < 0.12:
        return Caption(_say(str(rng.choice(NEUTRAL)), name), name)
    if not fact["damaged"]:
        return Caption(_say(str(rng.choice(PERFECT)), name), name, damaged=False)
    kind = fact["kind"] if rng.random() < 0.5 else None
    place = fact["place"] if rng.random() < 0.25 else None
    if kind is None:
        text = _say(str(rng.choice(DAMAGED_WORDS)), name)
    else:
        text = _say("a photo of a {} with ", name) + str(rng.choice(KIND_WORDS[kind]))
    return Caption(text + (f" at the {place}" if place else ""), name, damaged=True, kind=kind, place=place)


class Captions(NamedTuple):
    """The sentences of a batch of ``B`` images, as tensors.

    Args:
        tokens: Distinct sentences, padded, ``(K, L)``.
        last: Position of [EOS] in each, ``(K,)``.
        own: Number of each image's own caption, ``(B,)``.
        truth: Whether a sentence describes an image, ``(B, K)``.
        states: Numbers of the "perfect" and the "damaged" sentence with the image's name, ``(B, 2)``.
        damaged: Whether an image shows damage, ``(B,)``.
    """

    tokens: torch.Tensor
    last: torch.Tensor
    own: torch.Tensor
    truth: torch.Tensor
    states: torch.Tensor
    damaged: torch.Tensor


class Batch(NamedTuple):
    """What a training step takes.

    Args:
        images: Captioned images ``(B, 3, S, S)`` uint8.
        captions: Their sentences.
        corrupted: Images with parts hidden or replaced ``(C, 3, S, S)`` uint8.
        clean: The same images before, likewise.
    """

    images: torch.Tensor
    captions: Captions
    corrupted: torch.Tensor
    clean: torch.Tensor

    def to(self, device: str) -> "Batch":
        """Move all tensors."""
        captions = Captions(*(value.to(device, non_blocking=True) for value in self.captions))
        moved = (value.to(device, non_blocking=True) for value in (self.images, self.corrupted, self.clean))
        images, corrupted, clean = moved
        return Batch(images, captions, corrupted, clean)


def write_captions(facts: list[dict], vocabulary: "Vocabulary", rng: np.random.Generator) -> Captions:
    """Write a caption for every image, and the pair of states for every name that was chosen."""
    names = [choose_name(fact, rng) for fact in facts]
    own = [caption_of(fact, name, rng) for fact, name in zip(facts, names, strict=True)]
    pick = int(rng.integers(len(PERFECT))) if rng.random() < 0.5 else 0
    pair = {name: [_say(words[pick], name) for words in (PERFECT, DAMAGED_WORDS)] for name in sorted(set(names))}
    claims = own + [Caption(texts[s], name, bool(s)) for name, texts in pair.items() for s in (0, 1)]
    captions = list({claim.text: claim for claim in claims}.values())
    at = {claim.text: k for k, claim in enumerate(captions)}
    tokens, last = vocabulary.encode_all(list(at))
    return Captions(
        tokens=tokens,
        last=last,
        own=torch.tensor([at[claim.text] for claim in own]),
        truth=torch.from_numpy(truth_table(captions, facts)),
        states=torch.tensor([[at[text] for text in pair[name]] for name in names]),
        damaged=torch.tensor([int(fact["damaged"]) for fact in facts]),
    )


def truth_table(captions: list[Caption], facts: list[dict]) -> np.ndarray:
    """Return whether each caption describes each picture ``(B, K)``; what a caption does not claim is not compared."""
    column = lambda values: np.array(values, object)[:, None]  # noqa: E731
    keys = ("name", "damaged", "kind", "place")
    claimed = {key: np.array([getattr(caption, key) for caption in captions], object) for key in keys}
    named = claimed["name"] == column([fact["name"] or MADE_UP for fact in facts])
    surface = (claimed["name"] == "surface") & column([fact["surface"] for fact in facts]).astype(bool)
    table = named | surface | (claimed["name"] == "object")
    for key in keys[1:]:
        seen = [fact[key] if fact["damaged"] or key == "damaged" else "" for fact in facts]
        silent = np.array([value is None for value in claimed[key]])
        table = table & (silent | (claimed[key] == column(seen)))
    return table.astype(bool)


class Vocabulary:
    """CLIP's tokens, renumbered to those that captions can hold, so that the embedding stays small while training."""

    def __init__(self) -> None:
        names = [name.replace("_", " ") for name in SEEN] + ["object", "surface"]
        sentences = [t.format(n) for t in (*PERFECT, *DAMAGED_WORDS, *NEUTRAL) for n in names]
        sentences += [word for words in KIND_WORDS.values() for word in words] + ["a an of with"]
        sentences += [f"at the {row} {col} centre" for row in ("top", "bottom") for col in ("left", "right")]
        self.ids = sorted({int(i) for chunk in tokenize(sentences) for i in chunk if i})
        self.place = {token: k for k, token in enumerate(self.ids)}
        self.cache: dict[str, list[int]] = {}

    def __len__(self) -> int:
        """Return the number of tokens; the number itself stands for the made-up name."""
        return len(self.ids)

    def encode(self, text: str) -> list[int]:
        """Return the renumbered tokens of a sentence, [SOS] and [EOS] included."""
        if text not in self.cache:
            parts = [[self.place[int(i)] for i in tokenize(part)[0] if i] for part in text.split(MADE_UP)]
            tokens = parts[0]
            for part in parts[1:]:
                tokens = [*tokens[:-1], len(self), *part[1:]]
            self.cache[text] = tokens
        return self.cache[text]

    def encode_all(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the padded tokens of sentences ``(K, L)`` and the position of [EOS] in each ``(K,)``."""
        rows = [torch.tensor(self.encode(text)) for text in texts]
        last = torch.tensor([len(row) - 1 for row in rows])
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), last


# --- towers -------------------------------------------------------------------------------------------------------


def encode_texts(model: CLIP, tokens: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    """Encode padded sentences ``(K, L)`` with [EOS] at ``last`` into unit features ``(K, d)``."""
    rows = model.token_embedding.weight
    length = tokens.shape[1]
    x = functional.embedding(tokens, torch.cat([rows, rows.mean(0, keepdim=True)]))
    x = model.transformer(x + model.positional_embedding[:length], attn_mask=model.attn_mask[:length, :length])
    x = model.ln_final(x)[torch.arange(len(tokens), device=x.device), last] @ model.text_projection
    return functional.normalize(x.float(), dim=-1)


def encode_sentences(model: CLIP, vocabulary: Vocabulary, texts: list[str]) -> torch.Tensor:
    """Encode sentences into unit features ``(K, d)``."""
    return encode_texts(model, *vocabulary.encode_all(texts))


def attend(attention: torch.nn.MultiheadAttention, x: torch.Tensor) -> torch.Tensor:
    """Do what the attention module does, with its weights, spelt out: twice as fast backwards on a processor.

    Args:
        attention: A block's own module.
        x: Tokens ``(B, L, d_v)``.

    Returns:
        Tokens ``(B, L, d_v)``.
    """
    qkv = functional.linear(x, attention.in_proj_weight, attention.in_proj_bias)
    query, key, value = qkv.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    if x.is_cuda:
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return attention.out_proj(mixed.transpose(1, 2).flatten(2))
    weights = ((query * attention.head_dim**-0.5) @ key.transpose(-1, -2)).to(value.dtype).softmax(-1)
    return attention.out_proj((weights.to(value.dtype) @ value).transpose(1, 2).flatten(2))


def project(model: CLIP, tokens: torch.Tensor) -> torch.Tensor:
    """Project tokens ``(..., d_v)`` of a layer to features ``(..., d)`` of unit length."""
    return functional.normalize((model.visual.ln_post(tokens) @ model.visual.proj).float(), dim=-1)


def normalize(images: torch.Tensor) -> torch.Tensor:
    """Normalize images ``(n, 3, S, S)`` uint8 with CLIP's mean and standard deviation."""
    return (images.float() / 255 - MEAN.to(images.device)) / STD.to(images.device)


def tower(
    model: CLIP, images: torch.Tensor, layers: tuple[int, ...], kept: torch.Tensor | None = None
) -> list[torch.Tensor]:
    """Run the vision tower on images ``(B, 3, S, S)`` uint8: tokens ``(B, 1 + P, d_v)`` after each of ``layers``.

    ``kept`` ``(B, P)`` are the places of the patches that it sees; all 196 without it.
    """
    visual = model.visual
    x = visual.conv1(normalize(images)).flatten(2).transpose(1, 2)
    x = torch.cat([visual.class_embedding.expand(len(x), 1, -1).to(x.dtype), x], 1)
    x = x + visual.positional_embedding
    if kept is not None:
        rows = torch.cat([kept.new_zeros(len(kept), 1), kept + 1], 1)
        x = x.gather(1, rows[..., None].expand(-1, -1, x.shape[-1]))
    x = visual.ln_pre(x)
    outputs = []
    for number, block in enumerate(visual.transformer.resblocks, 1):
        x = x + block.ls_1(attend(block.attn, block.ln_1(x)))
        x = x + block.ls_2(block.mlp(block.ln_2(x)))
        if number in layers:
            outputs.append(x)
    return outputs


# --- starting values ----------------------------------------------------------------------------------------------


def _waves(side: int, width: int) -> torch.Tensor:
    """Return the usual two-dimensional sine and cosine position code ``(side², width)``."""
    frequencies = 1 / 100 ** (torch.arange(width // 4) / (width // 4 - 1))
    angles = torch.arange(side)[:, None] * frequencies
    code = torch.cat([angles.sin(), angles.cos()], 1)
    rows, cols = code[:, None].expand(side, side, -1), code[None].expand(side, side, -1)
    return torch.cat([rows, cols], -1).flatten(0, 1)


@torch.no_grad()
def start_well(model: CLIP, pictures: torch.Tensor) -> None:
    """Set starting values of the vision tower from which a few thousand steps go far.

    - The patch embedding whitens patches of the training pictures, so that fine structure weighs as much as the mean
      colour; an ordinary start shows the first layer little but the mean colour.
    - Position codes are sines of a size that the first normalisation does not drown, and queries and keys start
      alike, so that patches first look at near and similar patches ("mimetic" start, Trockman and Kolter 2023).

    Args:
        model: The model to change.
        pictures: Training pictures ``(n, 3, S, S)`` uint8.
    """
    visual, width = model.visual, VISION["width"]
    patches = functional.unfold(normalize(pictures), PATCH, stride=PATCH)
    patches = patches.transpose(1, 2).flatten(0, 1)
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = (vectors / (values + 1e-2).sqrt())[:, -width:].T
    turn = torch.linalg.qr(torch.randn(width, width)).Q
    visual.conv1.weight.copy_((turn @ filters).view_as(visual.conv1.weight) * 0.7)
    visual.positional_embedding.zero_()
    visual.positional_embedding[1:] = 0.7 * _waves(GRID, width)
    for block in visual.transformer.resblocks:
        head = width // block.attn.num_heads
        query, key = block.attn.in_proj_weight[:width], block.attn.in_proj_weight[width : 2 * width]
        for k in range(block.attn.num_heads):
            u, s, v = torch.linalg.svd(0.5 * torch.randn(width, width) / width**0.5 + 0.4 * torch.eye(width))
            rows = slice(k * head, (k + 1) * head)
            query[rows] = (u[:, :head] * s[:head].sqrt()).T
            key[rows] = v[:head] * s[:head].sqrt()[:, None]
        block.mlp.c_proj.weight.mul_(0.5)


# --- losses -------------------------------------------------------------------------------------------------------


def contrast(cosines: torch.Tensor, own: torch.Tensor, truth: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Contrast images and captions, both ways, with every true caption of an image a positive.

    Args:
        cosines: Image times caption ``(B, K)``.
        own: Number of each image's own caption ``(B,)``.
        truth: Whether a caption describes an image ``(B, K)``.
        scale: CLIP's inverse temperature.

    Returns:
        Mean of both directions.
    """
    weight = 0.3 * truth.float()
    weight[torch.arange(len(own), device=own.device), own] = 1
    to_text = weight / weight.sum(1, keepdim=True)
    described = truth.any(0)
    to_image = truth[:, described].float() / truth[:, described].sum(0)
    loss_text = -(to_text * functional.log_softmax(scale * cosines, 1)).sum(1).mean()
    loss_image = -(to_image * functional.log_softmax(scale * cosines[:, described], 0)).sum(0).mean()
    return (loss_text + loss_image) / 2


class Restoration(torch.nn.Module):
    """Masked prediction: patch tokens of some layers say what is missing from a corrupted image, and how surely.

    A linear head for each layer predicts, patch by patch, the clean pixels less the given ones, and the scale of a
    Laplace distribution around them. No label enters, and the heads are not part of the CLIP.

    Args:
        pictures: Training images ``(n, 3, S, S)`` uint8, whose patches say what whitens pixels.
    """

    LAYERS = (4, 6, 8)
    whiten: torch.Tensor

    def __init__(self, pictures: torch.Tensor) -> None:
        super().__init__()
        width = VISION["width"]
        self.norms = torch.nn.ModuleList(torch.nn.LayerNorm(width) for _ in self.LAYERS)
        self.heads = torch.nn.ModuleList(torch.nn.Linear(width, 3 * RESTORED**2 + 1) for _ in self.LAYERS)
        for head in self.heads:
            torch.nn.init.zeros_(head.weight)
        patches = _patches(pictures).flatten(0, 1)
        values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        # Fine structure counts nearly as much as the mean colour.
        self.register_buffer("whiten", vectors / (values + 0.05).sqrt())

    def forward(
        self,
        tokens: list[torch.Tensor],
        corrupted: torch.Tensor,
        clean: torch.Tensor,
        kept: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Compute the negative log-likelihood.

        Args:
            tokens: For each layer the patch tokens ``(C, 196, d_v)``.
            corrupted: Images ``(C, 3, S, S)`` uint8 as the tower saw them.
            clean: The same images before corruption.
            kept: Places ``(C, P)`` of the patches that the tower saw; all without it.

        Returns:
            Mean over images, patches and layers.
        """
        missing = (_patches(clean) - _patches(corrupted)) @ self.whiten
        if kept is not None:
            missing = missing.gather(1, kept[..., None].expand(-1, -1, missing.shape[-1]))
        loss = missing.new_zeros(())
        for x, norm, head in zip(tokens, self.norms, self.heads, strict=True):
            guess = head(norm(x.float()))
            distance = (missing - guess[..., :-1]).abs().mean(-1)
            scale = functional.softplus(guess[..., -1]) + 0.02
            loss = loss + (distance / scale + scale.log()).mean()
        return loss / len(tokens)


def _patches(images: torch.Tensor) -> torch.Tensor:
    """Cut normalised images ``(n, 3, S, S)`` uint8, scaled to 112 px, into patches ``(n, 196, 192)``."""
    pixels = functional.avg_pool2d(normalize(images), PATCH // RESTORED)
    return functional.unfold(pixels, RESTORED, stride=RESTORED).transpose(1, 2)


def step_loss(model: CLIP, restoration: Restoration, batch: Batch) -> dict[str, torch.Tensor]:
    """Compute the losses of one batch."""
    captions, images = batch.captions, torch.cat([batch.images, batch.corrupted])
    # Small pieces keep the activations in a processor's cache: half as fast again as one big batch.
    piece = len(images) if images.is_cuda else 16
    with torch.autocast(images.device.type, torch.bfloat16):
        texts = encode_texts(model, captions.tokens, captions.last)
        parts = [tower(model, part, Restoration.LAYERS) for part in images.split(piece)]
        layers = [torch.cat(part) for part in zip(*parts, strict=True)]
        known = len(batch.images)
        cls = project(model, layers[-1][:known, 0])
    states = torch.einsum("bd,bsd->bs", cls, texts[captions.states]) / TEMPERATURE
    losses = {
        "contrast": contrast(cls @ texts.T, captions.own, captions.truth, model.logit_scale.exp().clamp(max=50)),
        "state": functional.cross_entropy(states, captions.damaged),
    }
    if known < len(images):
        losses["restore"] = restoration([x[known:, 1:] for x in layers], batch.corrupted, batch.clean)
    return losses


# --- training -----------------------------------------------------------------------------------------------------


def learning_rate(step: int, progress: float, peak: float) -> float:
    """Rise over 150 steps, stay, and fall to zero over the last 60 % of the steps."""
    return peak * min(1, (step + 1) / 150) * min(1, max(0.01, (1 - progress) / 0.6))


def _optimizers(model: CLIP, restoration: Restoration) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for everything else."""
    towers = [*model.visual.transformer.named_parameters(), *model.transformer.named_parameters()]
    matrices = [parameter for _, parameter in towers if parameter.ndim == 2]
    known = {id(parameter) for parameter in matrices}
    others = [parameter for parameter in model.parameters() if id(parameter) not in known]
    others += list(restoration.parameters())
    return [
        torch.optim.Muon(matrices, lr=1e-3, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=1e-3, weight_decay=0.0, betas=(0.9, 0.98)),
    ]


def _save(
    path: Path,
    model: CLIP,
    restoration: Restoration,
    optimizers: list[torch.optim.Optimizer],
    step: int,
    seconds: float,
    vocabulary: Vocabulary,
) -> None:
    """Write a checkpoint atomically."""
    content = {
        "model": model.state_dict(),
        "restoration": restoration.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "step": step,
        "seconds": seconds,
        "ids": vocabulary.ids,
    }
    torch.save(content, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def build(vocab_size: int) -> CLIP:
    """Build the demonstration CLIP with random weights and fewer token embeddings than CLIP's own."""
    text = TEXT | {"vocab_size": vocab_size}
    return CLIP(
        embed_dim=EMBED_DIM,
        vision_cfg=CLIPVisionCfg(**VISION | {"image_size": SIDE, "patch_size": PATCH}),
        text_cfg=CLIPTextCfg(**text),
        quick_gelu=True,
    )


def load_clip(source: str) -> tuple[CLIP, list[int]]:
    """Load a checkpoint, a weights file of the package's layout, or ``bundled``, with the token IDs of its embedding.

    The patch embedding is scaled to ``PATCH``.
    """
    if source.endswith(".pt"):
        saved = torch.load(source, map_location="cpu", weights_only=True)
        state, ids = saved["model"], saved["ids"]
    else:
        state = {k: v.float() for k, v in load_file(TINY_CLIP_FILE if source == "bundled" else source).items()}
        ids = state.pop(TRAINED_IDS).long().tolist()
        state["token_embedding.weight"] = state.pop(TRAINED_ROWS)
    state["visual.conv1.weight"] = scale_embedding(state["visual.conv1.weight"], PATCH)
    model = build(len(ids))
    model.load_state_dict(state, strict=False)
    return model, ids


def train(args: argparse.Namespace) -> None:
    """Train for a number of steps, continuing from the last checkpoint of ``args.out`` if there is one."""
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    vocabulary = Vocabulary()
    model = build(len(vocabulary))
    pictures = next(iter(Pool(args.pool, 256, 0, args.seed))).images
    start_well(model, pictures)
    restoration = Restoration(pictures).to(args.device)
    model.to(args.device)
    optimizers, step, spent = _optimizers(model, restoration), 0, 0.0
    last = args.out / "last.pt"
    if last.exists():
        saved = torch.load(last, map_location=args.device, weights_only=True)
        model.load_state_dict(saved["model"])
        restoration.load_state_dict(saved["restoration"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        step, spent = saved["step"], saved["seconds"]
    # A resumed run goes on with other draws than the first: the pool is endless, nothing need be repeated.
    batches = torch.utils.data.DataLoader(
        Pool(args.pool, args.batch, args.corrupted, args.seed + 1000 * step), None, num_workers=args.workers
    )
    since, totals, saved_at = time.time(), {}, spent
    for batch in batches:
        progress = max(step / args.steps, spent / 60 / args.minutes if args.minutes else 0)
        if progress >= 1:
            break
        # Muon's steps are measured like AdamW's but may be three times as long.
        for optimizer, factor in zip(optimizers, (3.0, 1.0), strict=True):
            optimizer.param_groups[0]["lr"] = factor * learning_rate(step, progress, args.lr)
        losses = step_loss(model, restoration, batch.to(args.device))
        weights = {"contrast": args.contrast, "state": args.state, "restore": args.restore}
        model.zero_grad()
        restoration.zero_grad()
        sum(weights[name] * loss for name, loss in losses.items()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        step += 1
        for name, loss in losses.items():
            totals[name] = totals.get(name, 0) + loss.detach()
        spent, since = spent + time.time() - since, time.time()
        if step % args.every == 0:
            means = " ".join(f"{name} {total.item() / args.every:.3f}" for name, total in totals.items())
            print(f"step {step} {spent / 60:.1f} min {means} scale {model.logit_scale.exp().item():.1f}", flush=True)
            totals = {}
        if spent - saved_at > 120:
            saved_at = spent
            _save(last, model, restoration, optimizers, step, spent, vocabulary)
    _save(last, model, restoration, optimizers, step, spent, vocabulary)
    print(f"done: {step} steps of {args.batch}, {spent / 60:.1f} minutes", flush=True)


# --- measuring ----------------------------------------------------------------------------------------------------


def test_pictures(name: str, normal: int, damaged: int, seed: int) -> tuple[torch.Tensor, np.ndarray]:
    """Render test pictures ``(n, 3, S, S)`` uint8 and masks ``(n, S, S)`` of a category."""
    rng = np.random.default_rng([seed, CATEGORIES.index(name)])
    kinds = [None] * normal + [DEFECTS_OF[name][k % len(DEFECTS_OF[name])] for k in range(damaged)]
    pairs = [render(name, kind, POOL_SIDE, rng) for kind in kinds]
    images = np.stack([cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for image, _ in pairs])
    masks = np.stack([cv2.resize(mask, (SIDE, SIDE), interpolation=cv2.INTER_AREA) > 127 for _, mask in pairs])
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), masks


def _pixel_scores(maps: torch.Tensor, masks: np.ndarray) -> tuple[float, float]:
    """Return pixel AUROC and AUPRO of patch maps ``(n, 14, 14)``, upsampled to the masks."""
    full = functional.interpolate(maps[:, None].float(), size=(SIDE, SIDE), mode="bilinear")[:, 0]
    aupro = _AUPRO()
    aupro.update(full, torch.from_numpy(masks))
    return roc_auc_score(masks.ravel(), full.numpy().ravel()), float(aupro.compute())


def adapt(
    tokens: torch.Tensor, coverage: torch.Tensor, model: CLIP, start: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Train one matrix per tapped layer and two text vectors on source patches, as a stand-in for prompt training."""
    matrices = torch.nn.Parameter(model.visual.proj.detach().repeat(4, 1, 1))
    texts = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.Adam([matrices, texts], lr=1e-3)
    rng = torch.Generator().manual_seed(0)
    for _ in range(15):
        for rows in torch.randperm(len(tokens), generator=rng).split(16):
            cosines = cosines_of(tokens[rows].float(), matrices, texts)
            target = coverage[rows, None].expand(-1, 4, -1)
            chance = (cosines / TEMPERATURE).softmax(-1)[..., 1]
            weight = torch.where(target > 0.5, 1 - chance, chance) ** 2
            focal = weight.detach() * functional.binary_cross_entropy(
                chance.clamp(1e-6, 1 - 1e-6), target, reduction="none"
            )
            overlap = 2 * (chance * target).sum((0, 2)) / (chance + target).sum((0, 2)).clamp(min=1)
            optimizer.zero_grad()
            (10 * focal.mean() + (1 - overlap).mean()).backward()
            optimizer.step()
    return matrices.detach(), texts.detach()


def cosines_of(tokens: torch.Tensor, matrices: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """Return ``(B, 4, 196, 2)`` cosines of patch tokens ``(B, 4, 196, d_v)`` with two text vectors."""
    features = functional.normalize(tokens @ matrices, dim=-1)
    return features @ functional.normalize(texts, dim=-1).T


@torch.inference_mode()
def _tokens(model: CLIP, images: torch.Tensor) -> torch.Tensor:
    """Return the normed, unprojected tokens of layers 2, 4, 6 and 8, ``(n, 4, 197, d_v)`` bfloat16."""
    with torch.autocast("cpu", torch.bfloat16):
        pieces = [torch.stack(tower(model, piece, (2, 4, 6, 8)), 1) for piece in images.split(16)]
        return model.visual.ln_post(torch.cat(pieces)).bfloat16()


def measure(args: argparse.Namespace) -> None:
    """Print scores with hand-written prompts, and those after a short training on the source categories."""
    torch.set_num_threads(args.threads)
    vocabulary = Vocabulary()
    model, vocabulary.ids = load_clip(args.checkpoint)
    vocabulary.place = {token: k for k, token in enumerate(vocabulary.ids)}
    model.requires_grad_(requires_grad=False)
    tested = dict.fromkeys((*TUNING, *(UNSEEN_BY_TINY if args.unseen else ())))
    train = [test_pictures(name, 10, 16, 77_000) for name in SOURCE]
    source = torch.cat([_tokens(model, images) for images, _ in train])[:, :, 1:]
    masks = np.concatenate([m for _, m in train]).reshape(-1, GRID, PATCH, GRID, PATCH).mean((2, 4))
    coverage = torch.from_numpy(masks.astype(np.float32)).flatten(1)
    words = [_say(t, "object") for t in (PERFECT[0], DAMAGED_WORDS[0])]
    general = encode_sentences(model, vocabulary, words)
    matrices, texts = adapt(source, coverage, model, general)
    rows = []
    for name in tested:
        images, masks = test_pictures(name, 16, 24, 78_000)
        tokens, label = _tokens(model, images), masks.any((1, 2))
        known = name if name in SEEN else "object"
        hand = encode_sentences(model, vocabulary, [_say(t, known) for t in (PERFECT[0], DAMAGED_WORDS[0])])
        plain = (cosines_of(tokens.float(), model.visual.proj, hand) / TEMPERATURE).softmax(-1)[..., 1]
        adapted = (cosines_of(tokens.float(), matrices, texts) / TEMPERATURE).softmax(-1)[..., 1]
        shape = (-1, GRID, GRID)
        top = adapted[:, :, 1:].mean(1).topk(3, -1).values.mean(-1)
        row = [roc_auc_score(label, plain[:, 3, 0]), roc_auc_score(label, top)]
        row += _pixel_scores(plain[:, 3, 1:].reshape(shape), masks)
        row += _pixel_scores(plain[:, :, 1:].mean(1).reshape(shape), masks)
        row += _pixel_scores(adapted[:, :, 1:].mean(1).reshape(shape), masks)
        rows.append((name, row))
    print("category: image AUROC CLS, map | hand, last layer: pixel, AUPRO | hand, 4 layers | adapted, 4 layers")
    for title, group in (("TUNING", TUNING), ("UNSEEN", UNSEEN_BY_TINY)):
        chosen = [row for name, row in rows if name in group]
        if args.verbose:
            for name, row in rows:
                if name in group:
                    print(f"  {name:22}", *(f"{value:.3f}" for value in row))
        print(f"{title:24}", *(f"{value:.3f}" for value in np.mean(chosen, 0)), flush=True)


def _main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    rendering = commands.add_parser("render", help="render the pool of training pictures")
    rendering.add_argument("--first", type=int, default=0)
    rendering.add_argument("--shards", type=int, default=40)
    training = commands.add_parser("train", help="train on the pool, or go on")
    training.add_argument("--out", type=Path, required=True)
    training.add_argument("--steps", type=int, default=4200, help="steps, earlier runs counted in")
    training.add_argument("--batch", type=int, default=40, help="captioned images per step")
    training.add_argument("--lr", type=float, default=1e-3)
    training.add_argument("--device", default="cpu", help="a GPU takes batches of hundreds of images")
    training.add_argument("--workers", type=int, default=1, help="processes that read and augment images")
    training.add_argument("--every", type=int, default=20, help="steps between lines of progress")
    training.add_argument("--minutes", type=float, help="end after this time, and let the learning rate fall by it")
    training.add_argument("--contrast", type=float, default=0.7, help="weight of the image-caption contrast")
    training.add_argument("--state", type=float, default=1.0, help="weight of the perfect-or-damaged term")
    training.add_argument("--corrupted", type=int, default=24, help="images per step for masked prediction")
    training.add_argument("--restore", type=float, default=1.0, help="weight of masked prediction")
    measuring = commands.add_parser("measure", help="print scores of a checkpoint on categories it has not seen")
    measuring.add_argument("--checkpoint", default="bundled", help="or a weights file; the bundled one if left out")
    measuring.add_argument("--unseen", action="store_true", help="also all categories that it has never seen")
    measuring.add_argument("--verbose", action="store_true", help="one line per category")
    for command in (training, measuring):
        command.add_argument("--threads", type=int, default=2)
    for command in (rendering, training):
        command.add_argument("--pool", type=Path, required=True)
        command.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.command == "render":
        render_pool(args.pool, args.first, args.shards, args.seed)
    elif args.command == "train":
        train(args)
    else:
        measure(args)


if __name__ == "__main__":
    _main()
