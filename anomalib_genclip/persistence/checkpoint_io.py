# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Checkpoints: written atomically, checked before they are used."""

import io
from pathlib import Path
from typing import IO, Any

import torch
from anomalib.engine.plugins import AnomalibCheckpointIO
from anomalib.utils.serialization import anomalib_safe_globals

from anomalib_genclip.utils.files import atomic_write, check_archive, is_file, why_unreadable
from anomalib_genclip.utils.tensors import check_finite, digest

FROZEN = "model.clip."  # prefix of CLIP's tensors, which are not in checkpoints
_LEGACY_SETTINGS = {"hparams", "hparams_type", "module_arguments"}  # Lightning still reads them


class GenCLIPCheckpointIO(AnomalibCheckpointIO):
    """Write checkpoints atomically, and refuse damaged or foreign ones with an error that names the file.

    Lightning moves the file from the system's temporary folder: from another disk, a killed process leaves the last
    good one incomplete. torch does not verify checksums when it reads the file.
    """

    def load_checkpoint(self, path: str | Path | IO, *args: Any, **kwargs: Any) -> dict[str, Any]:  # noqa: ANN401
        """Read a checkpoint; ``ValueError`` for one that is damaged, was not written by GenCLIP, or could run code."""
        if isinstance(path, str | Path) and is_file(path):
            check_archive(Path(path))  # the hash below is that of the model, not of the optimizer and the settings
        try:
            if isinstance(path, str | Path):
                checkpoint = super().load_checkpoint(path, *args, **kwargs)
            else:
                with anomalib_safe_globals(extra=self.extra_safe_globals):
                    checkpoint = torch.load(path, "cpu", weights_only=True)  # noqa: TID251  # reads tensors only
                path.seek(0)
        except OSError:
            raise
        except Exception as error:  # torch's reader raises many types for a damaged file
            msg = f"{path} cannot be read as a checkpoint: {why_unreadable(error)}."
            raise ValueError(msg) from error
        check_checkpoint(checkpoint, f"The checkpoint {path}")
        return checkpoint

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:  # noqa: ANN401
        """Write a checkpoint, or a URL as Lightning does; an ``OSError`` names the file; an old one stays unchanged."""
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        content = io.BytesIO()
        torch.save(checkpoint, content)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        atomic_write(Path(path), content.getvalue())


def describe_checkpoint(checkpoint: dict[str, Any], description: dict[str, Any]) -> None:
    """Replace CLIP in a checkpoint by description and hash; ``ValueError`` for a learned tensor that is not finite."""
    state = {key: value for key, value in checkpoint["state_dict"].items() if not key.startswith(FROZEN)}
    learned = {key: value for key, value in state.items() if key.startswith("model.")}  # others may be NaN
    check_finite(learned, "The checkpoint is not written")
    checkpoint["state_dict"] = state
    settings = checkpoint.get("hyper_parameters", {})  # Lightning's command line adds private entries
    checkpoint["hyper_parameters"] = {name: value for name, value in settings.items() if not _is_hidden(name)}
    checkpoint["genclip"] = {**description, "digest": digest(state, description)}


def check_checkpoint(checkpoint: Any, source: str) -> None:  # noqa: ANN401  # whatever was in the file
    """Raise a ``ValueError`` for a checkpoint that was not written by GenCLIP, is damaged, or could run code."""
    description = checkpoint.get("genclip") if isinstance(checkpoint, dict) else None
    if not isinstance(description, dict) or not {"backbone", "layers", "trained_on"} <= description.keys():
        msg = f"{source} was not written by GenCLIP."
        raise ValueError(msg)
    description = dict(description)
    written, state = description.pop("digest", None), checkpoint.get("state_dict")
    try:
        found = digest(state, description)
    except Exception:  # noqa: BLE001  # other objects than tensors and plain data cannot be hashed
        found = ""
    if found != written:
        msg = f"{source} is damaged: its tensors do not match their checksum. Use another one."
        raise ValueError(msg)
    if any(key.startswith(FROZEN) for key in state):
        msg = f"{source} contains tensors of CLIP, which are not learned."
        raise ValueError(msg)
    settings = checkpoint.get("hyper_parameters") or {}
    # With these entries, Lightning would build the model with classes and functions from the file.
    suspects = [*_LEGACY_SETTINGS & checkpoint.keys(), *(name for name in settings if _is_hidden(name))]
    if suspects or not isinstance(settings, dict):
        msg = f"{source}: the settings {suspects[0] if suspects else settings!r} could run code when they are read."
        raise ValueError(msg)


def _is_hidden(name: object) -> bool:
    """Return whether the name of a setting is private to Lightning, or not a string."""
    return not isinstance(name, str) or name.startswith("_")
