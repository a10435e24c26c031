# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Measure what patch features alone find on real images: ``k`` good parts and nothing else, or a linear probe.

``SETS`` holds categories laid out like MVTec AD (``train/good``, ``test/<defect>``, ``ground_truth`` where there is
one). A test image's patch scores its distance to the nearest patch of the good parts, 1 - cosine, mean of the tapped
layers; the image scores the mean of its top 1 %. For checkpoints of ``train_tiny_clip_photos.py``, files in the
package's layout, ``bundled`` and ``teacher``::

    python examples/measure_features.py --sets SETS bundled runs/photos/last.pt teacher
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
import train_tiny_clip as tiny
from anomalib.metrics.aupro import _AUPRO
from sklearn.metrics import roc_auc_score
from teacher_features import load_teacher, look, read_photo
from torch.nn import functional
from train_tiny_clip import GRID, SIDE, load_clip
from train_tiny_clip_photos import LAYERS

Features = Callable[[torch.Tensor], torch.Tensor]


class RealSet(NamedTuple):
    """One category's images.

    Args:
        name: Name of its folder.
        good: Good parts of the training split, ``(G, 3, S, S)`` uint8.
        test: Test images ``(n, 3, S, S)`` uint8.
        label: Which of them are anomalous, ``(n,)`` bool.
        masks: ``(n, S, S)`` bool, or ``None`` where there are none.
    """

    name: str
    good: torch.Tensor
    test: torch.Tensor
    label: np.ndarray
    masks: np.ndarray | None


def read_images(paths: list[Path]) -> torch.Tensor:
    """Read images, scaled to a square, ``(n, 3, S, S)`` uint8."""
    images = [cv2.resize(read_photo(path), (SIDE, SIDE), interpolation=cv2.INTER_AREA) for path in paths]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def read_set(folder: Path) -> RealSet:
    """Read a category."""
    files = lambda part: sorted(path for path in (folder / part).glob("*/*") if path.is_file())  # noqa: E731
    test, truth = files("test"), folder / "ground_truth"
    masks = None
    if truth.exists():
        masks = np.zeros((len(test), SIDE, SIDE), bool)
        for k, path in enumerate(test):
            found = [
                *(truth / path.parent.name).glob(f"{path.stem}_mask.*"),
                *(truth / path.parent.name).glob(path.name),
            ]
            if found:
                mask = cv2.imread(str(found[0]), cv2.IMREAD_GRAYSCALE)
                masks[k] = cv2.resize((mask > 127).astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA) > 0.5
    label = np.array([path.parent.name != "good" for path in test])
    return RealSet(folder.name, read_images(files("train")), read_images(test), label, masks)


