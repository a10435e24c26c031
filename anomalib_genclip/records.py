# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""What is found out about one image."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import cv2
import numpy as np


class Region(NamedTuple):
    """A connected region of anomalous pixels, in pixels of the image file.

    ``x`` and ``y`` are the left and upper edge of the bounding box, ``area`` is the number of pixels, ``score`` the
    highest value of the anomaly map. The centre of mass counts from the centre of the first pixel.
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
class Parts:
    """What the score of an image is made of; maps are on the patch grid, ``(h, w)``, in [0, 1]."""

    maps: dict[str, np.ndarray]  # of each active branch: "vision", "query"
    layers: dict[str, dict[int, np.ndarray]]  # layer-wise maps of the same branches
    top: float  # mean of the highest 1 % of the anomaly map
    cls: float  # abnormal probability of the CLS token by the learned prompts
    score_weight: float  # share of cls in the image score; the rest is top
    class_name: str  # before CNF
    used_name: str  # in the prompts, after CNF
    filtering: bool  # whether CNF is on
    similarity: float  # cosine of the image and "a photo of a {class_name}"
    generic_similarity: float  # cosine of the image and "a photo of an object"
    distance: np.ndarray | None = None  # r / (1 + r), with the distance r to the references; None without them
    cls_distance: float | None = None  # r of the CLS token


@dataclass(frozen=True)
class Record:
    """Prediction of an image. Map and masks are ``(H, W)`` in the model's resolution."""

    path: str = ""  # or URL of the image; "" for pixels
    size: tuple[int, int] = (0, 0)  # height and width of the image; (0, 0) if it could not be read
    error: str = ""  # reason why the image has no score; "" for a scored image
    class_name: str | None = None  # in the prompts; None for an exported model that says none
    class_name_filter: str | None = None  # decision of CNF on the given name: "kept" or "replaced"; None without one
    score: float | None = None  # of the image, in [0, 1]
    anomalous: bool | None = None  # whether the score is above the threshold
    p_value: float | None = None  # share of good parts that look as anomalous; None if the model was not calibrated
    alarm_level: str | None = None  # origin of the image threshold: "calibrated", "given", or "source" (training data)
    image_threshold: float | None = None  # None for an exported model that says none
    pixel_threshold: float | None = None  # of the anomaly map, likewise
    gray_value: float | None = field(default=None, compare=False)  # mean of what counts, 0 is black and 1 is white
    anomaly_map: np.ndarray | None = field(default=None, repr=False, compare=False)  # float32, in [0, 1]
    mask: np.ndarray | None = field(default=None, repr=False, compare=False)  # bool, pixels above the threshold
    ignored: np.ndarray | None = field(default=None, repr=False, compare=False)  # bool, pixels that do not count
    parts: Parts | None = field(default=None, repr=False, compare=False)  # what the score is made of, if asked for

    @property
    def label(self) -> str | None:
        """Either "anomalous" or "normal"; ``None`` without a score."""
        return None if self.anomalous is None else "anomalous" if self.anomalous else "normal"

    @cached_property
    def regions(self) -> list[Region]:
        """Connected regions of the mask, the highest score first."""
        if self.mask is None or self.anomaly_map is None:
            return []
        return find_regions(self.mask, self.anomaly_map, self.size)


def find_regions(mask: np.ndarray, anomaly_map: np.ndarray, size: tuple[int, int]) -> list[Region]:
    """Find the connected regions of a mask (8-connectivity) with OpenCV, the highest score first.

    Mask, bool, and anomaly map are ``(H, W)``. Regions are in pixels of an image of this ``size``, height and width.
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
        regions.append(Region(left, upper, right - left, lower - upper, area, float(top[label]), centre_x, centre_y))
    return regions
