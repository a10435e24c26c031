# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Where trained weights are: a file, the bundled prompts, or ``hf://owner/name[@revision]/file.safetensors``."""

import re
from importlib.resources import files
from pathlib import Path
from urllib.parse import unquote

from huggingface_hub import errors, hf_hub_download

from anomalib_genclip.utils.files import is_file, why_unreadable
from anomalib_genclip.utils.messages import quiet

BUNDLED_PROMPTS = {"tiny-demo": "demo/assets/tiny_demo.safetensors"}
SCHEME = "hf://"
_URL = re.compile(r"hf://(?P<repo>[^/@]+/[^/@]+)(@(?P<revision>[^/@]+))?/(?P<file>.+\.safetensors)")
_REASONS = {  # subclasses first
    errors.LocalEntryNotFoundError: "the hub cannot be reached, and the file is not in the cache",
    errors.GatedRepoError: "the repository is gated: request access on its page, and log in with `hf auth login`",
    errors.RepositoryNotFoundError: "there is no such repository, or it is private: log in with `hf auth login`",
    errors.RevisionNotFoundError: "the repository has no such revision",
    errors.EntryNotFoundError: "the repository has no such file",
}


def resolve_weights(weights: str | Path) -> Path:
    """Find the file of trained weights; ``FileNotFoundError`` if there is none, else as :func:`download_prompts`."""
    if weights in BUNDLED_PROMPTS:
        return Path(str(files("anomalib_genclip") / BUNDLED_PROMPTS[str(weights)]))
    path = download_prompts(weights) if isinstance(weights, str) and weights.startswith(SCHEME) else Path(weights)
    if not is_file(path):
        msg = f"There are no weights {weights}. Give a file, or one of the bundled: {', '.join(BUNDLED_PROMPTS)}."
        raise FileNotFoundError(msg)
    return path


def files_of(path: Path) -> list[Path]:
    """List the files of a model: the one that is given and, for exported models, its tensors beside it."""
    others = {".onnx": [Path(f"{path}.data")], ".xml": [path.with_suffix(".bin")]}.get(path.suffix, [])
    return [path, *(other for other in others if other.is_file())]


def download_prompts(url: str) -> Path:
    """Download a prompts file, or return it from the hub's cache if it is there or there is no network access.

    Raises:
        ValueError: If the URL has another form.
        ConnectionError: If the file cannot be downloaded; says why, and how to work without network access.
    """
    match = _URL.fullmatch(url)
    if match is None:
        msg = f"{url} is not of the form hf://owner/name/file.safetensors or hf://owner/name@revision/file.safetensors."
        raise ValueError(msg)
    try:
        with quiet("huggingface_hub"):
            revision = match["revision"] and unquote(match["revision"])
            return Path(hf_hub_download(match["repo"], match["file"], revision=revision))
    except Exception as error:  # noqa: BLE001  # versions of the client raise different types
        reason = next((text for kind, text in _REASONS.items() if isinstance(error, kind)), why_unreadable(error))
        msg = (
            f"The prompts file {url} could not be downloaded: {reason}. Alternatives: weights=<file>, a local copy; or "
            "fill the cache on a machine with network access and copy it: ~/.cache/huggingface."
        )
        raise ConnectionError(msg) from None  # the client's traceback has nothing that the user can act on
