# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Tiny made-up data sets in the layouts that anomalib reads.

Every image is 32 x 32 grey noise, every defect a white square, so a mask can be recomputed from its image. Each
function writes under ``root`` and returns the ready datamodule.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from anomalib.data import MPDD, AnomalibDataModule, BTech, Folder, Kolektor, MVTecAD, Visa
from anomalib.data.datamodules.image.visa import VISA_CATEGORIES
from PIL import Image

from anomalib_genclip import CrossDataset

SIZE = 32
LOADING = {"train_batch_size": 4, "eval_batch_size": 4, "num_workers": 0}


def write_normal(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(60, 120, (SIZE, SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_anomalous(path: Path, mask: Path | None = None, seed: int = 0) -> None:
    """Write a grey image with a white square, and its mask."""
    write_normal(path, seed)
    rng = np.random.default_rng(seed + 1000)
    top, left = rng.integers(2, SIZE - 12, 2)
    shape = np.zeros((SIZE, SIZE), np.uint8)
    shape[top : top + 8, left : left + 8] = 255
    pixels = np.maximum(np.asarray(Image.open(path).convert("RGB")), shape[..., None])
    Image.fromarray(pixels).save(path)
    if mask is not None:
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(shape).save(mask)


def _mvtec_layout(root: Path, categories: Sequence[str], normal: int, anomalous: int, *, good: str, mask: str) -> None:
    """Write train/<good>, test/<good>, test/crack and ground_truth/crack for each category."""
    for index, category in enumerate(categories):
        folder = root / category
        for i in range(normal):
            write_normal(folder / "train" / good / f"{i:03}.png", seed=100 * index + i)
            write_normal(folder / "test" / good / f"{i:03}.png", seed=100 * index + 50 + i)
        for i in range(anomalous):
            write_anomalous(
                folder / "test" / "crack" / f"{i:03}.png",
                folder / "ground_truth" / "crack" / mask.format(f"{i:03}"),
                seed=100 * index + i,
            )


def mvtec_ad(root: Path, categories: Sequence[str] = ("bottle",), normal: int = 4, anomalous: int = 4) -> MVTecAD:
    _mvtec_layout(root, categories, normal, anomalous, good="good", mask="{}_mask.png")
    return MVTecAD(root=root, category=categories[0], **LOADING)


def mpdd(root: Path, categories: Sequence[str] = ("tubes",), normal: int = 4, anomalous: int = 4) -> MPDD:
    _mvtec_layout(root, categories, normal, anomalous, good="good", mask="{}_mask.png")
    return MPDD(root=root, category=categories[0], **LOADING)


def btech(root: Path, categories: Sequence[str] = ("01",), normal: int = 4, anomalous: int = 4) -> BTech:
    """Write BTech's layout: normal images are called "ok"."""
    _mvtec_layout(root, categories, normal, anomalous, good="ok", mask="{}.png")
    return BTech(root=root, category=categories[0], **LOADING)


def visa(root: Path, categories: Sequence[str] = ("candle",), normal: int = 4, anomalous: int = 4) -> Visa:
    """Write VisA's layout as it is downloaded: ``prepare_data()`` makes the split tree from the table."""
    if unknown := set(categories) - set(VISA_CATEGORIES):
        msg = f"VisA has no categories {unknown}"
        raise ValueError(msg)
    rows = []
    for index, category in enumerate(categories):
        images, masks = (Path(category) / "Data" / kind for kind in ("Images", "Masks"))
        for i in range(2 * normal):
            path = images / "Normal" / f"{i:04}.JPG"
            write_normal(root / path, seed=100 * index + i)
            rows.append((category, "train" if i < normal else "test", "normal", path.as_posix(), ""))
        for i in range(anomalous):
            path, mask = images / "Anomaly" / f"{i:03}.JPG", masks / "Anomaly" / f"{i:03}.png"
            write_anomalous(root / path, root / mask, seed=100 * index + i)
            rows.append((category, "test", "anomaly", path.as_posix(), mask.as_posix()))
    table = root / "split_csv" / "1cls.csv"
    table.parent.mkdir(parents=True, exist_ok=True)
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("object", "split", "label", "image", "mask"), *rows])
    return Visa(root=root, category=categories[0], **LOADING)


def kolektor(root: Path, normal: int = 10, anomalous: int = 4) -> Kolektor:
    """Write Kolektor's layout: one folder per item, a black label image for normal parts."""
    for i in range(normal + anomalous):
        image, mask = root / f"kos{i:02}" / "Part0.jpg", root / f"kos{i:02}" / "Part0_label.bmp"
        if i < anomalous:
            write_anomalous(image, mask, seed=i)
        else:
            write_normal(image, seed=i)
            Image.new("L", (SIZE, SIZE)).save(mask)
    return Kolektor(root=root, **LOADING)


def folder(
    root: Path,
    name: str = "screws",
    normal: int = 4,
    anomalous: int = 4,
    *,
    masks: bool = True,
    normal_test: bool = True,
) -> Folder:
    """Write plain folders, optionally without masks or without normal test images."""
    for i in range(normal):
        write_normal(root / "good" / f"{i:03}.png", seed=i)
        if normal_test:
            write_normal(root / "good_test" / f"{i:03}.png", seed=50 + i)
    for i in range(anomalous):
        write_anomalous(root / "bad" / f"{i:03}.png", root / "mask" / f"{i:03}.png" if masks else None, seed=i)
    return Folder(
        name=name,
        root=root,
        normal_dir="good",
        normal_test_dir="good_test" if normal_test else None,
        abnormal_dir="bad" if anomalous else None,
        mask_dir="mask" if masks and anomalous else None,
        **LOADING,
    )


def cross(source: AnomalibDataModule, target: AnomalibDataModule, **settings) -> CrossDataset:
    return CrossDataset(source=source, target=target, **{**LOADING, "train_batch_size": 2, **settings})


LAYOUTS = {"MVTecAD": mvtec_ad, "MPDD": mpdd, "BTech": btech, "Visa": visa, "Kolektor": kolektor, "Folder": folder}


def every_layout(root: Path) -> dict[str, AnomalibDataModule]:
    return {name: make(root / name) for name, make in LAYOUTS.items()}
