# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Runs of ``genclip predict`` with a model that costs nothing."""

from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.transforms.v2 import Compose, Resize

from anomalib_genclip.prediction.backends import Backend, Prediction
from anomalib_genclip.prediction.records import Record, Region
from anomalib_genclip.prediction.settings import RunSettings

HEADER = "path,class_name,class_name_filter,score,label,image_threshold,pixel_threshold,anomalous_share,regions,error\n"

RECORD = Record(
    path="bolt.png",
    name="bolt.png",
    size=(40, 30),
    class_name="bolt",
    class_name_filter="kept",
    score=0.5,
    anomalous=True,
    image_threshold=0.3,
    pixel_threshold=0.45,
    mask=np.ones((4, 4), bool),
    regions=[Region(1, 2, 3, 4, 5, 0.61234, 1.5, 2.5), Region(7, 8, 1, 1, 1, 0.5, 7.0, 8.0)],
)


class Brightness(Backend):
    """The brighter, the more anomalous.

    Args:
        calls (int | None): Batches after which it fails, as if the process was stopped.
    """

    def __init__(self, calls: int | None = None, error: BaseException | None = None) -> None:
        self.transform = Compose([Resize([8, 8])])
        self.image_threshold = self.pixel_threshold = 0.5
        self.calls, self.error = calls, error or KeyboardInterrupt()
        self.seen: list[int] = []  # sizes of the batches

    def __call__(self, images, class_names):
        """Give the brightness of each image."""
        if len(self.seen) == self.calls:
            raise self.error
        self.seen.append(len(images))
        maps = images.float().mean(dim=1).numpy() / 255
        scores = maps.mean(axis=(1, 2))
        return Prediction(
            maps, scores, maps > 0.5, scores > 0.5, [name or "object" for name in class_names], [None] * len(maps)
        )


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
    """Return the contents of all files of a folder of results."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
