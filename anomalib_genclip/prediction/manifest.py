# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The manifest of a results folder: settings, weights and versions, so that results of two runs are never mixed."""

import json
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from anomalib_genclip import __version__
from anomalib_genclip.persistence.weights_files import files_of
from anomalib_genclip.utils.files import file_hash

from .output import WRITERS
from .settings import RunSettings
from .storage import ResultFolder

FORMAT = "anomalib-genclip predictions"
MANIFEST = "manifest.json"
# The table goes first, so that no run looks complete, and the manifest last, so that the folder stays known.
_TABLES = [f"{table}.{kind}" for table in ("scores", "regions") for kind in WRITERS]
_RESULTS = (*_TABLES, "chunks", "pictures", "maps", MANIFEST)
_RUNTIMES = {".onnx": ["onnxruntime"], ".xml": ["openvino"]}


def describe(settings: RunSettings, weights: Path, device: str) -> bytes:
    """Return the manifest of a run: everything except the images that the results depend on."""
    versions = {"anomalib-genclip": __version__}
    for name in (*_RUNTIMES.get(weights.suffix, ["anomalib", "torch", "open_clip_torch"]), "torchvision", "pillow"):
        with suppress(PackageNotFoundError):  # without metadata, as when a user vendors it
            versions[name] = version(name)
    mask = settings.ignore_mask
    if mask is not None and Path(mask).is_file():
        mask = f"{Path(mask).name}, SHA-256 {file_hash(mask)[:16]}"
    manifest = {
        "format": FORMAT,
        "weights": {"file": weights.name, "sha256": hash_weights(weights)},
        "settings": settings.as_manifest() | {"accelerator": device, "ignore_mask": mask},
        "versions": versions,
    }
    return f"{json.dumps(manifest, indent=2, ensure_ascii=False)}\n".encode()


def hash_weights(weights: Path) -> str:
    """Return the SHA-256 of a model's files."""
    return file_hash(*files_of(weights))


def claim(folder: ResultFolder, manifest: bytes, *, overwrite: bool) -> None:
    """Remove an earlier run's results if asked to; a ``ValueError`` names the differences from it, or other files."""
    files = folder.names()  # before the manifest is read: another shard may write it now, and then its chunks
    try:
        found = json.loads(folder.read(MANIFEST) or b"null")
    except ValueError:
        found = {}  # of something else
    found = found if found is None or isinstance(found, dict) else {}
    differences = list(_differences(found or {}, json.loads(manifest)))
    if found is None and files:
        msg = f"{folder.path} holds files, and no {MANIFEST} of an earlier prediction: give a new folder."
    elif found is not None and found.get("format") != FORMAT:
        msg = f"{folder.path}/{MANIFEST} was not written by a prediction: give another folder."
    elif found is not None and differences and not overwrite:
        what = f"{folder.path} belongs to a run with other settings: {'; '.join(differences)}"
        msg = f"{what}. Give the same ones to go on with it, another folder, or --overwrite to remove its results."
    else:
        folder.remove(*(_RESULTS if found is not None and overwrite else ()))
        return
    raise ValueError(msg)


def _differences(found: dict[str, Any], wanted: dict[str, Any]) -> Iterator[str]:
    """Yield the differences between two manifests."""
    for group, of in (("settings", ""), ("weights", " of the weights"), ("versions", "")):
        theirs, ours = found.get(group, {}), wanted[group]
        for name in sorted({*theirs, *ours}):
            if theirs.get(name) != ours.get(name):
                yield f"{name}{of} {theirs.get(name)!r} (now {ours.get(name)!r})"
