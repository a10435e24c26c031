# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Evaluator with metrics per category and their mean, for zero-shot tests."""

import logging
from collections import Counter
from collections.abc import Sequence
from itertools import count

import torch
from anomalib.data import ImageBatch
from anomalib.metrics import AUROC, AnomalibMetric, Evaluator, F1Score
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor

from anomalib_genclip.utils.distributed import Processes, processes
from anomalib_genclip.utils.loaders import as_list, origin_of

from .category import CategoryScores, ImageScores
from .report import print_report, write_report
from .result import EvaluationResult

logger = logging.getLogger(__name__)

Key = tuple[str, str]  # dataset, category


class CategoryEvaluator(Evaluator):
    """Test metrics per category and their mean, as zero-shot results are reported.

    anomalib's own evaluator pools all test images, which compares scores across categories. This one computes image
    AUROC, AP and F1Max and pixel AUROC, AUPRO, AP and F1Max for each category and averages them. It logs the seven
    means (``pixel_AUROC``) and, if there are several categories, the metrics of each (``bottle/pixel_AUROC``, or
    ``MVTecAD/bottle/pixel_AUROC`` if two datasets have a category of that name). Undefined metrics, for example without
    anomalous images, are left out of the mean and named in a warning and in the report.

    Maps are kept in CPU memory (5 bytes per pixel) for anomalib's metrics, which take up to 80 bytes per pixel of the
    largest category while they are computed. Beyond ``pixel_budget`` pixels, scores are counted in histograms instead
    (about 6 MB per category), which give the pixel metrics to within 1e-3; image metrics stay exact.

    Images are identified by their paths and counted once per category, so that images repeated by a distributed sampler
    have no effect. Several processes share the budget.

    Args:
        val_metrics (AnomalibMetric | Sequence[AnomalibMetric] | None): Metrics of the validation images, pooled as
            in anomalib. Defaults to ``None``.
        pixel_budget (int): Number of pixels of the whole test set up to which pixel metrics are exact. The default
            takes at most 4 GB, if all pixels belong to one category. 0 keeps no maps. Defaults to ``50_000_000``.
        report (bool): Print a table after the test and write ``metrics.csv``, ``metrics.json``, ``metrics.md`` and
            ``metrics.png`` to the trainer's ``default_root_dir``. Defaults to ``True``.
        compute_on_cpu (bool): As in anomalib, for ``val_metrics``. Defaults to ``True``.

    Raises:
        ValueError: If ``pixel_budget`` is not a whole number of at least 0.

    Example:
        >>> from anomalib.models import Padim
        >>> model = Padim(evaluator=CategoryEvaluator(pixel_budget=100_000_000))
    """

    def __init__(
        self,
        val_metrics: AnomalibMetric | Sequence[AnomalibMetric] | None = None,
        pixel_budget: int = 50_000_000,
        report: bool = True,
        compute_on_cpu: bool = True,
    ) -> None:
        super().__init__(val_metrics=val_metrics, test_metrics=_pooled_metrics(), compute_on_cpu=compute_on_cpu)
        if isinstance(pixel_budget, bool) or not isinstance(pixel_budget, int) or pixel_budget < 0:
            msg = f"pixel_budget must be a whole number of at least 0, got {pixel_budget!r}"
            raise ValueError(msg)
        self.pixel_budget = pixel_budget
        self.report = report
        self.result: EvaluationResult | None = None
        self._reset()

    def _reset(self) -> None:
        self._categories: dict[Key, CategoryScores] = {}
        self._pixels = 0
        self._streaming = False
        self._unnamed = count()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Discard the scores of an earlier test."""
        del trainer, pl_module
        self.result = None
        self._reset()

    def on_test_batch_end(
        self,
        trainer: Trainer | None,
        pl_module: LightningModule | None,
        outputs: STEP_OUTPUT | None,
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add a batch's scores to the categories of its images.

        anomalib's tiled ensemble has no trainer and reads ``test_metrics``, which are only updated in that case.

        Raises:
            ValueError: If maps and masks differ in size.
        """
        if trainer is None:
            super().on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
            return
        budget = self.pixel_budget // trainer.world_size
        keys = _keys(batch, trainer, dataloader_idx)
        for key, image in zip(keys, self._images(batch, trainer.global_rank), strict=True):
            self._pixels += self._categories.setdefault(key, CategoryScores()).add(image)
            if self._pixels > budget:
                self._streaming = True
                self._to_histograms(keep=image.identity)

    def _to_histograms(self, keep: str) -> None:
        # The newest image is kept out of the histograms: if the distributed sampler has repeated it, it is the last
        # one of its process and can still be dropped.
        for category in self._categories.values():
            category.to_histogram(keep)

    def _images(self, batch: ImageBatch, rank: int) -> list[ImageScores]:
        """Return the scores of a batch's images on the CPU."""
        size = len(batch)
        scores = _flat(batch.pred_score, size)
        labels, alarms = _flat(batch.gt_label, size), _flat(batch.pred_label, size)
        maps, masks = _planes(batch.anomaly_map), _planes(batch.gt_mask)
        if maps is not None and masks is not None and maps.shape != masks.shape:
            msg = f"anomaly_map and gt_mask must have one shape, got {tuple(maps.shape)} and {tuple(masks.shape)}"
            raise ValueError(msg)
        return [
            ImageScores(
                identity=self._identity(batch, index, rank),
                score=None if scores is None else float(scores[index]),
                label=None if labels is None else bool(labels[index]),
                anomaly_map=None if maps is None else maps[index].float().clone(),
                mask=None if masks is None else masks[index].bool().clone(),
                alarm=None if alarms is None else bool(alarms[index]),
            )
            for index in range(size)
        ]

    def _identity(self, batch: ImageBatch, index: int, rank: int) -> str:
        path = batch.image_path[index] if batch.image_path else None
        return str(path) if path else f"image {next(self._unnamed)} of process {rank}"

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute and log the metrics, in all processes."""
        del pl_module
        with processes() as others:
            self.result = self._evaluate(others)
        self._reset()
        for note in self.result.notes if trainer.is_global_zero else []:
            logger.warning(note)
        for name, value in self.result.logged().items():
            self._log(trainer, name, value)

    def _log(self, trainer: Trainer, name: str, value: float) -> None:
        if trainer.barebones:  # logging is disabled; anomalib's engine returns these two
            trainer.callback_metrics[name] = trainer.logged_metrics[name] = torch.tensor(value)
        else:
            # Equal in all processes; sync_dist only prevents Lightning's warning.
            self.log(name, value, batch_size=1, sync_dist=trainer.world_size > 1)

    def _evaluate(self, others: Processes) -> EvaluationResult:
        """Evaluate the images of all processes; the first process computes the metrics, category by category."""
        streaming = any(others.all_gather(self._streaming))
        keys = sorted(set().union(*others.all_gather(list(self._categories))))
        result = EvaluationResult({}, mode="streaming" if streaming else "exact")
        for key, name in zip(keys, _display_names(keys), strict=True):
            parts = others.gather(self._categories.pop(key, CategoryScores()))
            if not parts:
                continue
            category = CategoryScores.union(parts)
            if streaming:
                category.to_histogram()
            result.categories[name], notes = category.compute_metrics()
            if rates := category.compute_error_rates():
                result.rates[name] = rates
            result.notes.extend(f"{name}: {note}" for note in notes)
        return others.broadcast(result)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print and write the report, after the progress bar has ended."""
        del pl_module
        if self.report and self.result and trainer.is_global_zero:
            print_report(self.result, write_report(self.result, trainer.default_root_dir))


