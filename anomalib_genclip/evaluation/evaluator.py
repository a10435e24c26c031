# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Evaluator with metrics per category and their mean, for zero-shot tests and while a model is trained."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from anomalib.data import ImageBatch
from anomalib.metrics import AnomalibMetric, Evaluator
from anomalib.models import AnomalibModule
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from anomalib_genclip.utils.devices import Processes, processes
from anomalib_genclip.utils.loaders import origin_of, running_loaders
from anomalib_genclip.utils.settings import NonNegativeInt, checked

from .report import EvaluationResult
from .scores import METRIC_NAMES, CategoryScores

logger = logging.getLogger(__name__)

Key = tuple[str, str]  # dataset, category
_ON_PROGRESS_BAR = {"image_AUROC", "pixel_AUPRO"}
_VALIDATION_SHARE = 10  # validation is repeated each epoch, and exact pixel metrics take time


class CategoryEvaluator(Evaluator):
    """Test metrics per category and their mean, as zero-shot results are reported.

    It logs the means of ``METRIC_NAMES`` over the categories (``pixel_AUROC``) and, if there are several, those of each
    (``bottle/pixel_AUROC``, or ``MVTecAD/bottle/pixel_AUROC`` if two datasets have a category of that name). Undefined
    metrics, for example without anomalous images, are left out of the mean and named in a warning and in the report.
    ``INTERVAL_METRICS`` have 95 % intervals (bootstrap over images). While a model is trained, the validation images
    give the same means after each epoch, for ``EarlyStopping`` and ``ModelCheckpoint``.

    Maps are kept in CPU memory (5 bytes per pixel) for anomalib's metrics, which take up to 80 bytes per pixel of a
    category. Beyond ``pixel_budget`` pixels, which processes share, and with an ignore mask, whose pixels do not count,
    scores are counted in histograms instead (about 5 MB per category and 3 kB per image), which give the pixel metrics
    to within 1e-3. Images repeated by a distributed sampler are known by their paths and count once.

    Args:
        val_metrics (AnomalibMetric | Sequence[AnomalibMetric] | None): Pooled metrics of the validation images, in
            every validation. Defaults to ``None``: those means, in training alone.
        pixel_budget (int): Pixels of the whole test set up to which pixel metrics are exact; of validation images a
            tenth. The default takes at most 4 GB. Defaults to ``50_000_000``.
        report (bool): Print a table after the test and write ``metrics.csv``, ``metrics.json``, ``metrics.md`` and
            ``metrics.png`` to the trainer's ``default_root_dir``. Defaults to ``True``.
        compute_on_cpu (bool): As in anomalib, for ``val_metrics``. Defaults to ``True``.
    """

    def __init__(
        self,
        val_metrics: AnomalibMetric | Sequence[AnomalibMetric] | None = None,
        pixel_budget: int = 50_000_000,
        report: bool = True,
        compute_on_cpu: bool = True,
    ) -> None:
        pooled = list(AnomalibModule.configure_evaluator().test_metrics)
        super().__init__(val_metrics=val_metrics, test_metrics=pooled, compute_on_cpu=compute_on_cpu)
        self.pixel_budget: int = checked("pixel_budget", pixel_budget, NonNegativeInt)
        self.report = report
        self.result: EvaluationResult | None = None
        self._categories: dict[Key, CategoryScores] = {}
        self._pixels = 0

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Discard the scores of an earlier validation."""
        self._categories, self._pixels = {}, 0

    def on_validation_batch_end(self, trainer: Trainer | None, pl_module: Any, *args, **kwargs) -> None:  # noqa: ANN401
        """Add a batch's scores while a model is trained, else to ``val_metrics``."""
        if trainer is None or not self._follows(trainer):
            super().on_validation_batch_end(trainer, pl_module, *args, **kwargs)
        else:
            self._add(trainer, self.pixel_budget // _VALIDATION_SHARE, *args, **kwargs)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute and log the means while a model is trained, in all processes, else ``val_metrics``."""
        if not self._follows(trainer):
            super().on_validation_epoch_end(trainer, pl_module)
            return
        with processes() as group:
            means = self._evaluate(group, intervals=False).mean
        self._log(trainer, {name: value for name, value in means.items() if name in METRIC_NAMES})

    def _follows(self, trainer: Trainer) -> bool:
        """Return whether a validation is part of a training; given ``val_metrics`` replace the means."""
        return trainer.state.fn == TrainerFn.FITTING and not len(self.val_metrics)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Discard the scores of an earlier test; the report replaces Lightning's table of sixteen digits."""
        if self.report:
            trainer.test_loop.verbose = False  # until the next test, which sets it
        self.result, self._categories, self._pixels = None, {}, 0

    def on_test_batch_end(self, trainer: Trainer | None, pl_module: Any, *args, **kwargs) -> None:  # noqa: ANN401
        """Add a batch's scores to the categories of its images; maps and masks must have one size."""
        if trainer is None:  # anomalib's tiled ensemble, which reads test_metrics
            super().on_test_batch_end(trainer, pl_module, *args, **kwargs)
        else:
            self._add(trainer, self.pixel_budget, *args, **kwargs)

    def _add(self, trainer: Trainer, budget: int, _: object, batch: ImageBatch, number: int, loader: int = 0) -> None:
        """Add a batch's scores; all processes together keep at most ``budget`` pixels as maps."""
        place = f"batch {number} of loader {loader} of process {trainer.global_rank}"
        found = getattr(batch, "ignored", None)  # set by GenCLIP's step
        masks: list[Any] = [None] if found is None else [mask.clone() for mask in found[:, 0].cpu()]  # for all or each
        masks *= len(batch) // len(masks)
        for key, scores, ignored in zip(_keys(batch, trainer, loader), _scores(batch, place), masks, strict=True):
            self._pixels += self._categories.setdefault(key, CategoryScores()).add(*[*scores, ignored])
        if self._pixels > budget // trainer.world_size:
            for category in self._categories.values():
                # A distributed sampler repeats some images, each as the last of its process: as maps they can go again.
                category.to_histogram(kept=1)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute and log the metrics, in all processes."""
        with processes() as group:
            self.result = self._evaluate(group, intervals=True)
        for note in self.result.notes if trainer.is_global_zero else []:
            logger.warning(note)
        self._log(trainer, self.result.logged())

    def _log(self, trainer: Trainer, values: Mapping[str, float]) -> None:
        """Log values; those that matter most are on the progress bar of a training."""
        for name, value in values.items():
            if trainer.barebones:  # logging is disabled; anomalib's engine returns these two
                trainer.callback_metrics[name] = trainer.logged_metrics[name] = torch.tensor(value)
            else:
                shown = trainer.validating and name in _ON_PROGRESS_BAR
                # Equal in all processes; sync_dist only prevents Lightning's warning.
                self.log(name, value, batch_size=1, sync_dist=trainer.world_size > 1, prog_bar=shown)

    def _evaluate(self, group: Processes, *, intervals: bool) -> EvaluationResult:
        """Evaluate the images of all processes; the first process computes the metrics, category by category."""
        keys = sorted(set().union(*group.all_gather(list(self._categories))))
        shared = Counter(category for _, category in keys)
        result = EvaluationResult({})
        for dataset, category in keys:
            if parts := group.gather(self._categories.pop((dataset, category), CategoryScores())):
                scores = CategoryScores.union(parts)
                name = f"{dataset}/{category}" if shared[category] > 1 else category
                result.categories[name], notes = scores.compute_metrics()
                if intervals:
                    result.draws[name] = scores.draws(result.categories[name], f"{dataset}/{category}")
                result.streamed += [name] * (scores.histogram is not None)
                result.notes += [f"{name}: {note}" for note in notes]
        return group.broadcast(result)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print and write the report, after the progress bar has ended."""
        if self.report and self.result and trainer.is_global_zero:
            self.result.print()
            if files := self.result.write(trainer.default_root_dir):
                print(f"Report: {', '.join(path.name for path in files)} in {trainer.default_root_dir}")


def _keys(batch: ImageBatch, trainer: Trainer, dataloader_idx: int) -> list[Key]:
    """Return dataset and category of each image of a batch: its own, else those of its loader."""
    origin = origin_of(trainer, running_loaders(trainer)[dataloader_idx])
    dataset = origin.dataset or "test"
    own = (getattr(batch, name, None) or [None] * len(batch) for name in ("dataset", "category"))
    return [(name or dataset, category or origin.category or dataset) for name, category in zip(*own, strict=True)]


def _scores(batch: ImageBatch, place: str) -> Iterator[tuple]:
    """Yield the first arguments of ``CategoryScores.add`` for each image; ``place`` names images without a path."""
    fields = ("pred_score", "gt_label", "anomaly_map", "gt_mask", "pred_label")
    scores, labels, maps, masks, alarms = (
        None if (values := getattr(batch, name)) is None else values.detach().cpu() for name in fields
    )
    if maps is not None and masks is not None and maps.shape[-2:] != masks.shape[-2:]:
        msg = f"anomaly_map and gt_mask must have one size, got {tuple(maps.shape)} and {tuple(masks.shape)}"
        raise ValueError(msg)
    for i, path in enumerate(batch.image_path or [None] * len(batch)):
        yield (
            str(path or f"image {i} of {place}"),
            None if scores is None else float(scores[i]),
            None if labels is None else bool(labels[i]),
            # Copies, because what runs after the evaluator may write into the batch.
            None if maps is None else maps[i].reshape(maps.shape[-2:]).float().clone(),
            None if masks is None else masks[i].reshape(masks.shape[-2:]).bool().clone(),
            None if alarms is None else bool(alarms[i]),
        )
