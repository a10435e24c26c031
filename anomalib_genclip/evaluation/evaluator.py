# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The evaluator that a zero-shot test uses: every category by itself, and the mean over categories."""

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

Key = tuple[str, str]  # data set, category


class CategoryEvaluator(Evaluator):
    """Test metrics per category and their mean, as zero-shot results are reported.

    anomalib's own evaluator pools all test images, which compares scores across categories. This one computes image
    AUROC, AP and F1Max and pixel AUROC, AUPRO, AP and F1Max in every category and averages the figures. Logged are the
    seven means (``pixel_AUROC``) and, if there are several categories, their figures (``bottle/pixel_AUROC``, or
    ``MVTecAD/bottle/pixel_AUROC`` where two data sets share the category's name). A figure that is undefined, for
    example without anomalous images, is left out of the mean and named in a warning and in the report.

    Scores wait in CPU memory, 5 bytes per pixel, for anomalib's own metrics; those take up to 80 bytes per pixel of
    the largest category while they are computed. Beyond ``pixel_budget`` pixels, pixels are counted in histograms
    instead (about 6 MB per category), which give the pixel metrics to within 1e-3; image metrics stay exact.

    An image is known by its path and counted once per category, so the images that a distributed sampler repeats
    change nothing. Several processes share the budget.

    Args:
        val_metrics (AnomalibMetric | Sequence[AnomalibMetric] | None): Metrics of the validation images, pooled as
            in anomalib. Defaults to ``None``.
        pixel_budget (int): Pixels of the whole test set up to which pixel metrics are exact. The default takes at
            most 4 GB, should all pixels belong to one category. 0 never keeps a map. Defaults to ``50_000_000``.
        report (bool): Print a table after the test and write ``metrics.csv``, ``metrics.json``, ``metrics.md`` and
            ``metrics.png`` to the trainer's ``default_root_dir``. Defaults to ``True``.
        compute_on_cpu (bool): As in anomalib, for ``val_metrics``. Defaults to ``True``.

    Raises:
        ValueError: If ``pixel_budget`` is no whole number of at least 0.

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
        """Forget what an earlier test, finished or not, has left."""
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
        """Take in a batch's scores, each for its image's category.

        anomalib's tiled ensemble has no trainer and reads ``test_metrics`` itself: those are fed then, and only then.

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
        # The newest image stays out of the histograms: should the distributed sampler have repeated it to give every
        # process the same number of images, it is the process's last and can still be dropped.
        for category in self._categories.values():
            category.to_histogram(keep)

    def _images(self, batch: ImageBatch, rank: int) -> list[ImageScores]:
        """The batch's images, copied to the CPU."""
        size = len(batch)
        scores = _flat(batch.pred_score, size)
        labels = _flat(batch.gt_label, size)
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
            )
            for index in range(size)
        ]

    def _identity(self, batch: ImageBatch, index: int, rank: int) -> str:
        path = batch.image_path[index] if batch.image_path else None
        return str(path) if path else f"image {next(self._unnamed)} of process {rank}"

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute and log every figure, equally in all processes."""
        del pl_module
        with processes() as others:
            self.result = self._evaluate(others)
        self._reset()
        for note in self.result.notes if trainer.is_global_zero else []:
            logger.warning(note)
        for name, value in self.result.logged().items():
            self._log(trainer, name, value)

    def _log(self, trainer: Trainer, name: str, value: float) -> None:
        if trainer.barebones:  # no logging there; anomalib's engine returns what is in these two
            trainer.callback_metrics[name] = trainer.logged_metrics[name] = torch.tensor(value)
        else:
            # Equal in all processes; sync_dist only keeps Lightning from warning that they might not be.
            self.log(name, value, batch_size=1, sync_dist=trainer.world_size > 1)

    def _evaluate(self, others: Processes) -> EvaluationResult:
        """Figures over the images of all processes; the first one computes, category by category."""
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
            result.notes.extend(f"{name}: {note}" for note in notes)
        return others.broadcast(result)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report, once the progress bar is out of the way."""
        del pl_module
        if self.report and self.result and trainer.is_global_zero:
            print_report(self.result, write_report(self.result, trainer.default_root_dir))


def _pooled_metrics() -> list[AnomalibMetric]:
    """Anomalib's default metrics, over all images alike."""
    return [
        AUROC(fields=["pred_score", "gt_label"], prefix="image_"),
        F1Score(fields=["pred_label", "gt_label"], prefix="image_"),
        AUROC(fields=["anomaly_map", "gt_mask"], prefix="pixel_", strict=False),
        F1Score(fields=["pred_mask", "gt_mask"], prefix="pixel_", strict=False),
    ]


def _keys(batch: ImageBatch, trainer: Trainer, dataloader_idx: int) -> list[Key]:
    """Data set and category of each image of a batch; where it does not say, those that its loader serves."""
    size = len(batch)
    dataset, category = _loader_key(trainer, dataloader_idx)
    datasets = getattr(batch, "dataset", None) or [None] * size
    categories = getattr(batch, "category", None) or [None] * size
    return [(own_set or dataset, own or category) for own_set, own in zip(datasets, categories, strict=True)]


def _loader_key(trainer: Trainer, dataloader_idx: int) -> Key:
    """Data set and category of a test loader."""
    origin = origin_of(trainer, as_list(trainer.test_dataloaders)[dataloader_idx])
    dataset = origin.dataset or "test"
    return dataset, origin.category or dataset


def _display_names(keys: list[Key]) -> list[str]:
    """The categories' names, with the data set's before them where two data sets share one."""
    shared = Counter(category for _, category in keys)
    return [f"{dataset}/{category}" if shared[category] > 1 else category for dataset, category in keys]


def _flat(values: Tensor | None, size: int) -> Tensor | None:
    """One value per image, shape (B,), on the CPU."""
    return None if values is None else values.detach().float().cpu().reshape(size)


def _planes(values: Tensor | None) -> Tensor | None:
    """One plane per image, shape (B, H, W), on the CPU."""
    if values is None:
        return None
    values = values.detach().cpu()
    return values.squeeze(1) if values.ndim == 4 else values
