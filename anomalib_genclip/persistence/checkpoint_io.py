# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Checkpoints that appear whole, and that are looked at before anything is made of them."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch
from anomalib.engine.plugins import AnomalibCheckpointIO
from anomalib.utils.serialization import anomalib_safe_globals
from torch import Tensor

from anomalib_genclip.utils.files import atomic_write, check_archive, is_file, why_unreadable
from anomalib_genclip.utils.tensors import check_finite, digest

FROZEN = "model.clip."  # keys of CLIP's tensors, which are no part of a checkpoint
_LEGACY_SETTINGS = {"hparams", "hparams_type", "module_arguments"}  # Lightning still reads them


class GenCLIPCheckpointIO(AnomalibCheckpointIO):
    """Write checkpoints whole or not at all, and refuse damaged or foreign ones by name.

    Lightning writes into the system's temporary folder and then moves the file. Where that folder is on another disk
    the move is a copy over the last good checkpoint, which a full disk or a killed process leaves in pieces; and
    Lightning says nothing if it was not allowed to write. torch, which reads the file, looks at no checksum.
    """

    def load_checkpoint(self, path: str | Path | IO, *args: Any, **kwargs: Any) -> dict[str, Any]:  # noqa: ANN401
        """Read a checkpoint.

        Args:
            path (str | Path | IO): The checkpoint, or an open file with it, which is left at its start.
            *args (Any): As in anomalib.
            **kwargs (Any): As in anomalib.

        Returns:
            dict[str, Any]: State of model and trainer.

        Raises:
            ValueError: If it is damaged, was not written by GenCLIP, or holds what could run code; names the file.
        """
        if isinstance(path, str | Path) and is_file(path):  # addresses and folders are left to their readers
            check_archive(Path(path))
        try:
            if isinstance(path, str | Path):
                checkpoint = super().load_checkpoint(path, *args, **kwargs)
            else:
                with anomalib_safe_globals(extra=self.extra_safe_globals):
                    checkpoint = torch.load(path, "cpu", weights_only=True)  # noqa: TID251  # reads tensors only
                path.seek(0)
        except Exception as error:
            if type(error).__name__ != "UnpicklingError":  # the class is in pickle
                raise
            msg = f"{path} cannot be read as a checkpoint: {why_unreadable(error)}."
            raise ValueError(msg) from error
        check_checkpoint(checkpoint, f"The checkpoint {path}")
        return checkpoint

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:  # noqa: ANN401
        """Write a checkpoint.

        Args:
            checkpoint (dict[str, Any]): State of model and trainer.
            path (str | Path): Where to. Addresses such as ``s3://`` are left to Lightning.
            storage_options (Any): As in Lightning. Defaults to ``None``.

        Raises:
            OSError: If it cannot be written; names the file. What was there before stays.
        """
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        content = io.BytesIO()
        torch.save(checkpoint, content)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        atomic_write(Path(path), content.getvalue())


def describe_checkpoint(checkpoint: dict[str, Any], description: dict[str, Any]) -> None:
    """Leave CLIP out of a checkpoint, and add what its learned tensors fit to, and a hash of both.

    Args:
        checkpoint (dict[str, Any]): State of model and trainer.
        description (dict[str, Any]): Plain data.

    Raises:
        ValueError: If a learned tensor is not finite.
    """
    state = {key: value for key, value in checkpoint["state_dict"].items() if not key.startswith(FROZEN)}
    check_finite(_learned(state), "The checkpoint is not written")
    checkpoint["state_dict"] = state
    # Lightning's command line class would have itself found again under a hidden name.
    settings = checkpoint.get("hyper_parameters", {})
    checkpoint["hyper_parameters"] = {name: value for name, value in settings.items() if not _is_hidden(name)}
    checkpoint["genclip"] = {**description, "digest": digest(state, description)}


def check_checkpoint(checkpoint: Any, source: str) -> None:  # noqa: ANN401  # whatever was in the file
    """Refuse a checkpoint that GenCLIP has not written, or that is no longer what was written.

    Args:
        checkpoint (Any): What was read.
        source (str): Where it comes from, for messages.

    Raises:
        ValueError: If it is one.
    """
    description = checkpoint.get("genclip") if isinstance(checkpoint, dict) else None
    if not isinstance(description, dict) or not {"backbone", "layers", "trained_on"} <= description.keys():
        msg = f"{source} was not written by GenCLIP."
        raise ValueError(msg)
    state = checkpoint.get("state_dict")
    if not _matches(state, description):
        msg = f"{source} is damaged: its tensors are not those that were written. Take another one."
        raise ValueError(msg)
    check_finite(_learned(state), source)
    if any(key.startswith(FROZEN) for key in state):
        msg = f"{source} holds tensors of CLIP, which are not learned."
        raise ValueError(msg)
    for key in ("optimizer_states", "lr_schedulers"):
        if any(bool(torch.isnan(torch.as_tensor(number)).any()) for number in _numbers(checkpoint.get(key))):
            msg = f"{source}: {key} holds NaN. Take an earlier one."
            raise ValueError(msg)
    settings = checkpoint.get("hyper_parameters") or {}
    # With one of these Lightning would take classes and functions from the file, to build the model with.
    suspects = [*_LEGACY_SETTINGS & checkpoint.keys(), *(name for name in settings if _is_hidden(name))]
    if suspects or not isinstance(settings, dict):
        msg = f"{source}: the settings {suspects[0] if suspects else settings!r} could run code when they are read."
        raise ValueError(msg)


def _matches(state: Any, description: dict[str, Any]) -> bool:  # noqa: ANN401
    """Tell whether tensors and their description are those that were written."""
    description = dict(description)
    written = description.pop("digest", None)
    try:
        return written == digest(state, description)
    except Exception:  # noqa: BLE001  # what is no tensor, or no plain data, makes no hash
        return False


def _learned(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Leave out the states of metrics and thresholds, which may be NaN."""
    return {key: value for key, value in state.items() if key.startswith("model.")}


def _numbers(value: Any) -> Iterator[float | Tensor]:  # noqa: ANN401
    """Yield the floating-point numbers and tensors in nested containers."""
    if isinstance(value, float | Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _numbers(part)


def _is_hidden(name: object) -> bool:
    """Tell whether the name of a setting is one of Lightning's own, or none at all."""
    return not isinstance(name, str) or name.startswith("_")
