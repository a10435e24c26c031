# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Files of an image: its result image and its anomaly map."""

import hashlib
import io
import os
from collections.abc import Iterator

import numpy as np
import torch
from anomalib.data import ImageItem
from PIL import Image
from torch.nn import functional as F  # noqa: N812

from anomalib_genclip.data.images import read_image
from anomalib_genclip.processing.visualizer import CategoryVisualizer
from anomalib_genclip.records import Record

from .settings import RunSettings

_LONGEST_NAME = 255  # bytes, the limit of common file systems


def result_files(record: Record, name: str, settings: RunSettings) -> Iterator[tuple[str, bytes]]:
    """Draw the result image and encode the anomaly map of an image, if the settings request them."""
    if record.anomaly_map is None or record.mask is None:
        return
    anomaly_map, mask = torch.from_numpy(record.anomaly_map).float(), torch.from_numpy(record.mask)
    if settings.original_size:
        anomaly_map, mask = _resized(anomaly_map, record.size, "bilinear"), _resized(mask, record.size, "nearest") > 0
    if settings.pictures == "all" or (settings.pictures == "anomalous" and record.anomalous):
        size = {"field_size": record.size[::-1]} if settings.original_size else {}
        item = ImageItem(image=read_image(record.path).float() / 255, anomaly_map=anomaly_map, pred_mask=mask)
        yield f"pictures/{file_name(name, '.png')}", encoded(CategoryVisualizer(**size).visualize(item))  # type: ignore[arg-type]  # one item gives one picture
    if settings.maps == "png16":
        deep = np.rint(anomaly_map.numpy() * 65535).astype(np.uint16)
        yield f"maps/{file_name(name, '.png')}", encoded(Image.fromarray(deep))
    elif settings.maps == "npy":
        content = io.BytesIO()
        np.save(content, anomaly_map.numpy())
        yield f"maps/{file_name(name, '.npy')}", content.getvalue()


def file_name(name: str, ending: str) -> str:
    """Append a suffix to a whole file name, because "a.jpg" and "a.png" are two images."""
    folder, last = os.path.split(name)
    if len(os.fsencode(last + ending)) > _LONGEST_NAME:
        last = hashlib.sha256(os.fsencode(last)).hexdigest()
    return os.path.join(folder, last + ending)  # noqa: PTH118  # a name is a string


def _resized(values: torch.Tensor, size: tuple[int, int], mode: str) -> torch.Tensor:
    return F.interpolate(values.float()[None, None], size, mode=mode)[0, 0]


def encoded(image: Image.Image, kind: str = "png") -> bytes:
    """Return an image as a file of a format of Pillow."""
    content = io.BytesIO()
    image.save(content, format=kind)
    return content.getvalue()
