# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Scores of one category, and the metrics computed from them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import fmean

import torch
from torch import Tensor

from .exact import image_metrics, miss_rates, pixel_metrics
from .result import ERROR_RATES, IMAGE_METRICS, PIXEL_METRICS
from .streaming import ScoreHistogram

NO_SCORE, NO_LABEL, NO_MAP, NO_MASK = "no score", "no label", "no anomaly map", "no mask"
BAD_SCORE, BAD_MAP = "a score that is not finite", "an anomaly map that is not finite"


@dataclass
class ImageScores:
    """Prediction and ground truth of one image, on the CPU.

    Args:
        identity (str): Identifier of the image, usually its path.
        score (float | None): Predicted image score.
        label (bool | None): Whether the image is anomalous.
        anomaly_map (Tensor | None): Predicted map of shape (H, W), float32.
        mask (Tensor | None): Ground truth of shape (H, W), boolean.
        alarm (bool | None): Whether the image is labelled as anomalous. Defaults to ``None``.
    """

    identity: str
    score: float | None
    label: bool | None
    anomaly_map: Tensor | None
    mask: Tensor | None
    alarm: bool | None = None

    def exclusion_reason(self) -> str | None:
        """Return why the image is excluded from the image metrics, ``None`` if it is not."""
        if self.score is None:
            return NO_SCORE
        if self.label is None:
            return NO_LABEL
        return None if torch.tensor(self.score).isfinite() else BAD_SCORE

    def pixel_exclusion_reason(self) -> str | None:
        """Return why the image is excluded from the pixel metrics, ``None`` if it is not."""
        if self.anomaly_map is None:
            return NO_MAP
        if self.mask is None:
            return NO_MASK
        return None if self.anomaly_map.isfinite().all() else BAD_MAP


