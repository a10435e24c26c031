# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Results of an image: its row, result image and anomaly map."""

import hashlib
import io
import os
from collections.abc import Iterable

import numpy as np
import torch
from anomalib.data import ImageItem
from PIL import Image
from torch.nn import functional as F  # noqa: N812

from anomalib_genclip.processing.visualizer import CategoryVisualizer

from .images import read_image
from .records import Record, Row
from .settings import RunSettings
from .storage import ResultFolder

REGIONS = "region_rows"  # key of the regions in a row that is not yet in a table
_LONGEST_NAME = 255  # bytes, the limit of common file systems
_ENDINGS = {"png16": ".png", "npy": ".npy"}


def as_rows(records: Iterable[Record], settings: RunSettings, folder: ResultFolder) -> list[Row]:
    """Write the files of images and return their rows; arguments as in :func:`write_files`."""
    rows = []
    for record in records:
        write_files(record, settings, folder)
        rows.append(record.as_row() | ({REGIONS: record.region_rows()} if settings.regions else {}))
    return rows


def write_files(record: Record, settings: RunSettings, folder: ResultFolder) -> None:
    """Write the result image and the anomaly map of an image, if the settings request them.

    Args:
        record (Record): Prediction of the image.
        settings (RunSettings): The settings.
        folder (ResultFolder): The results folder; files are written to ``pictures/`` and ``maps/`` in it.

    Raises:
        OSError: If a file cannot be written, or the image was removed after it was scored.
    """
    if record.anomaly_map is None or record.mask is None:
        return
    anomaly_map, mask = record.anomaly_map, record.mask
    if settings.original_size:
        anomaly_map, mask = (_resized(anomaly_map, record.size, "bilinear"), _resized(mask, record.size, "nearest") > 0)
    if settings.pictures == "all" or (settings.pictures == "anomalous" and record.anomalous):
        picture = draw(record, anomaly_map, mask, original_size=settings.original_size)
        folder.write(f"pictures/{file_name(record.name, '.png')}", picture, sync=False)
    if settings.maps != "none":
        name = f"maps/{file_name(record.name, _ENDINGS[settings.maps])}"
        folder.write(name, encode_map(anomaly_map, settings.maps), sync=False)


def draw(record: Record, anomaly_map: np.ndarray, mask: np.ndarray, *, original_size: bool = False) -> bytes:
    """Draw an image, its heat map and its mask as in `anomalib predict`.

    Args:
        record (Record): The image.
        anomaly_map (np.ndarray): ``(H, W)``, in [0, 1].
        mask (np.ndarray): ``(H, W)``, bool.
        original_size (bool): Whether each panel has the size of the image, not anomalib's default size. Defaults to
            ``False``.

    Returns:
        bytes: PNG file.
    """
    height, width = record.size
    visualizer = CategoryVisualizer(field_size=(width, height)) if original_size else CategoryVisualizer()
    item = ImageItem(
        image=read_image(record.path).float() / 255,
        anomaly_map=torch.from_numpy(np.ascontiguousarray(anomaly_map)),
        pred_mask=torch.from_numpy(np.ascontiguousarray(mask)),
    )
    return _png(visualizer.visualize(item))  # type: ignore[arg-type]  # one item gives one picture


def encode_map(anomaly_map: np.ndarray, kind: str) -> bytes:
    """Encode an anomaly map, ``(H, W)`` in [0, 1], as "png16" or "npy"."""
    if kind == "png16":
        return _png(Image.fromarray(np.rint(anomaly_map * 65535).astype(np.uint16)))
    content = io.BytesIO()
    np.save(content, anomaly_map.astype(np.float32, copy=False))
    return content.getvalue()


def file_name(name: str, ending: str) -> str:
    """Append a suffix to a whole file name, because "a.jpg" and "a.png" are two images."""
    folder, last = os.path.split(name)
    if len(os.fsencode(last + ending)) > _LONGEST_NAME:
        last = hashlib.sha256(os.fsencode(last)).hexdigest()
    return os.path.join(folder, last + ending)  # noqa: PTH118  # a name is a string


def _resized(values: np.ndarray, size: tuple[int, int], mode: str) -> np.ndarray:
    return F.interpolate(torch.from_numpy(values.astype(np.float32))[None, None], size, mode=mode)[0, 0].numpy()


def _png(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, format="png")
    return content.getvalue()
