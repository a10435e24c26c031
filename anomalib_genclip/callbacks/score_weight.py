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
    """Choose ``w`` of ``(1 - w) top + w cls`` by image AUROC after each validation epoch of a training.

    The validation step hands over the parts of the scores with :meth:`collect`.
    """

    def __init__(self) -> None:
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = []

    def collect(self, parts: ScoreParts, label: Tensor | None) -> None:
        """Keep the parts of a validation batch's scores.

        Args:
            parts (ScoreParts): Map and parts of the score.
            label (Tensor | None): Whether an image is anomalous, ``(B,)``.
        """
        if label is not None:
            self._parts.append((parts.top, parts.cls, label))

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget what an interrupted epoch has left."""
        del trainer, pl_module
        self._parts.clear()

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose ``w``, and have the image threshold found anew for it."""
        if not self._parts or not _is_allowed(trainer):
            return
        top, cls, label = (_gather(pl_module, torch.cat(values)) for values in zip(*self._parts, strict=True))
        if label.min() == label.max():
            return
        model: Any = pl_module.model
        old = model.score_weight.item()
        scores = {weight: torch.lerp(top, cls, weight) for weight in SCORE_WEIGHTS}
        # The middle weight wins ties: it is the least extreme.
        best = max(
            scores, key=lambda weight: (binary_auroc(scores[weight], label.int()).item(), weight == SCORE_WEIGHTS[1])
        )
        model.score_weight.fill_(best)
        post_processor = pl_module.post_processor
        if best != old and isinstance(post_processor, PostProcessor):
            # The post-processor has seen scores of the former weight.
            batch = ImageBatch(image=torch.zeros(len(label), 3, 1, 1), pred_score=scores[best], gt_label=label)
            post_processor.on_validation_batch_end(trainer, pl_module, batch)
            post_processor.on_validation_epoch_end(trainer, pl_module)


def _is_allowed(trainer: Trainer) -> bool:
    """Tell whether ``w`` is chosen: in training alone, and not on what will be the test images."""
    split = getattr(getattr(trainer, "datamodule", None), "val_split_mode", None)
    fitting = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
    return fitting and split != ValSplitMode.SAME_AS_TEST


def _gather(module: LightningModule, values: Tensor) -> Tensor:
    """Collect values of all processes, ``(n,)``."""
    return module.all_gather(values).flatten() if module.trainer.world_size > 1 else values