@dataclass
class CategoryScores:
    """Scores of one category: those of each image, and those of the pixels, as maps or in a histogram.

    Args:
        images (dict[str, tuple[float, bool]]): Score and label by image.
        alarms (dict[str, bool]): Whether the image is labelled as anomalous, by image.
        maps (dict[str, tuple[Tensor, Tensor]]): Map and mask by image, each of shape (H, W).
        histogram (ScoreHistogram | None): Pixels of the images whose maps are not kept.
        folded (set[str]): Images in the histogram.
        gaps (dict[str, set[str]]): Images by the reason of their exclusion.
        seen (set[str]): All images that were added.
        repeated (int): Number of images that were added again and ignored.
        counted_twice (int): Number of images whose pixels are in the histogram twice.
    """

    images: dict[str, tuple[float, bool]] = field(default_factory=dict)
    alarms: dict[str, bool] = field(default_factory=dict)
    maps: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    histogram: ScoreHistogram | None = None
    folded: set[str] = field(default_factory=set)
    gaps: dict[str, set[str]] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    repeated: int = 0
    counted_twice: int = 0

    def add(self, image: ImageScores) -> int:
        """Add one image; an image that was added before is ignored.

        Args:
            image (ImageScores): The image.

        Returns:
            int: Number of pixels that are kept in addition.
        """
        if image.identity in self.seen:
            self.repeated += 1
            return 0
        self.seen.add(image.identity)
        exclusion_reason, pixel_exclusion_reason = image.exclusion_reason(), image.pixel_exclusion_reason()
        for gap in filter(None, (exclusion_reason, pixel_exclusion_reason)):
            self.gaps.setdefault(gap, set()).add(image.identity)
        if image.score is not None and image.label is not None and exclusion_reason is None:
            self.images[image.identity] = (image.score, image.label)
            if image.alarm is not None:
                self.alarms[image.identity] = image.alarm
        if image.anomaly_map is not None and image.mask is not None and pixel_exclusion_reason is None:
            self.maps[image.identity] = (image.anomaly_map, image.mask)
            return image.mask.numel()
        return 0

    def to_histogram(self, keep: str | None = None) -> None:
        """Move all maps to the histogram, except that of the image ``keep``."""
        for identity in [identity for identity in self.maps if identity != keep]:
            self.histogram = self.histogram or ScoreHistogram()
            self.histogram.add(*self.maps.pop(identity))
            self.folded.add(identity)

    @classmethod
    def union(cls, parts: Iterable["CategoryScores"]) -> "CategoryScores":
        """Merge the scores of several processes, counting each image once."""
        parts, whole = list(parts), cls()
        for part in parts:
            whole.images = part.images | whole.images
            whole.alarms = part.alarms | whole.alarms
            whole.maps = part.maps | whole.maps
            whole.counted_twice += len(whole.folded & part.folded)
            whole.folded |= part.folded
            whole.seen |= part.seen
            whole.repeated += part.repeated
            for gap, identities in part.gaps.items():
                whole.gaps[gap] = whole.gaps.get(gap, set()) | identities
            if part.histogram:
                whole.histogram = whole.histogram or ScoreHistogram()
                whole.histogram.merge(part.histogram)
        for identity in whole.folded & whole.maps.keys():
            del whole.maps[identity]
        return whole

    def compute_metrics(self) -> tuple[dict[str, float], list[str]]:
        """Compute the category's metrics.

        Returns:
            tuple[dict[str, float], list[str]]: Values of the defined metrics by name, and notes on undefined metrics
                and excluded or repeated images.
        """
        image_values, image_notes = self._image_metrics()
        pixel_values, pixel_notes = self._pixel_metrics()
        notes = image_notes + pixel_notes
        if self.repeated:
            notes.append(f"{self.repeated} image(s) were repeated and counted once (images are identified by path)")
        if self.counted_twice:
            notes.append(
                f"the pixels of {self.counted_twice} image(s) were counted by two processes; a larger pixel_budget "
                "or one process avoids this"
            )
        return image_values | pixel_values, notes

    def compute_error_rates(self) -> dict[str, float]:
        """Compute the category's error rates.

        Returns:
            dict[str, float]: Values by name of :data:`~.result.ERROR_RATES`; undefined ones are absent.
        """
        labels = {label for _, label in self.images.values()}
        if BAD_SCORE in self.gaps or len(labels) < 2:
            return {}
        scores, labels_of = zip(*(self.images[identity] for identity in sorted(self.images)), strict=True)
        rates = miss_rates(torch.tensor(scores), torch.tensor(labels_of), (0.01, 0.05))
        named = dict(zip(ERROR_RATES[2:], rates, strict=True))
        if self.alarms.keys() != self.images.keys():
            return named
        normal, anomalous = (
            fmean(self.alarms[image] for image, (_, label) in self.images.items() if label == kind)
            for kind in (False, True)
        )
        return {"false_alarm_rate": normal, "miss_rate": 1 - anomalous, **named}

    def _image_metrics(self) -> tuple[dict[str, float], list[str]]:
        kinds = {label for _, label in self.images.values()}
        left_out = self._gap_notes("image", BAD_SCORE, (NO_SCORE, NO_LABEL))
        if BAD_SCORE in self.gaps or not kinds:
            return {}, left_out
        if len(kinds) < 2:
            missing = "normal" if kinds == {True} else "anomalous"
            return {}, [*left_out, f"image metrics undefined (not in the mean): no {missing} images"]
        scores, labels = zip(*(self.images[identity] for identity in sorted(self.images)), strict=True)
        values = image_metrics(torch.tensor(scores), torch.tensor(labels))
        return _named("image", values, IMAGE_METRICS), left_out

    def _pixel_metrics(self) -> tuple[dict[str, float], list[str]]:
        left_out = self._gap_notes("pixel", BAD_MAP, (NO_MAP, NO_MASK))
        if BAD_MAP in self.gaps or not (self.maps or self.histogram):
            return {}, left_out
        if self.maps and len({mask.shape for _, mask in self.maps.values()}) > 1:
            left_out.append("pixel metrics are streaming ones: maps differ in size, which anomalib's AUPRO cannot take")
            self.to_histogram()
        if self.histogram:
            self.to_histogram()
            normal, anomalous = self.histogram.num_normal, self.histogram.num_anomalous
        else:
            anomalous = sum(int(mask.sum()) for _, mask in self.maps.values())
            normal = sum(mask.numel() for _, mask in self.maps.values()) - anomalous
        if not normal or not anomalous:
            missing = "anomalous" if normal else "normal"
            return {}, [*left_out, f"pixel metrics undefined (not in the mean): no {missing} pixels"]
        if self.histogram:
            return _named("pixel", self.histogram.metrics(), PIXEL_METRICS), left_out
        maps, masks = zip(*(self.maps[identity] for identity in sorted(self.maps)), strict=True)
        return _named("pixel", pixel_metrics(torch.stack(maps), torch.stack(masks)), PIXEL_METRICS), left_out

    def _gap_notes(self, level: str, fatal: str, others: tuple[str, ...]) -> list[str]:
        """Return notes on images excluded from the ``level``'s metrics; a ``fatal`` reason makes these undefined."""
        taking_part = self.images if level == "image" else self.maps.keys() | self.folded
        notes = []
        for gap in (fatal, *others):
            identities = self.gaps.get(gap)
            if not identities:
                continue
            undefined = gap == fatal or not taking_part
            outcome = "metrics undefined (not in the mean)" if undefined else "metrics without some images"
            notes.append(f"{level} {outcome}: {len(identities)} image(s) with {gap}, for example {min(identities)}")
        return notes


def _named(level: str, values: dict[str, float], order: tuple[str, ...]) -> dict[str, float]:
    """Return the values by their full names, in the given order."""
    named = {f"{level}_{name}": value for name, value in values.items()}
    return {name: named[name] for name in order}
