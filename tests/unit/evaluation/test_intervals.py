# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Intervals from a bootstrap over images."""

import numpy as np
import pytest
import torch
from helpers.scored import SIZE, scored
from scipy import stats

from anomalib_genclip.evaluation.intervals import DRAWS, INTERVAL_METRICS, Points, bootstrap, curve_areas, interval
from anomalib_genclip.evaluation.scores import FPR_LIMIT, CategoryScores, pixel_metrics, region_weights

AUROC = {"AUROC": (1, 1.0)}
FIELDS = ("image_path", "pred_score", "gt_label", "anomaly_map", "gt_mask")
CURVES = {**AUROC, "AUPRO": (2, FPR_LIMIT)}


def auroc(anomalous, normal, axis=-1):
    del axis  # the last one, as scipy asks for
    return (anomalous[..., :, None] > normal[..., None, :]).mean((-1, -2))


def drawn(anomalous, normal, seed="wood") -> list[float]:
    images = [Points.of_image(score, label) for part, label in ((normal, False), (anomalous, True)) for score in part]
    return bootstrap({"AUROC": auroc(anomalous, normal)}, images, AUROC, seed)["AUROC"]


def test_image_intervals_are_those_of_scipy_and_reproducible():
    random = np.random.default_rng(0)
    anomalous, normal = random.normal(1, 1, 30), random.normal(0, 1, 50)
    expected = stats.bootstrap((anomalous, normal), auroc, n_resamples=4000, method="percentile", rng=random)
    draws = drawn(anomalous, normal)
    assert len(draws) == DRAWS
    assert interval(draws) == pytest.approx(tuple(expected.confidence_interval), abs=0.02)
    assert drawn(anomalous, normal) == draws != drawn(anomalous, normal, "tile")
    assert interval(drawn(normal + 9, normal)) == (1, 1)


def test_nineteen_of_twenty_intervals_hold_the_true_value():
    random, runs = np.random.default_rng(1), 80
    true = stats.norm.cdf(1 / 2**0.5)
    ends = [interval(drawn(random.normal(1, 1, 40), random.normal(0, 1, 40), str(run))) for run in range(runs)]
    assert 0.88 <= np.mean([low <= true <= high for low, high in ends]) <= 0.99


SHAPES = {
    "spread": torch.sigmoid,
    "narrow": lambda logits: 0.5 + 1e-4 * logits,
    "8 bit": lambda logits: (255 * logits.sigmoid()).round() / 255,
}


@pytest.mark.parametrize("shape", SHAPES)
def test_few_points_stand_for_all_pixels_of_resampled_images(shape):
    """Whatever the scores look like: an image that is drawn twice adds its pixels and regions twice."""
    random = torch.Generator().manual_seed(0)
    masks = torch.zeros(8, 48, 48, dtype=torch.bool)
    for mask in masks[::2]:
        top, left = torch.randint(2, 20, (2,), generator=random).tolist()
        mask[top : top + 9, left : left + 14] = mask[40:44, 2:5] = True
    strength = torch.rand(8, 1, 1, generator=random) * 3
    maps = SHAPES[shape](torch.randn(masks.shape, generator=random) + strength * masks)
    images = [
        Points.of_pixels(scores[~mask].numpy(), scores[mask].numpy(), region_weights(mask).numpy())
        for scores, mask in zip(maps, masks, strict=True)
    ]
    assert sum(part.nbytes for part in images[0]) < 4096
    times = torch.tensor([[1] * 8, [2, 0, 0, 3, 1, 1, 0, 1], [0, 1, 4, 1, 0, 2, 0, 0]])
    found = curve_areas(images, times.float().numpy(), CURVES)
    for number, own in enumerate(times):
        expected = pixel_metrics(maps.repeat_interleave(own, 0), masks.repeat_interleave(own, 0))
        assert {name: found[name][number] for name in CURVES} == pytest.approx(
            {name: expected[name] for name in CURVES}, abs=6e-3
        )


def test_category_gives_the_same_draws_around_its_values_with_and_without_maps():
    """Pixels that are ignored do not count, as if the images were cut."""
    ignored = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    ignored[:, :5] = True
    whole, streamed, cut = CategoryScores(), CategoryScores(), CategoryScores()
    for item in scored("wood", 12):
        path, score, label, *planes = (item[name] for name in FIELDS)
        whole.add(path, score, label, *planes, ignored=ignored)
        streamed.add(path, score, label, *planes, ignored=ignored)
        streamed.to_histogram()
        cut.add(path, score, label, *(plane[:, 5:] for plane in planes))
    values = cut.compute_metrics()[0]
    draws = cut.draws(values, "wood")
    assert draws.keys() == {*INTERVAL_METRICS}
    assert draws == whole.draws(values, "wood") == streamed.draws(values, "wood")
    for name, own in draws.items():
        assert interval(own)[0] < values[name] < interval(own)[1]
        assert np.median(own) == pytest.approx(values[name], abs=0.03)


def test_fewer_than_two_images_of_a_kind_have_no_interval():
    assert bootstrap({}, [Points.of_image(0.1, label) for label in (False, False, True)], AUROC, "") == {}
    assert bootstrap({}, [], AUROC, "") == {}
