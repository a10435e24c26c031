# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Prompts files on the Hugging Face Hub: ``hf://owner/name[@revision]/file.safetensors``."""

import re
from pathlib import Path
from urllib.parse import unquote

from huggingface_hub import errors, hf_hub_download

from anomalib_genclip.utils.files import why_unreadable
from anomalib_genclip.utils.messages import quiet

SCHEME = "hf://"
_URL = re.compile(r"hf://(?P<repo>[^/@]+/[^/@]+)(@(?P<revision>[^/@]+))?/(?P<file>.+\.safetensors)")
_REASONS = {  # subclasses first
    errors.LocalEntryNotFoundError: "the hub cannot be reached, and the file is not in the cache",
    errors.GatedRepoError: "the repository is gated: request access on its page, and log in with `hf auth login`",
    errors.RepositoryNotFoundError: "there is no such repository, or it is private: log in with `hf auth login`",
    errors.RevisionNotFoundError: "the repository has no such revision",
    errors.EntryNotFoundError: "the repository has no such file",
}


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
