# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Free vectors in place of the text features."""

import torch
from helpers.comparisons import LOADING, SMALL, mvtec

from anomalib_genclip.components.anomaly_map import abnormal_probability, similarity_logits
from anomalib_genclip.pipelines import jobs
from anomalib_genclip.pipelines.jobs import build_model


def test_two_vectors_and_projections_are_trained_and_make_the_map(comparison_data, tmp_path):
    settings = {"class_path": "FreeText", "init_args": {**SMALL, "seed": 0}}
    before, checkpoint = build_model(settings).state_dict(), tmp_path / "free.ckpt"
    run = {"model": settings, "seed": 0, "accelerator": "cpu", "trainer": {"max_epochs": 1}}
    source = {"source": mvtec(comparison_data / "source"), "source_categories": ["cable"]}
    data = {"train_batch_size": 4, "num_workers": LOADING["num_workers"]}
    jobs.train_model({**run, **source, "data": data, "checkpoint": str(checkpoint)})
    after = torch.load(checkpoint, weights_only=False)["state_dict"]
    learned = {key: value for key, value in after.items() if key.startswith("model.")}
    changed = {key for key, value in learned.items() if not torch.equal(value, before[key])}
    layers = sum("projections." in key for key in after)
    assert changed == {"model.prompts.free", *(f"model.projections.{i}" for i in range(layers))}

    model = build_model(settings)
    model.load_state_dict(after)
    torch_model, images = model.model.eval(), torch.randn(2, 3, 32, 32)
    found = torch_model.branch_maps(images, torch_model.class_index(["cable", "object"]))
    patches = torch_model.clip.encode_image(images).patches[-1] @ torch_model.projections[-1]
    text = torch.nn.functional.normalize(after["model.prompts.free"], dim=-1)
    expected = abnormal_probability(similarity_logits(patches, text))
    torch.testing.assert_close(found.layers["free"][-1].flatten(1), expected)
    maps, _ = torch_model.training_logits(images, None)  # trained with what is tested
    torch.testing.assert_close(abnormal_probability(maps[-1].flatten(2).transpose(1, 2)), expected)
