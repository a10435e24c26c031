# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""References travel in prompts files and checkpoints, in half precision and without a loss."""

import copy

import pytest
import torch
from helpers import data_trees
from helpers.prompts_files import rewritten
from helpers.runs import build, engine, save_checkpoint

from anomalib_genclip import GenCLIP, Inferencer
from anomalib_genclip.components.references import ReferenceMemory
from anomalib_genclip.persistence.learned_state import reference_notes
from anomalib_genclip.persistence.prompts_file import load_weights

IMAGE = torch.rand(3, 40, 50, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("references")


@pytest.fixture(scope="module")
def data(folder):
    return data_trees.mvtec_ad(folder / "data", ("metal_nut",))


@pytest.fixture(scope="module")
def model(folder, data):
    model = build(k_shot=3)
    engine(folder / "results").test(model, datamodule=data)
    model.post_processor.set_thresholds(0.25, 0.5)
    return model.eval()


@pytest.fixture(scope="module")
def prompts(model, folder):
    return model.save_weights(folder / "references.safetensors", references=True)


def score(model: GenCLIP, class_name: str | None = None) -> float:
    return Inferencer(model, precision="float32").predict(IMAGE, class_name).score


def test_prompts_file_has_references_on_request(model, prompts):
    saved = load_weights(prompts)
    assert saved.tensors["references.memories.0.patches"].dtype == torch.float16
    assert [(note.category, len(note.images)) for note in saved.description.references] == [("metal nut", 3)]
    loaded = GenCLIP(weights=prompts, visualizer=False)
    assert reference_notes(loaded.model) == reference_notes(model.model)
    expected = model.model.references.state_dict()
    torch.testing.assert_close(loaded.model.references.state_dict(), expected, rtol=0, atol=0)
    assert float(loaded.post_processor.raw_thresholds()["image"]) == 0.25
    assert score(loaded) == score(model)


def test_references_of_a_file_serve_their_product_however_it_is_written_and_no_other(prompts, data, tmp_path):
    model = GenCLIP(weights=prompts, visualizer=False)
    assert score(model, "metal_nut") == pytest.approx(score(model, "metal nut"), abs=1e-6)
    with pytest.raises(ValueError, match=r"no references for images of 'wood', only for 'metal nut'"):
        score(model, "wood")
    with pytest.raises(ValueError, match="'wood'"):
        Inferencer(prompts, "wood")
    engine(tmp_path).test(model, datamodule=data)
    wood = data_trees.mvtec_ad(tmp_path / "data", ("wood",))
    with pytest.raises(ValueError, match=r"no references for images of 'wood', only for 'metal nut'"):
        engine(tmp_path).test(model, datamodule=wood)


def test_prompts_file_without_references_is_the_zero_shot_models(model, folder):
    saved = load_weights(model.save_weights(folder / "zero_shot.safetensors"))
    assert saved.tensors.keys() == load_weights(build().save_weights(folder / "plain.safetensors")).tensors.keys()
    assert not saved.description.references
    assert saved.thresholds["image"].isnan()  # thresholds on scores with references mean nothing without them
    with pytest.raises(ValueError, match="no references to save"):
        build().save_weights(folder / "none.safetensors", references=True)


def test_checkpoint_has_references(model, data, folder):
    path = folder / "references.ckpt"
    save_checkpoint(copy.deepcopy(model), path)
    state = torch.load(path, weights_only=True)["state_dict"]
    assert state["model.references.memories.0.patches"].dtype == torch.float16
    loaded, other = GenCLIP.load_from_checkpoint(path, visualizer=False), build()
    engine(folder).test(other, datamodule=data, ckpt_path=path)
    assert loaded.k_shot == 0
    for same in (loaded, other):
        assert reference_notes(same.model) == reference_notes(model.model)
        assert score(same) == score(model)


def test_references_of_another_image_size_are_refused(folder):
    model = GenCLIP(weights="tiny-demo")
    patches, cls = torch.ones(4, 5, 128), torch.ones(1, 1, 128)
    model.model.references.set({"": ReferenceMemory(patches, cls, torch.ones(()), torch.ones(()), ["hash"])})
    path = model.save_weights(folder / "size.safetensors", references=True)
    with pytest.raises(ValueError, match=r"references at \(112, 112\) pixels.*\(96, 96\).*k_shot"):
        GenCLIP(weights=path, image_size=96)


NOTE = {"category": "nut", "images": ["hash"], "drawn_with": ""}


@pytest.mark.parametrize(
    ("notes", "named"),
    [
        ([{"category": "nut"}], r"no valid entry for references\.0\.images"),
        ([{**NOTE, "category": 1}], r"no valid entry for references\.0\.category"),
        ({"nut": 3}, "no valid entry for references"),
        ([NOTE], "cls of the references of 'nut'"),  # the tensors are those of three images
        ([NOTE, NOTE], "references of 'nut'"),
    ],
)
def test_references_that_do_not_fit_their_description_are_refused(prompts, tmp_path, notes, named):
    path = rewritten(prompts, tmp_path / "changed.safetensors", description=lambda d: d | {"references": notes})
    with pytest.raises(ValueError, match=rf"changed\.safetensors.* {named}"):
        build(weights=path)


def test_fine_tuning_starts_without_references(prompts, tmp_path, data):
    tuned = build(weights=prompts, fine_tune=True)
    engine(tmp_path, max_epochs=1).fit(tuned, datamodule=data)
    assert not tuned.model.references.memories
