# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Metrics of one category."""

import pytest
import torch
from helpers.scored import SIZE, anomalib_metrics, scored

from anomalib_genclip.evaluation.scores import (
    ERROR_RATES,
    METRIC_NAMES,
    CategoryScores,
    ScoreHistogram,
    miss_rates,
    pixel_metrics,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def scores_of(items: list[dict], *, folded: bool = False) -> CategoryScores:
    scores = CategoryScores()
    for item in items:
        score, label, alarm = (item.get(name) for name in ("pred_score", "gt_label", "pred_label"))
        scores.add(
            item["image_path"],
            None if score is None else float(score),
            None if label is None else bool(label),
            item["anomaly_map"],
            item["gt_mask"],
            None if alarm is None else bool(alarm),
            item.get("ignored"),
        )
        if folded:
            scores.to_histogram(kept=1)
    return scores


@pytest.fixture(scope="module")
def items() -> list[dict]:
    return scored("bottle", 10)


@pytest.fixture(scope="module")
def values(items) -> dict[str, float]:
    return scores_of(items).compute_metrics()[0]


def test_metrics_equal_anomalibs_whatever_the_order(items, values):
    assert tuple(values) == (*METRIC_NAMES, *ERROR_RATES[2:])
    assert {name: values[name] for name in METRIC_NAMES} == pytest.approx(anomalib_metrics(items), abs=1e-6)
    assert scores_of(items[::-1]).compute_metrics() == (values, [])


def test_histogram_gives_the_pixel_metrics_and_leaves_the_others_alone(items, values):
    streamed, _ = scores_of(items, folded=True).compute_metrics()
    assert streamed == pytest.approx(values, abs=1e-3)
    assert all(streamed[name] == values[name] for name in (*METRIC_NAMES[:3], *ERROR_RATES[2:]))


def test_scores_outside_the_unit_range_are_ranked_as_they_are(items, values):
    """A sigmoid in anomalib's metrics would make large scores equal."""
    raw = [item | {key: 50 + 40 * item[key] for key in ("pred_score", "anomaly_map")} for item in items]
    assert scores_of(raw).compute_metrics()[0] == pytest.approx(values, abs=1e-4)


@pytest.mark.parametrize("folded", [False, True])
def test_ignored_pixels_do_not_count(items, folded):
    """As if the images were cut."""
    ignored = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    ignored[:, :9] = True
    cut = [item | {key: item[key][:, 9:] for key in ("anomaly_map", "gt_mask")} for item in items]
    expected, _ = scores_of(cut).compute_metrics()
    found, notes = scores_of([item | {"ignored": ignored} for item in items], folded=folded).compute_metrics()
    assert found == pytest.approx(expected, abs=1e-3)
    assert not notes


UNDEFINED = {
    "no anomalous images": ({"gt_label": torch.zeros((), dtype=torch.bool)}, "image"),
    "no normal images": ({"gt_label": torch.ones((), dtype=torch.bool)}, "image"),
    "no anomalous pixels": ({"gt_mask": torch.zeros(SIZE, SIZE, dtype=torch.bool)}, "pixel"),
    "no normal pixels": ({"gt_mask": torch.ones(SIZE, SIZE, dtype=torch.bool)}, "pixel"),
    "no mask": ({"gt_mask": None}, "pixel"),
    "no anomaly map": ({"anomaly_map": None}, "pixel"),
    "no label": ({"gt_label": None}, "image"),
    "no score": ({"pred_score": None}, "image"),
    "a score that is not finite": ({"pred_score": torch.tensor(torch.nan)}, "image"),
    "an anomaly map that is not finite": ({"anomaly_map": torch.full((SIZE, SIZE), torch.inf)}, "pixel"),
}


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("reason", UNDEFINED)
def test_undefined_metrics_are_left_out_and_named(reason, folded):
    changes, level = UNDEFINED[reason]
    values, notes = scores_of(scored("cable", 4, **changes), folded=folded).compute_metrics()
    other = "pixel" if level == "image" else "image"
    assert {name.split("_")[0] for name in values if name in METRIC_NAMES} == {other}
    assert (ERROR_RATES[2] in values) == (level == "pixel")
    assert len(notes) == 1
    assert f"{level} metrics undefined" in notes[0]
    assert reason in notes[0]


def test_images_without_a_mask_do_not_take_the_others_figures_away(items):
    full, _ = scores_of(items[:8]).compute_metrics()
    partial, notes = scores_of([*items[:8], *[item | {"gt_mask": None} for item in items[8:]]]).compute_metrics()
    assert partial["pixel_AUPRO"] == full["pixel_AUPRO"]
    assert "pixel metrics without some images: 2 images with no mask" in notes[0]


@pytest.mark.parametrize("folded", [False, True])
def test_an_image_counts_once(items, values, folded):
    """Added twice, or by two processes, whose last one repeats the other's first, as a distributed sampler does."""
    repeated, notes = scores_of([*items, items[0]], folded=folded).compute_metrics()
    assert repeated == pytest.approx(values, abs=1e-3 * folded)
    assert notes == ["1 repetition left out (images are identified by path)"]
    parts = [scores_of(part, folded=folded) for part in (items[::2], [*items[1::2], items[0]])]
    together, notes = CategoryScores.union(parts).compute_metrics()
    assert together == pytest.approx(scores_of(items, folded=folded).compute_metrics()[0], abs=1e-12)
    assert not notes


def test_false_alarms_and_misses_are_those_of_the_labels_in_use():
    items, alarms = scored("a", 6), [True, False, False, True, False, False]  # the second of two is anomalous
    for item, alarm in zip(items, alarms, strict=True):
        item["pred_label"] = torch.tensor(alarm)
    values, _ = scores_of(items).compute_metrics()
    assert (values["false_alarm_rate"], values["miss_rate"]) == pytest.approx((1 / 3, 2 / 3))


def test_miss_rates_are_interpolated_on_the_roc_curve():
    """Normal 0.1 .. 0.4, anomalous 0.25, 0.35, 0.5, 0.6: the curve goes through (0, 1/2), (1/4, 1/2), (1/4, 3/4)."""
    scores = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.25, 0.35, 0.5, 0.6])
    labels = torch.tensor([False] * 4 + [True] * 4)
    assert miss_rates(scores, labels, [0.0, 0.2, 0.5, 1.0]) == pytest.approx([0.5, 0.5, 0.0, 0.0])
    assert miss_rates(100 * scores - 50, labels, [0.2, 0.5]) == pytest.approx([0.5, 0.0])
    ties = torch.tensor([0.5, 0.5]), torch.tensor([False, True])
    assert miss_rates(*ties, [0.01, 0.05]) == pytest.approx([0.99, 0.95])