def _pooled_metrics() -> list[AnomalibMetric]:
    """Return anomalib's default metrics, which pool all images."""
    return [
        AUROC(fields=["pred_score", "gt_label"], prefix="image_"),
        F1Score(fields=["pred_label", "gt_label"], prefix="image_"),
        AUROC(fields=["anomaly_map", "gt_mask"], prefix="pixel_", strict=False),
        F1Score(fields=["pred_mask", "gt_mask"], prefix="pixel_", strict=False),
    ]


def _keys(batch: ImageBatch, trainer: Trainer, dataloader_idx: int) -> list[Key]:
    """Return dataset and category of each image of a batch: its own, else those of its loader."""
    size = len(batch)
    dataset, category = _loader_key(trainer, dataloader_idx)
    datasets = getattr(batch, "dataset", None) or [None] * size
    categories = getattr(batch, "category", None) or [None] * size
    return [(own_set or dataset, own or category) for own_set, own in zip(datasets, categories, strict=True)]


def _loader_key(trainer: Trainer, dataloader_idx: int) -> Key:
    """Return dataset and category of a test loader."""
    origin = origin_of(trainer, as_list(trainer.test_dataloaders)[dataloader_idx])
    dataset = origin.dataset or "test"
    return dataset, origin.category or dataset


def _display_names(keys: list[Key]) -> list[str]:
    """Return the names of the categories, prefixed by the dataset if two datasets share one."""
    shared = Counter(category for _, category in keys)
    return [f"{dataset}/{category}" if shared[category] > 1 else category for dataset, category in keys]


def _flat(values: Tensor | None, size: int) -> Tensor | None:
    """Convert to one value per image, shape (B,), on the CPU."""
    return None if values is None else values.detach().float().cpu().reshape(size)


def _planes(values: Tensor | None) -> Tensor | None:
    """Convert to one plane per image, shape (B, H, W), on the CPU."""
    if values is None:
        return None
    values = values.detach().cpu()
    return values.squeeze(1) if values.ndim == 4 else values
