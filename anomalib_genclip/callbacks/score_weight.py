# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The weight ``w`` of the image score, chosen on the source's held-out images (ours)."""

from typing import Any

import torch
from anomalib.data import ImageBatch
from anomalib.data.utils import ValSplitMode
from anomalib.post_processing import PostProcessor
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from anomalib_genclip.torch_model import SCORE_WEIGHTS, ScoreParts


class ScoreWeight(Callback):
    """Choose ``w`` of ``(1 - w) top + w cls`` by image AUROC after each validation epoch of a training run.

    The validation step passes the parts of the scores to :meth:`collect`.
    """

    def __init__(self) -> None:
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = []

    def collect(self, parts: ScoreParts, label: Tensor | None) -> None:
        """Collect the parts of a validation batch's scores.

        Args:
            parts (ScoreParts): Map and parts of the score.
            label (Tensor | None): Image labels, ``(B,)``.
        """
        if label is not None:
            self._parts.append((parts.top, parts.cls, label))

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Discard the scores of an interrupted epoch."""
        del trainer, pl_module
        self._parts.clear()

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose ``w``, and recompute the image threshold for it."""
        if not self._parts or not _is_allowed(trainer):
            return
        top, cls, label = (_gather(pl_module, torch.cat(values)) for values in zip(*self._parts, strict=True))
        if label.min() == label.max():
            return
        model: Any = pl_module.model
        old = model.score_weight.item()
        scores = {weight: torch.lerp(top, cls, weight) for weight in SCORE_WEIGHTS}
        # The middle weight wins ties, because it is the least extreme.
        best = max(
            scores, key=lambda weight: (binary_auroc(scores[weight], label.int()).item(), weight == SCORE_WEIGHTS[1])
        )
        model.score_weight.fill_(best)
        post_processor = pl_module.post_processor
        if best != old and isinstance(post_processor, PostProcessor):
            # The post-processor has collected scores with the previous weight.
            batch = ImageBatch(image=torch.zeros(len(label), 3, 1, 1), pred_score=scores[best], gt_label=label)
            post_processor.on_validation_batch_end(trainer, pl_module, batch)
            post_processor.on_validation_epoch_end(trainer, pl_module)


def _is_allowed(trainer: Trainer) -> bool:
    """Return whether ``w`` may be chosen: in training only, and not on the test images."""
    split = getattr(getattr(trainer, "datamodule", None), "val_split_mode", None)
    fitting = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
    return fitting and split != ValSplitMode.SAME_AS_TEST


def _gather(module: LightningModule, values: Tensor) -> Tensor:
    """Gather the values of all processes, ``(n,)``."""
    return module.all_gather(values).flatten() if module.trainer.world_size > 1 else values