SHAPES = {
    "spread": torch.sigmoid,
    "close to 1": lambda logits: torch.sigmoid(2 * logits + 9),
    "close to 0": lambda logits: torch.sigmoid(3 * logits - 25),
    "saturated": lambda logits: (0.6 * logits + 0.2).clamp(0, 1),
    "saturated softmax": lambda logits: torch.sigmoid(20 * logits),
    "narrow": lambda logits: 0.5 + 0.002 * logits,
    "8 bit": lambda logits: (255 * torch.sigmoid(logits)).round() / 255,
    "distances": lambda logits: 40 + 5 * logits,
    "both signs": lambda logits: logits,
}


def scored_masks(num: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and masks of shape (num, size, size), every second mask with up to three regions."""
    random = torch.Generator().manual_seed(0)
    masks = torch.zeros(num, size, size, dtype=torch.bool)
    for mask in [mask for mask in masks[::2] for _ in range(3)]:
        top, left, height, width = torch.randint(2, size // 3, (4,), generator=random).tolist()
        mask[2 * top : 2 * top + height, 2 * left : 2 * left + width] = True
    return torch.randn(masks.shape, generator=random) + masks, masks


def histogram_of(maps: torch.Tensor, masks: torch.Tensor) -> ScoreHistogram:
    """Histogram of maps and masks of shape (B, H, W)."""
    histogram = ScoreHistogram()
    for scores, mask in zip(maps, masks, strict=True):
        histogram.add(scores, mask)
    return histogram


@pytest.mark.parametrize("shape", SHAPES)
def test_within_a_thousandth_of_anomalib(shape: str) -> None:
    """Every metric agrees with anomalib's, whatever the scores look like; outside of [0, 1] bins are coarser."""
    logits, masks = scored_masks(num=16, size=64)
    maps = SHAPES[shape](logits)
    limit = 1e-3 if 0 <= maps.min() <= maps.max() <= 1 else 3e-3
    assert histogram_of(maps, masks).metrics() == pytest.approx(pixel_metrics(maps, masks), abs=limit)


def test_a_perfect_a_reversed_and_two_constant_maps() -> None:
    """A map of nothing but 0 or 1 ranks nothing."""
    masks = torch.zeros(2, 20, 20, dtype=torch.bool)
    masks[0, :5, :4] = True
    assert [*histogram_of(masks.float(), masks).metrics().values()] == pytest.approx([1.0] * 4)
    reverse = histogram_of(1 - masks.float(), masks).metrics()
    assert reverse["AUROC"] == reverse["AUPRO"] == 0
    for value in (0.0, 1.0):
        ties = histogram_of(torch.full(masks.shape, value), masks).metrics()
        assert ties == pytest.approx({"AUROC": 0.5, "AUPRO": 0.15, "AP": 0.025, "F1Max": 2 * 20 / 820}, abs=1e-9)
