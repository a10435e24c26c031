# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Prompts files from the Hugging Face Hub: a server on this machine, which HF_ENDPOINT names."""

import os
import subprocess
import sys

import pytest
from helpers.hub import serve

from anomalib_genclip.persistence.prompts_file import load_weights
from anomalib_genclip.persistence.weights_files import download_prompts, resolve_weights

PROGRAM = """
import sys
from anomalib_genclip.persistence.weights_files import download_prompts
for url in sys.argv[1:]:
    try:
        print(download_prompts(url).read_text())
    except Exception as error:
        print(type(error).__name__, str(error).splitlines()[0])
"""


def download(hub_url, cache, *urls, **environment):
    # HF_ENDPOINT is read when huggingface_hub is imported.
    env = {**os.environ, "HF_ENDPOINT": hub_url, "HF_HOME": str(cache), **environment}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *urls], env=env, capture_output=True, text=True, timeout=120, check=True
    )
    assert "Traceback" not in done.stderr
    return done.stdout.splitlines()


def test_files_come_from_the_hub_and_then_from_its_cache_and_others_are_named(tmp_path):
    url = "hf://owner/prompts/a.safetensors"
    with serve() as hub:
        hub.repos["owner/prompts"] = {
            "main": {"a.safetensors": b"main", "deep/b.safetensors": b"deep"},
            "refs/pr/1": {"a.safetensors": b"request"},
        }
        urls = [url, "hf://owner/prompts/deep/b.safetensors", "hf://owner/prompts@refs%2Fpr%2F1/a.safetensors"]
        assert download(hub.url, tmp_path, *urls) == ["main", "deep", "request"]
        offline = download(hub.url, tmp_path, url, "hf://owner/prompts/c.safetensors", HF_HUB_OFFLINE="1")
        assert offline[0] == "main"
        assert "ConnectionError" in offline[1]
        assert "cannot be reached, and the file is not in the cache" in offline[1]
        names = ("other/a", "prompts@v9/a", "prompts/none")
        found = download(hub.url, tmp_path, *(f"hf://owner/{name}.safetensors" for name in names))
    assert download(hub.url, tmp_path, url) == ["main"]  # the server is gone
    for line, reason in zip(found, ("no such repository", "no such revision", "no such file"), strict=True):
        assert line.startswith("ConnectionError The prompts file hf://owner/")
        assert reason in line


@pytest.mark.parametrize("url", ["hf://a.safetensors", "hf://owner/name", "hf://owner/name/a.ckpt", "hf://a/b@/c"])
def test_other_urls_are_refused(url):
    with pytest.raises(ValueError, match=r"hf://owner/name/file\.safetensors"):
        download_prompts(url)


def test_a_downloaded_file_is_checked_like_a_local_one(tmp_path, monkeypatch):
    (tmp_path / "wrong.safetensors").write_bytes(b"wrong")
    monkeypatch.setattr(
        "anomalib_genclip.persistence.weights_files.hf_hub_download", lambda *_, **__: tmp_path / "wrong.safetensors"
    )
    url = "hf://owner/name/wrong.safetensors"
    assert resolve_weights(url) == tmp_path / "wrong.safetensors"
    with pytest.raises(ValueError, match=r"hf://owner/name/wrong\.safetensors is not a readable prompts file"):
        load_weights(url)
