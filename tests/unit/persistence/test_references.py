# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""References travel in prompts files and checkpoints, in half precision and without a loss."""

import json

import pytest
import torch
from anomalib.data import PredictDataset
from helpers import data_trees
from helpers.runs import build, engine
from safetensors import safe_open

from anomalib_genclip import GenCLIP
from anomalib_genclip.components.references import ReferenceMemory
from anomalib_genclip.persistence.prompts_file import load_weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("references")


@pytest.fixture(scope="module")
def data(folder):
    return data_trees.mvtec_ad(folder / "data")


@pytest.fixture(scope="module")
def model(folder, data):
    """A model with three references of the category "bottle", and thresholds."""
    model = build(k_shot=3)
    engine(folder / "results").test(model, datamodule=data)
    model.post_processor.set_thresholds(0.25, 0.5)
    return model.eval()


def scores(model: GenCLIP, data, folder) -> torch.Tensor:
    images = PredictDataset(data.root / "bottle" / "test" / "crack")
    return torch.cat([batch.pred_score for batch in engine(folder).predict(model, dataset=images)])


def test_prompts_file_holds_references_on_request(model, folder, data):
    path = model.save_weights(folder / "references.safetensors", references=True)
    with safe_open(path, "pt") as file:
        metadata = json.loads(file.metadata()["genclip"])
        assert file.get_tensor("references.memories.0.patches").dtype == torch.float16
    assert [(entry["category"], len(entry["images"])) for entry in metadata["references"]] == [("bottle", 3)]
    loaded = GenCLIP(weights=path, pretrained=None, visualizer=False)
    for key, value in model.model.references.state_dict().items():
        torch.testing.assert_close(loaded.model.references.state_dict()[key], value, rtol=0, atol=0)
    assert float(loaded.post_processor.raw_thresholds()["image"]) == 0.25
    torch.testing.assert_close(scores(loaded, data, folder), scores(build(weights=path), data, folder), rtol=0, atol=0)


def test_prompts_file_without_references_is_the_zero_shot_models(model, folder):
    path = model.save_weights(folder / "zero_shot.safetensors")
    plain = build().save_weights(folder / "plain.safetensors")
    with safe_open(path, "pt") as file, safe_open(plain, "pt") as other:
        assert set(file.keys()) == set(other.keys())
        assert json.loads(file.metadata()["genclip"]).keys() == json.loads(other.metadata()["genclip"]).keys()
    # Thresholds on scores with references mean nothing without them.
    assert load_weights(path).thresholds["image"].isnan()


def test_there_must_be_references_to_save(folder):
    with pytest.raises(ValueError, match="no references to save"):
        build().save_weights(folder / "none.safetensors", references=True)


def test_checkpoint_holds_references(model, data, folder):
    run = engine(folder / "checkpoint")
    run.validate(model, datamodule=data)
    path = folder / "references.ckpt"
    run.trainer.save_checkpoint(path)
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["state_dict"]["model.references.memories.0.patches"].dtype == torch.float16
    loaded = GenCLIP.load_from_checkpoint(path, visualizer=False)
    assert loaded.product.k_shot == 0
    assert loaded.model.references.describe() == model.model.references.describe()
    for key, value in model.model.references.state_dict().items():
        torch.testing.assert_close(loaded.model.references.state_dict()[key], value, rtol=0, atol=0)
    other = build()
    expected = scores(loaded, data, folder)
    engine(folder).test(other, datamodule=data, ckpt_path=path)
    torch.testing.assert_close(scores(other, data, folder), expected, rtol=0, atol=0)


def test_references_of_another_image_size_are_refused(folder):
    model = GenCLIP(weights="tiny-demo")
    patches, cls = torch.ones(4, 5, 128), torch.ones(1, 1, 128)
    model.model.references.set({"": ReferenceMemory(patches, cls, torch.ones(()), torch.ones(()), ["hash"])})
    path = model.save_weights(folder / "size.safetensors", references=True)
    with pytest.raises(ValueError, match=r"references at \(112, 112\) pixels.*\(96, 96\).*k_shot"):
        GenCLIP(weights=path, image_size=96)


@pytest.mark.parametrize(
    "change",
    [
        {"references": [{"category": "bottle"}]},
        {"references": [{"images": ["hash"]}]},
        {"references": [{"category": 1, "images": ["hash"]}]},
        {"references": {"bottle": 3}},
    ],
)
def test_references_without_a_description_are_refused(model, folder, change, monkeypatch):
    monkeypatch.setattr(model.model.references, "describe", lambda: change["references"])
    path = model.save_weights(folder / "changed.safetensors", references=True)
    with pytest.raises(ValueError, match=r"changed\.safetensors has references without"):
        load_weights(path)


def test_references_that_do_not_fit_their_description_are_refused(model, folder, monkeypatch):
    monkeypatch.setattr(model.model.references, "describe", lambda: [{"category": "bottle", "images": ["hash"]}])
    path = model.save_weights(folder / "fewer.safetensors", references=True)
    with pytest.raises(ValueError, match=r"fewer\.safetensors, cls of the references of 'bottle'"):
        build(weights=path)


def test_fine_tuning_starts_without_references(model, folder, data):
    path = model.save_weights(folder / "tune.safetensors", references=True)
    tuned = build(weights=path, fine_tune=True)
    engine(folder / "tuned", max_epochs=1).fit(tuned, datamodule=data)
    assert not tuned.model.references.memories
