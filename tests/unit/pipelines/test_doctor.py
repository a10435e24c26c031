# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Checks of an installation."""

from pathlib import Path

from huggingface_hub import constants

from anomalib_genclip import cli
from anomalib_genclip.pipelines import doctor


def test_a_working_installation_passes_on_one_screen(capsys):
    assert cli.main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "FAILED" not in text
    assert text.count(" ok ") == len(doctor._CHECKS)
    assert len(text.splitlines()) < 24


def test_what_is_broken_fails_in_one_line_and_alone(monkeypatch, capsys):
    def broken():
        msg = "no driver\nTraceback"
        raise RuntimeError(msg)

    monkeypatch.setattr(doctor, "_EXPECTED_SCORE", 0.5)
    checks = {"devices": broken, "system": doctor._system, "self-test": doctor._self_test}
    monkeypatch.setattr(doctor, "_CHECKS", checks)
    assert cli.main(["doctor"]) == 1
    text = capsys.readouterr().out
    assert (text.count("FAILED"), text.count(" ok ")) == (2, 1)
    assert "RuntimeError: no driver" in text
    assert "expected 0.5000" in " ".join(text.split())
    assert "Traceback" not in text


def test_clip_weights_are_found_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(Path, "expanduser", lambda _: tmp_path / "clip")
    entry = {"hf_hub": "owner/name/", "url": "https://host/ViT.pt"}
    monkeypatch.setattr("open_clip.get_pretrained_cfg", lambda *_: entry)
    assert "not in the cache" in doctor._clip_weights()
    for path in (tmp_path / "clip/ViT.pt", tmp_path / "models--owner--name/snapshots/1/open_clip_model.safetensors"):
        path.parent.mkdir(parents=True)
        path.touch()
        assert str(path) in doctor._clip_weights()
