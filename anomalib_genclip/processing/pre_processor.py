# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Pre-processor with the same resize in the engine and in exported models."""

from collections.abc import Sequence
from typing import Any

from anomalib.data import Batch
from anomalib.pre_processing import PreProcessor
from anomalib.pre_processing.utils.transform import get_exportable_transform
from lightning.pytorch import LightningModule, Trainer
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torchvision.transforms.v2 import Compose, InterpolationMode, Normalize, Resize, Transform
from torchvision.tv_tensors import Mask

from anomalib_genclip.utils.tensors import MatrixResize, resize


class AntialiasedPreProcessor(PreProcessor):
    """Pre-processor whose exported form keeps the antialiasing of the bicubic resize, as :class:`MatrixResize`.

    anomalib switches antialiasing off in exported models, so that an image larger than the model's input gets different
    scores from the engine and from the exported file. Models with tiles resize themselves: see :meth:`keep_size`.
    """

    def __init__(self, transform: Transform | None = None) -> None:
        super().__init__(transform)
        self.working_size: int | Sequence[int] | None = None
        self._model_size: tuple[int, int] | None = None
        self._set(transform)

    @property
    def keeps_size(self) -> bool:
        """Whether images reach the model at their own or the working size."""
        return self._model_size is not None

    def keep_size(self, working_size: int | Sequence[int] | None, model_size: tuple[int, int]) -> None:
        """Leave the resize to the model's size to the model, except in training."""
        self.working_size, self._model_size = working_size, model_size
        self._set(self._for_model_size)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        """Transform the batch; images that have kept their size get the model's."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        if self._model_size is not None and batch.image is not None and batch.gt_mask is not None:
            masks = F.interpolate(batch.gt_mask[:, None].float(), self._model_size)[:, 0]
            masks = masks.to(batch.gt_mask.dtype)  # 0, 1 or IGNORED
            batch.update(image=resize(batch.image, self._model_size), gt_mask=Mask(masks))

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Transform the batch; anomalib's method does not accept ``dataloader_idx``."""
        super().on_validation_batch_start(trainer, pl_module, batch, batch_idx)

    def load_checkpoint_config(self, config: dict[str, Any]) -> None:
        """Restore the transform and its exported form from a checkpoint; tiles are the model's settings."""
        super().load_checkpoint_config(config)
        self._set(self.transform)

    def checkpoint_config(self) -> dict[str, Any]:
        """Describe the transform of a model without tiles, so that they may be switched on and off later."""
        own, self.transform = self.transform, self._for_model_size
        try:
            return super().checkpoint_config()
        finally:
            self.transform = own

    def _set(self, transform: Transform | None) -> None:
        """Set the transform, given for the model's size, and its exported form."""
        self._for_model_size = transform
        if self.keeps_size:
            steps = transform.transforms if isinstance(transform, Compose) else filter(None, [transform])
            others = [step for step in steps if not isinstance(step, Resize)]
            transform = Compose([*_scaling(self.working_size), *others])
        self.transform = transform
        self.export_transform = _exportable(transform)


def clip_pre_processor(size: tuple[int, int]) -> AntialiasedPreProcessor:
    """Resize (bicubic) to height and width, and normalize as CLIP does."""
    normalize = Normalize(mean=OPENAI_DATASET_MEAN, std=OPENAI_DATASET_STD)
    return AntialiasedPreProcessor(Compose([*_scaling(size), normalize]))


def _scaling(size: int | Sequence[int] | None) -> list[Transform]:
    """Return the resize to a longer side, or to height and width; none for ``None``."""
    scale: dict[str, Any] = {"size": None, "max_size": size} if isinstance(size, int) else {"size": size}
    return [] if size is None else [Resize(**scale, interpolation=InterpolationMode.BICUBIC, antialias=True)]


def _exportable(transform: Transform | None) -> Transform | nn.Module | None:
    """Like anomalib's ``get_exportable_transform``, but keep antialiased bicubic resizes to a fixed size."""
    if isinstance(transform, Compose):
        return Compose([_exportable(step) for step in transform.transforms])
    if isinstance(transform, Resize) and transform.antialias and transform.interpolation == InterpolationMode.BICUBIC:
        size = transform.size
        if size is not None and len(size) == 2:
            return MatrixResize((size[0], size[1]))
    return get_exportable_transform(transform)
