# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Runs of ``genclip predict`` with a model that costs nothing."""

from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.transforms.v2 import Resize

from anomalib_genclip.evaluation.good_parts import p_value
from anomalib_genclip.prediction import settings as settings_module
from anomalib_genclip.prediction.settings import RunSettings
from anomalib_genclip.records import Record


class Brightness:
    """In place of an inferencer: the brighter, the more anomalous.

    Args:
        calls (int | None): Batches after which it fails, as if the process was stopped.
        good (list[float] | None): Scores of good parts that it was calibrated with.
    """

    transform = Resize([8, 8])

    def __init__(self, calls: int | None = None, good: list[float] | None = None) -> None:
        self.calls = calls
        self.good = good
        self.calibration = good and {"scores": good, "image_threshold": 0.5}
        self.seen: list[int] = []  # sizes of the batches
        self.watched: list[str] = []  # paths

    def predict_batch(self, images, paths, sizes, categories):
        """Give the brightness of each image."""
        if len(self.seen) == self.calls:
            raise KeyboardInterrupt
        self.seen.append(len(images))
        maps = images.float().mean(dim=1).numpy() / 255
        found = zip(maps, maps.mean(axis=(1, 2)).tolist(), paths, sizes, categories, strict=True)
        return [
            Record(
                path,
                size,
                class_name=name or "object",
                score=score,
                anomalous=score > 0.5,
                p_value=self.good and p_value(score, self.good),
                alarm_level="calibrated" if self.good else "source",
                image_threshold=0.5,
                pixel_threshold=0.5,
                anomaly_map=anomaly_map,
                mask=anomaly_map > 0.5,
            )
            for anomaly_map, score, path, size, name in found
        ]

    def watch(self, records):
        """Note which images are watched."""
        self.watched += [record.path for record in records]


def use_model(monkeypatch, model: Brightness) -> Brightness:
    monkeypatch.setattr("anomalib_genclip.prediction.scoring.Inferencer", lambda *_, **__: model)
    return model


def small_chunks(monkeypatch, images: int) -> None:
    """Let chunks on a CPU have so many images, so that few images make many."""
    monkeypatch.setitem(settings_module._CHUNK_IMAGES, "cpu", images)


def write_images(root: Path, count: int, broken: tuple[int, ...] = ()) -> None:
    """Write images of rising brightness and of several sizes, formats and folders; some of them are none."""
    for number in range(count):
        path = root / f"{number % 3}" / f"{number:05}.{('png', 'jpg', 'bmp')[number % 3]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number in broken:
            path.write_bytes(b"no image")
            continue
        pixels = np.full((6 + number % 5, 9, 3), 255 * number // max(1, count - 1), np.uint8)
        Image.fromarray(pixels).save(path)


def settings_for(root: Path, **others) -> RunSettings:
    """Return settings of a run from ``images`` to ``out``, both below a folder."""
    given = {"weights": "tiny-demo", "data": str(root / "images"), "out": str(root / "out"), "num_workers": 0}
    return RunSettings(**{**given, "accelerator": "cpu", "batch_size": 4, **others})


def results(folder: Path) -> dict[str, bytes]:
    """Return the contents of all files of a results folder, without those that were being written at a kill."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".part")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
