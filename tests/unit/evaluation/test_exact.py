# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Miss rates at given false-alarm rates."""

import pytest
import torch

from anomalib_genclip.evaluation.exact import miss_rates


def test_miss_rates_are_interpolated_on_the_roc_curve():
    """Normal 0.1 .. 0.4, anomalous 0.25, 0.35, 0.5, 0.6: the curve goes through (0, 1/2), (1/4, 1/2), (1/4, 3/4)."""
    scores = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.25, 0.35, 0.5, 0.6])
    labels = torch.tensor([False] * 4 + [True] * 4)
    assert miss_rates(scores, labels, [0.0, 0.2, 0.5, 1.0]) == pytest.approx([0.5, 0.5, 0.0, 0.0])


def test_ties_are_a_slope_of_the_curve():
    scores, labels = torch.tensor([0.5, 0.5, 0.5, 0.5]), torch.tensor([False, False, True, True])
    assert miss_rates(scores, labels, [0.01, 0.05]) == pytest.approx([0.99, 0.95])


def test_scores_outside_the_unit_range_are_ranked_as_they_are():
    scores, labels = torch.tensor([-3.0, 2.0, 5.0, 40.0]), torch.tensor([False, True, False, True])
    inside = (scores + 10) / 60
    rates = [0.01, 0.3]
    assert miss_rates(scores, labels, rates) == pytest.approx(miss_rates(inside, labels, rates))
