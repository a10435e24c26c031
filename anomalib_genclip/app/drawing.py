# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Heat maps and outlines."""

import cv2
import numpy as np
from anomalib.visualization.image.functional import add_text_to_image, overlay_image
from matplotlib import colormaps
from PIL import Image

from anomalib_genclip.records import Record

_COLORS = colormaps["inferno"]  # one scale from 0 to 1 for all images, which color-blind people can read
_OPAQUE_FROM = 0.5  # of the map; below, the image shines through, or normal parts would be black
_MOST_LABELS = 20
BRUSH = "#cc79a7"  # is seen on bright and on dark parts
_STROKE = 4  # width of hatching, every 12 pixels


def heat_map(picture: Image.Image, anomaly_map: np.ndarray, opacity: float) -> Image.Image:
    """Draw a map, ``(H, W)`` of any size, in [0, 1], over an image, the more transparent the lower its values are.

    ``opacity`` is that of high values; with 0 the result is the image alone.
    """
    values = _resized(anomaly_map, picture.size)
    colors = _COLORS(values, alpha=np.minimum(1, values / _OPAQUE_FROM), bytes=True)
    return overlay_image(picture, Image.fromarray(colors), alpha=opacity).convert("RGB")


def draw_regions(picture: Image.Image, record: Record) -> Image.Image:
    """Outline the regions above the record's pixel threshold on a copy of a picture, with their numbers and scores."""
    assert record.anomaly_map is not None
    above = _resized(record.anomaly_map, picture.size) > record.pixel_threshold
    contours, _ = cv2.findContours(above.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    canvas = np.array(picture)
    # White on black is seen on any image.
    cv2.drawContours(canvas, contours, -1, (0, 0, 0), 5, cv2.LINE_AA)
    cv2.drawContours(canvas, contours, -1, (255, 255, 255), 2, cv2.LINE_AA)
    drawn = Image.fromarray(canvas)
    font = max(12, min(picture.size) // 32)
    for number, region in enumerate(record.regions[:_MOST_LABELS], start=1):
        x = round(region.x * picture.width / record.size[1])  # regions are in pixels of the image file
        y = round(region.y * picture.height / record.size[0]) - font - 8
        position = (min(max(4, x), max(4, picture.width - 4 * font)), max(4, y))
        text = f"{number}: {region.score:.2f}"
        drawn = add_text_to_image(drawn, text, size=font, background=(0, 0, 0, 200), position=position)
    return drawn


def hatch(picture: Image.Image, ignored: np.ndarray) -> Image.Image:
    """Hatch what does not count, given as a mask ``(H, W)`` of any size, bool, on a copy of a picture."""
    rows, columns = np.indices(picture.size[::-1])
    canvas = np.array(picture)
    canvas[np.array(layer_of(picture, ignored).getchannel("A"), bool) & ((rows + columns) % 12 < _STROKE)] = 160
    return Image.fromarray(canvas)


def layer_of(picture: Image.Image, ignored: np.ndarray) -> Image.Image:
    """Return the same mask as a layer over the picture, in the color of the brush, transparent where it is not set."""
    layer = Image.new("RGBA", picture.size, BRUSH)
    layer.putalpha(Image.fromarray(ignored).resize(picture.size, Image.Resampling.NEAREST).convert("L"))
    return layer


def _resized(anomaly_map: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a map to ``(width, height)``."""
    return cv2.resize(anomaly_map, size, interpolation=cv2.INTER_LINEAR).clip(0, 1)
