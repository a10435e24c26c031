# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Similarities, maps and scores from features; in the model in ``test_torch_model.py``."""

import math

import pytest
import torch

from anomalib_genclip.components.anomaly_map import abnormal_probability, similarity_logits, top_mean


def test_half_precision_does_not_overflow():
    features, text = torch.full((1, 1, 4), 60_000.0), torch.full((2, 4), 0.5)
    logits = similarity_logits(features.half(), text.half())
    assert logits.dtype == torch.float16
    torch.testing.assert_close(logits.float(), torch.full((1, 1, 2), 1 / 0.07), atol=0.02, rtol=0)
    logits = torch.tensor([[0.0, 0.0], [0.0, 2.0], [2.0, 0.0], [-60_000.0, 60_000.0]], dtype=torch.float16)
    expected = torch.tensor([0.5, 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(2)), 1.0])
    torch.testing.assert_close(abnormal_probability(logits), expected)


@pytest.mark.parametrize(("side", "count"), [(1, 1), (10, 1), (11, 2), (40, 16)])
def test_score_is_the_mean_of_the_highest_hundredth(side, count):
    maps = torch.arange(2 * side**2).float()[torch.randperm(2 * side**2)].view(2, 1, side, side)
    expected = maps.flatten(1).sort(dim=1, descending=True).values[:, :count].mean(dim=1)
    torch.testing.assert_close(top_mean(maps), expected)
