# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Prompts files; hostile ones are in tests/robustness."""

import pytest
import torch
from anomalib import LearningType
from helpers.prompts_files import rewritten
from helpers.runs import build, save_checkpoint
from safetensors.torch import save_file

from anomalib_genclip import GenCLIP


def maps(model: GenCLIP) -> torch.Tensor:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return model.eval().model(images).anomaly_map


def test_prompts_file_restores_model_and_settings(trained):
    model = GenCLIP(weights=trained.prompts)
    assert model.model.spec.name == "ViT-S-32-alt"
    assert model.model.image_size == (64, 64)
    torch.testing.assert_close(maps(model), maps(trained.model))
    assert model.post_processor.raw_thresholds() == trained.model.post_processor.raw_thresholds()
    assert model.learning_type == LearningType.ZERO_SHOT
    assert model.trained_on == "MVTecAD_to_MVTecAD"


def test_prompts_file_brings_the_settings_that_its_thresholds_belong_to(trained, tmp_path):
    settings = {"branches": "query", "class_name_filter": False, "smoothing_sigma": 2.0, "score_weight": 0.4}
    path = GenCLIP(weights=trained.prompts, **settings).save_weights(tmp_path / "query.safetensors")
    model = GenCLIP(weights=path)
    assert {name: model.hparams[name] for name in settings} == settings
    torch.testing.assert_close(maps(model), maps(GenCLIP(weights=trained.prompts, **settings)))
    other = GenCLIP(weights=path, branches="both", class_name_filter=True, smoothing_sigma=0.0, score_weight=0.0)
    assert [other.hparams[name] for name in settings] == ["both", True, 0.0, 0.0]
    assert (model.model.score_weight, other.model.score_weight) == (0.4, 0)
    path = rewritten(path, tmp_path / "other.safetensors", description=lambda d: d | {"inference": {"turns": 4}})
    with pytest.raises(ValueError, match=r"other\.safetensors has no valid entry for inference\.turns"):
        GenCLIP(weights=path)


def test_prompts_file_and_checkpoint_bring_the_attention_of_their_patches(tmp_path):
    model = build(patch_attention="value")
    path = model.save_weights(tmp_path / "value.safetensors")
    save_checkpoint(model, tmp_path / "value.ckpt")
    for other in (GenCLIP(weights=path), GenCLIP.load_from_checkpoint(tmp_path / "value.ckpt")):
        assert other.hparams["patch_attention"] == "value"
        torch.testing.assert_close(maps(other), maps(model))
    with pytest.raises(ValueError, match=r"value\.safetensors .*patch_attention 'value' \(this model has 'clip'\)"):
        GenCLIP(weights=path, patch_attention="clip")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("prompts.query"), "prompts.query.*the file has none"),
        (lambda t: t.update({"prompts.query": torch.zeros(3, 7)}), r"prompts\.query.*\(3, 7\).*\(4, 256\)"),
        (lambda t: t["prompts.query"].fill_(float("nan")), r"prompts\.query' does not consist of finite"),
        (lambda t: t.update({"prompts.query": t["prompts.query"].long()}), "finite floating-point"),
        (lambda t: t.update({"stray": torch.zeros(1)}), "stray.*the model none"),
        (lambda t: t.pop("threshold.image"), "the image threshold is not a number"),
    ],
)
def test_wrong_tensors_in_a_prompts_file_are_refused_by_name(trained, tmp_path, change, message):
    path = rewritten(trained.prompts, tmp_path / "wrong.safetensors", tensors=change)
    with pytest.raises(ValueError, match=rf"wrong\.safetensors.*{message}"):
        GenCLIP(weights=path)


def test_other_files_are_no_prompts_files(trained, tmp_path):
    for cut in (0, 7, 1000, -1):
        (tmp_path / "cut.safetensors").write_bytes(trained.prompts.read_bytes()[:cut])
        with pytest.raises(ValueError, match=r"cut\.safetensors is not a readable prompts file"):
            GenCLIP(weights=tmp_path / "cut.safetensors")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.safetensors.*tiny-demo"):
        GenCLIP(weights="nowhere.safetensors")
    with pytest.raises(ValueError, match="ckpt_path"):
        GenCLIP(weights=trained.checkpoint)
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="not one of GenCLIP's"):
        GenCLIP(weights=tmp_path / "a.safetensors")
    older = rewritten(trained.prompts, tmp_path / "older.safetensors", description=lambda d: d | {"version": 2})
    with pytest.raises(ValueError, match="has format version 2, this package reads 3"):
        GenCLIP(weights=older)
    with pytest.raises(ValueError, match=r"\*\.safetensors"):
        trained.model.save_weights(tmp_path / "prompts.pt")


def test_prompts_file_is_small_at_real_size():
    """Counted, not built: ViT-L/14 with the default settings stays under 20 MB."""
    from anomalib_genclip.clip.backbone import backbone_spec
    from anomalib_genclip.components.prompt_learner import PromptLearner

    spec = backbone_spec("ViT-L-14-336")
    prompts = PromptLearner(spec.vision_width, spec.text_width, 4, 4)
    numbers = sum(p.numel() for p in prompts.parameters()) + 4 * spec.vision_width * spec.embed_dim
    assert numbers * 4 < 20e6
