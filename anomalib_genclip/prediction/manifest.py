# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The manifest of a results folder: settings, weights and versions, so that results of two runs are never mixed."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from anomalib_genclip import __version__

from .backends import backend_name, weights_files
from .settings import RunSettings
from .storage import ResultFolder

FORMAT = "anomalib-genclip predictions"
MANIFEST = "manifest.json"
RUNNING, COMPLETE, REMOVING = "running", "complete", "removing"
_RESULTS = ("parts", "pictures", "maps", "scores.csv", "scores.parquet", "regions.csv", "regions.parquet")
_PACKAGES = {  # those whose version can change a score
    "torch": ("anomalib", "torch", "torchvision", "open_clip_torch", "pillow"),
    "onnx": ("onnxruntime", "torchvision", "pillow"),
    "openvino": ("openvino", "torchvision", "pillow"),
}


def describe(settings: RunSettings, device: torch.device) -> dict[str, Any]:
    """Collect everything except the images that the results depend on.

    Args:
        settings (RunSettings): The settings, with the precision resolved.
        device (torch.device): Device of the model.

    Returns:
        dict[str, Any]: Weights, settings and versions, as plain data.

    Raises:
        FileNotFoundError: If there are no such weights.
        ValueError: If settings do not fit the weights.
    """
    backend = backend_name(settings)
    digest = hashlib.sha256()
    files = weights_files(settings.weights)
    for file in files:
        with file.open("rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
    return {
        "weights": {"file": files[0].name, "sha256": digest.hexdigest()},
        "settings": settings.as_manifest() | {"backend": backend, "accelerator": device.type},
        "versions": {"anomalib-genclip": __version__, **dict(_versions(backend))},
    }


def claim(folder: ResultFolder, description: dict[str, Any], *, overwrite: bool) -> dict[str, int] | None:
    """Check that a folder is new or belongs to this run. Nothing is written unless ``overwrite`` is set.

    Args:
        folder (ResultFolder): The folder.
        description (dict[str, Any]): From :func:`describe`.
        overwrite (bool): Whether to remove the results of an earlier run.

    Returns:
        dict[str, int] | None: The counts of a complete run, ``None`` if images are left to score.

    Raises:
        ValueError: If the folder belongs to another run (the message lists the differences), or holds other files.
    """
    found = read_manifest(folder)
    if found is None:
        if not folder.is_empty():
            msg = f"{folder.path} holds files, and no {MANIFEST} of an earlier prediction: give a new folder."
            raise ValueError(msg)
        return None
    if overwrite or found.get("status") == REMOVING:
        # The manifest is removed last: after an interruption its status tells the next run to continue.
        write_manifest(folder, {**found, "status": REMOVING})
        folder.remove(*_RESULTS)
        folder.remove(MANIFEST)
        return None
    differences = list(_differences(found, description))
    if differences:
        msg = (
            f"{folder.path} belongs to a run with other settings: {'; '.join(differences)}. Give the same ones to go "
            "on with it, another folder, or --overwrite to remove its results."
        )
        raise ValueError(msg)
    return found["counts"] if found.get("status") == COMPLETE else None


def read_manifest(folder: ResultFolder) -> dict[str, Any] | None:
    """Read a folder's manifest.

    Returns:
        dict[str, Any] | None: Its contents, ``None`` if there is none.

    Raises:
        ValueError: If it was not written by a prediction.
    """
    content = folder.read(MANIFEST)
    if content is None:
        return None
    try:
        manifest = json.loads(content)
        if manifest["format"] == FORMAT:
            return manifest
    except (ValueError, TypeError, KeyError):
        pass
    msg = f"{folder.path}/{MANIFEST} was not written by a prediction: give another folder."
    raise ValueError(msg)


def write_manifest(folder: ResultFolder, content: dict[str, Any]) -> None:
    """Write a folder's manifest."""
    text = json.dumps({"format": FORMAT, **content}, indent=2, ensure_ascii=False)
    folder.write(MANIFEST, f"{text}\n".encode())


def _differences(found: dict[str, Any], wanted: dict[str, Any]) -> Iterator[str]:
    """Yield the differences between two descriptions."""
    for group in ("settings", "weights", "versions"):
        theirs, ours = found.get(group, {}), wanted[group]
        for name in sorted({*theirs, *ours}):
            if theirs.get(name) != ours.get(name):
                label = name if group == "settings" else f"{name} of the weights" if group == "weights" else name
                yield f"{label} {theirs.get(name)!r} (now {ours.get(name)!r})"


def _versions(backend: str) -> Iterator[tuple[str, str]]:
    for name in _PACKAGES[backend]:
        with suppress(PackageNotFoundError):  # without metadata, as when a user vendors it
            yield name, version(name)