@torch.inference_mode()
def clip_features(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return normed tokens of the tapped layers, CLS first, ``(n, M, 197, d_v)`` float32."""
    pieces = [torch.stack(tiny.tower(model, piece, LAYERS), 1) for piece in images.split(16)]
    return model.visual.ln_post(torch.cat(pieces)).float()


def patch_features(model: torch.nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """Return each tapped layer's patch tokens, ``(n, 196, d_v)``."""
    return list(clip_features(model, images)[:, :, 1:].unbind(1))


def teacher_features(teacher: torch.nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """Return the features of each of the teacher's stages, ``(n, 196, channels)``."""
    pieces = [look(teacher, piece)[0] for piece in images.split(32)]
    return [torch.cat(stage) for stage in zip(*pieces, strict=True)]


def halve(images: torch.Tensor) -> torch.Tensor:
    """Take away what only the full resolution shows, and keep the size."""
    small = functional.avg_pool2d(images.float(), 2)
    return functional.interpolate(small, size=(SIDE, SIDE), mode="bicubic").clamp(0, 255).byte()


def distances(test: list[torch.Tensor], good: list[torch.Tensor]) -> torch.Tensor:
    """Return each patch's distance to the nearest good one, mean of the layers, ``(n, 196)``.

    Args:
        test: Each layer's features ``(n, 196, d)``.
        good: Each layer's features ``(k, 196, d)``.
    """
    total = 0
    for here, there in zip(test, good, strict=True):
        known = functional.normalize(there.flatten(0, 1), dim=-1)
        total = total + 1 - torch.stack([(x @ known.T).amax(-1) for x in functional.normalize(here, dim=-1)])
    return total / len(test)


def scores(maps: torch.Tensor, found: RealSet) -> list[float]:
    """Return image AUROC, pixel AUROC and AUPRO of patch maps ``(n, 196)``; NaN without masks."""
    full = functional.interpolate(maps.view(-1, 1, GRID, GRID), size=(SIDE, SIDE), mode="bilinear")[:, 0]
    top = full.flatten(1).topk(SIDE * SIDE // 100, -1).values.mean(-1)
    row = [roc_auc_score(found.label, top.numpy()), float("nan"), float("nan")]
    if found.masks is not None:
        small, masks = full[:, ::2, ::2], found.masks[:, ::2, ::2]
        aupro = _AUPRO()
        aupro.update(small, torch.from_numpy(masks.copy()))
        row[1:] = roc_auc_score(masks.ravel(), small.numpy().ravel()), float(aupro.compute())
    return row


def measure_references(extract: Features, sets: list[RealSet], shots: int, draws: int) -> list[tuple[str, list[float]]]:
    """Measure good parts alone, mean of several draws, one row per set."""
    rows = []
    for found in sets:
        test, good = extract(found.test), extract(found.good)
        result = []
        for draw in range(draws):
            few = np.random.default_rng(draw).permutation(len(found.good))[:shots]
            result.append(scores(distances(test, [layer[few] for layer in good]), found))
        rows.append((found.name, np.mean(result, 0).tolist()))
    return rows


def measure_probe(model: torch.nn.Module, sets: list[RealSet]) -> list[tuple[str, list[float]]]:
    """Measure one matrix per layer and two vectors, trained on rendered source categories, zero-shot."""
    train = [tiny.test_pictures(name, 10, 16, 77_000) for name in tiny.SOURCE]
    tokens = torch.cat([clip_features(model, images) for images, _ in train])[:, :, 1:]
    masks = np.concatenate([m for _, m in train]).reshape(-1, GRID, tiny.PATCH, GRID, tiny.PATCH).mean((2, 4))
    start = functional.normalize(torch.randn(2, tiny.EMBED_DIM, generator=torch.Generator().manual_seed(0)), dim=-1)
    matrices, texts = tiny.adapt(tokens, torch.from_numpy(masks.astype(np.float32)).flatten(1), model, start)
    rows = []
    for found in sets:
        cosines = tiny.cosines_of(clip_features(model, found.test)[:, :, 1:], matrices, texts)
        rows.append((found.name, scores((cosines / tiny.TEMPERATURE).softmax(-1)[..., 1].mean(1), found)))
    return rows


def print_rows(title: str, rows: list[tuple[str, list[float]]], verbose: bool) -> None:
    """Print the rows and their mean."""
    for name, row in [*(rows if verbose else []), ("mean", np.nanmean([row for _, row in rows], 0))]:
        print(f"{title:24} {name:20}", *(f"{100 * value:5.1f}" for value in row), flush=True)


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="checkpoints, weights files, 'bundled' or 'teacher'")
    parser.add_argument("--sets", type=Path, required=True, help="folder of categories")
    parser.add_argument("--cache", type=Path, help="file that keeps the scaled images")
    parser.add_argument("--shots", type=int, default=4)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--probe", action="store_true", help="also a linear probe, zero-shot")
    parser.add_argument("--verbose", action="store_true", help="one line per set")
    parser.add_argument("--half_size", action="store_true", help="take away what only the full resolution shows")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if args.cache and args.cache.exists():
        sets = [RealSet(*found) for found in torch.load(args.cache, weights_only=False)]
    else:
        sets = [read_set(folder) for folder in sorted(args.sets.iterdir()) if (folder / "test").is_dir()]
        if args.cache:
            torch.save([tuple(found) for found in sets], args.cache)
    if args.half_size:
        sets = [found._replace(good=halve(found.good), test=halve(found.test)) for found in sets]
    for name in args.models:
        if name == "teacher":
            extract = partial(teacher_features, load_teacher())
        else:
            model = load_clip(name)[0].eval()
            extract = partial(patch_features, model)
        title = "/".join(Path(name).parts[-2:])
        print_rows(f"{title} k={args.shots}", measure_references(extract, sets, args.shots, args.draws), args.verbose)
        if args.probe and name != "teacher":
            with torch.enable_grad():
                print_rows(f"{title} probe", measure_probe(model, sets), args.verbose)


if __name__ == "__main__":
    _main()
