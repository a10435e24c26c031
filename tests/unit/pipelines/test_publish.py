# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Publication of prompts: the folder, its model card, and the upload to a server on this machine."""

from functools import partial

import pytest
from helpers.hub import serve
from huggingface_hub import HfApi, ModelCard

from anomalib_genclip import cli
from anomalib_genclip.evaluation import EvaluationResult
from anomalib_genclip.persistence.prompts_file import load_weights
from anomalib_genclip.pipelines import publish as publishing


@pytest.fixture
def report(tmp_path):
    EvaluationResult({"bottle": {"image_AUROC": 0.875}}).write(tmp_path)
    return str(tmp_path / "metrics.json")


def test_dry_run_writes_prompts_and_a_model_card(tmp_path, report, capsys):
    folder = tmp_path / "folder"
    options = ["--repo", "owner/name", "--out", str(folder), "--report", report, "--license", "mit", "--dry_run"]
    assert cli.main(["publish", "tiny-demo", *options]) == 0
    assert capsys.readouterr().out.strip() == str(folder)
    assert {path.name for path in folder.iterdir()} == {"README.md", "prompts.safetensors", "metrics.json"}
    learned = load_weights(folder / "prompts.safetensors")
    card = ModelCard.load(folder / "README.md")
    assert (card.data.license, card.data.library_name) == ("mit", "anomalib")
    for text in (
        learned.description.trained_on,
        learned.signature.fingerprint,
        "hf://owner/name/prompts.safetensors",
        "| 87.5 |",
    ):
        assert text in card.text


def test_upload_puts_all_files_into_the_repository(tmp_path, report, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("mine")
    with serve() as hub:
        monkeypatch.setattr(publishing, "HfApi", partial(HfApi, endpoint=hub.url, token="hf_none"))  # noqa: S106
        url = publishing.publish("tiny-demo", "owner/name", tmp_path / "folder", report)
        stored = hub.repos["owner/name"]["main"]
    assert set(stored) == {"README.md", "prompts.safetensors", "metrics.json"}
    for name, content in stored.items():
        assert content == (tmp_path / "folder" / name).read_bytes()
    assert "/owner/name/" in url


def test_a_failed_upload_leaves_the_folder(tmp_path, monkeypatch):
    def fail(*_, **__):
        msg = "401 Client Error\nlong"
        raise OSError(msg)

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", fail)
    with pytest.raises(ConnectionError, match=r"is written, but could not be uploaded to owner/name: 401 Client Error"):
        publishing.publish("tiny-demo", "owner/name", tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.license == "unknown"
    assert card.text.count("to be filled in") == 2  # license, figures


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"repo": "name"}, "repo='name' must be owner/name"),
        ({"repo": "own er/name"}, "own er/name"),
        ({"weights": "none.safetensors"}, r"none\.safetensors"),
        ({"report": __file__}, "is not the metrics.json of a test run"),
    ],
)
def test_wrong_input_writes_nothing(tmp_path, wrong, message):
    given = {"weights": "tiny-demo", "repo": "owner/name", "output": tmp_path / "folder", "upload": False}
    with pytest.raises((ValueError, OSError), match=message):
        publishing.publish(**{**given, **wrong})
    assert not (tmp_path / "folder").exists()
