# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Download and reading of CLIP weights; only tensors are read."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import load_file

from anomalib_genclip.utils.files import check_archive, why_unreadable
from anomalib_genclip.utils.logs import quiet

_NO_WEIGHTS = {"input_resolution", "context_length", "vocab_size", "attn_mask"}  # in OpenAI's files


def download_weights(backbone: str, pretrained: str, config: dict[str, Any]) -> str:
    """Download the weights of a tag through open_clip, whose entry for it is ``config``, and return the file.

    Raises:
        ConnectionError: If that fails; says how to work without a network.
    """
    try:
        with quiet("huggingface_hub"):
            return open_clip.download_pretrained(config)
    except Exception as error:  # noqa: BLE001  # hub clients and their versions raise different types
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        msg = (
            f"The CLIP weights {pretrained!r} of {backbone} could not be downloaded: {reason}\n"
            "Alternatives:\n"
            "  - pretrained=<file>: a local copy (.safetensors or .pt) in open_clip's or OpenAI's layout;\n"
            "  - fill the cache on a machine with network access and copy it: ~/.cache/huggingface or ~/.cache/clip;\n"
            "  - backbone='tiny': the bundled demonstration CLIP, which needs no download."
        )
        raise ConnectionError(msg) from None  # the hub client's traceback has nothing that a user can act on


def read_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a ``.safetensors``, torch or TorchScript file in open_clip's or OpenAI's layout.

    Raises:
        ValueError: If the file cannot be read, or contains code, which is not run, or other objects; names it.
    """
    path = Path(path)
    if zipfile.is_zipfile(path):
        check_archive(path)
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        elif is_torchscript(path):  # how OpenAI publishes its weights
            state = _read_torchscript(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251  # reads tensors only
    except Exception as error:  # readers raise various types for a corrupt file
        msg = f"{path} cannot be read as CLIP weights: {why_unreadable(error)}"
        raise ValueError(msg) from error
    state = state.get("state_dict", state) if isinstance(state, Mapping) else state
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        msg = f"{path} cannot be read as CLIP weights: it is not a dictionary of tensors."
        raise ValueError(msg)
    return {str(key).removeprefix("module."): value for key, value in state.items() if key not in _NO_WEIGHTS}


def is_torchscript(path: Path) -> bool:
    """Return whether a file is a TorchScript archive, which unlike a torch file has a ``constants.pkl``."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _read_torchscript(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a TorchScript archive; refuse ``__setstate__``, a method that loading would run."""
    copy = io.BytesIO()  # what was checked is loaded, because torch locates the files of an archive differently
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(copy, "w") as checked:
        for name in archive.namelist():
            content = archive.read(name)
            if b"__setstate__" in content:
                msg = "it contains code that would run when it is read"
                raise ValueError(msg)
            checked.writestr(name, content)
    copy.seek(0)
    return torch.jit.load(copy, map_location="cpu").state_dict()  # noqa: TID251  # no code left that runs
