# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Prediction of an image, and the rows of the tables."""

import os
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import cv2
import numpy as np

Row = dict[str, Any]
_DECIMALS = 6  # of scores: the seventh decimal of float32 depends on the batch size
COLUMNS: dict[str, type] = {
    "path": str,
    "class_name": str,
    "class_name_filter": str,
    "score": float,
    "label": str,
    "image_threshold": float,
    "pixel_threshold": float,
    "anomalous_share": float,
    "regions": int,
    "error": str,
}
REGION_COLUMNS: dict[str, type] = {
    "path": str,
    "region": int,
    "x": int,
    "y": int,
    "width": int,
    "height": int,
    "area": int,
    "score": float,
    "centre_x": float,
    "centre_y": float,
}


class Region(NamedTuple):
    """A connected region of anomalous pixels, in pixels of the image file.

    Args:
        x (int): Left edge of the bounding box.
        y (int): Upper edge of the bounding box.
        width (int): Width of the bounding box.
        height (int): Height of the bounding box.
        area (int): Number of pixels.
        score (float): Highest value of the anomaly map in the region.
        centre_x (float): Horizontal centre of mass; 0 is the centre of the first pixel.
        centre_y (float): Vertical centre of mass.
    """

    x: int
    y: int
    width: int
    height: int
    area: int
    score: float
    centre_x: float
    centre_y: float


@dataclass(frozen=True)
class Record:
    """Prediction of an image.

    Args:
        path (str): Path or URL of the image.
        name (str): Name of its result files.
        error (str): Reason why the image has no score, ``""`` for a scored image.
        size (tuple[int, int]): Height and width of the file.
        class_name (str | None): Class name in the prompts; ``None`` for an exported model.
        class_name_filter (str | None): Decision of Class Name Filtering on the given name: "kept" or "replaced";
            ``None`` if no name was given.
        score (float | None): Image score in [0, 1].
        anomalous (bool | None): Whether the score is above the threshold.
        image_threshold (float | None): Threshold of the image score; ``None`` for an exported model.
        pixel_threshold (float | None): Threshold of the anomaly map; ``None`` for an exported model.
        anomaly_map (np.ndarray | None): ``(H, W)`` in the model's resolution, float32, in [0, 1].
        mask (np.ndarray | None): Pixels above the threshold, ``(H, W)``, bool.
        regions (list[Region]): Connected regions of the mask, the highest score first.
    """

    path: str
    name: str
    error: str = ""
    size: tuple[int, int] = (0, 0)
    class_name: str | None = None
    class_name_filter: str | None = None
    score: float | None = None
    anomalous: bool | None = None
    image_threshold: float | None = None
    pixel_threshold: float | None = None
    anomaly_map: np.ndarray | None = field(default=None, repr=False, compare=False)
    mask: np.ndarray | None = field(default=None, repr=False, compare=False)
    regions: list[Region] = field(default_factory=list, repr=False)

    def as_row(self) -> Row:
        """Return the values of :data:`COLUMNS` as plain data; scores have six decimals."""
        scored = self.mask is not None
        return {
            "path": printable(self.path),
            "class_name": self.class_name,
            "class_name_filter": self.class_name_filter,
            "score": _rounded(self.score),
            "label": None if self.anomalous is None else "anomalous" if self.anomalous else "normal",
            "image_threshold": _rounded(self.image_threshold),
            "pixel_threshold": _rounded(self.pixel_threshold),
            "anomalous_share": _rounded(float(self.mask.mean())) if self.mask is not None else None,
            "regions": len(self.regions) if scored else None,
            "error": self.error or None,
        }

    def region_rows(self) -> list[list[Any]]:
        """Return the values of :data:`REGION_COLUMNS` for each region, without the path."""
        return [
            [number, *region[:5], *(_rounded(value) for value in region[5:])]
            for number, region in enumerate(self.regions, start=1)
        ]


def find_regions(mask: np.ndarray, anomaly_map: np.ndarray, size: tuple[int, int]) -> list[Region]:
    """Find the connected regions of a mask (8-connectivity) with OpenCV.

    Args:
        mask (np.ndarray): ``(H, W)``, bool.
        anomaly_map (np.ndarray): ``(H, W)``.
        size (tuple[int, int]): Height and width of the image; regions are given in its pixels.

    Returns:
        list[Region]: The regions, the highest score first.
    """
    count, labels, boxes, centres = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    top = np.zeros(count, anomaly_map.dtype)
    np.maximum.at(top, labels[mask], anomaly_map[mask])
    rows, columns = mask.shape
    regions = []
    for label in np.argsort(-top[1:], kind="stable") + 1:
        x, y, width, height, area = boxes[label].tolist()
        left, upper = x * size[1] // columns, y * size[0] // rows
        right, lower = -(-(x + width) * size[1] // columns), -(-(y + height) * size[0] // rows)  # rounded up
        area = round(area * size[0] * size[1] / (rows * columns))
        centre_x = (float(centres[label][0]) + 0.5) * size[1] / columns - 0.5
        centre_y = (float(centres[label][1]) + 0.5) * size[0] / rows - 0.5
        box = (left, upper, right - left, lower - upper)
        regions.append(Region(*box, area, float(top[label]), centre_x, centre_y))
    return regions


def printable(path: str) -> str:
    """Return a path as valid UTF-8 text, with escapes for all other bytes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), _DECIMALS)
