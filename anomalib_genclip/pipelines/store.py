# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Results of finished jobs, so that an interrupted comparison goes on where it was."""

import hashlib
import json
import logging
from importlib.metadata import version
from pathlib import Path
from typing import Any

from anomalib_genclip import __version__
from anomalib_genclip.clip.backbone import TINY
from anomalib_genclip.demo.tiny_clip import TINY_CLIP_FILE
from anomalib_genclip.persistence.prompts_file import BUNDLED
from anomalib_genclip.utils.files import atomic_write, is_file

logger = logging.getLogger(__name__)


def job_key(settings: dict[str, Any]) -> str:
    """Name a job by all that its result depends on.

    That is its settings, the contents of the files that they name (a prompts file may be trained anew under its old
    name) and of the bundled weights, and the versions of this package and of anomalib.

    Args:
        settings (dict[str, Any]): Plain data.

    Returns:
        str: A short hash.
    """
    names = _strings(settings)
    files = {path: _digest(Path(path)) for path in names if is_file(path)}
    if {TINY, *BUNDLED} & set(names):
        files |= {path.name: _digest(path) for path in sorted(TINY_CLIP_FILE.parent.glob("*.safetensors"))}
    return _text_digest([settings, files, __version__, version("anomalib")])


def _strings(value: Any) -> list[str]:  # noqa: ANN401
    """List all strings in nested plain data."""
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else []
    return [text for part in parts for text in _strings(part)]


def _text_digest(value: Any) -> str:  # noqa: ANN401
    """Hash plain data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def read_result(path: Path) -> dict[str, Any] | None:
    """Read a finished job's result, ``None`` if there is none that can be read."""
    if not path.is_file():
        return None
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):  # no JSON, or no text
        kept = None
    if not isinstance(kept, dict) or kept.get("digest") != _text_digest(kept.get("result")):
        logger.warning("%s is no result of a job, or has been changed: the job is run again.", path)
        return None
    return kept["result"]


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Write a result, whole or not at all."""
    result = json.loads(json.dumps(result))  # as it will be read: names become text
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, json.dumps({"result": result, "digest": _text_digest(result)}, indent=2).encode())
