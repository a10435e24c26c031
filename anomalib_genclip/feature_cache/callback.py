# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Vision-tower features on disk, so that training runs the tower once per image and not once per epoch."""

from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

from anomalib.data import AnomalibDataModule, AnomalibDataset
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torchvision.transforms import v2

from anomalib_genclip.callbacks.synthetic_anomalies import makes_anomalies
from anomalib_genclip.utils.distributed import processes

from .dataset import FeatureDataset
from .writer import FeatureWriter

# Those that give the same result each time and whose printed form says all that the result depends on.
_FIXED_TRANSFORMS = (v2.Compose, v2.Resize, v2.CenterCrop, v2.Normalize, v2.Pad, v2.Grayscale, v2.RGB, v2.Identity)


class FeatureCache(Callback):
    """Let training and validation read the vision tower's features from a folder, and fill it first.

    The datamodule's data sets are replaced for the time of the fit. Several processes, of one run or of several, may
    use one folder at once: files appear whole, and whoever writes a file writes the same.

    Args:
        folder (str | Path): Folder of the cache, which all processes must see. It may be deleted whenever no training
            runs.

    Raises:
        NotADirectoryError: If there is a file of that name.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            msg = f"feature_cache={str(folder)!r} is a file. Give a folder; it is made if it does not exist."
            raise NotADirectoryError(msg)
        self._replaced: list[tuple[AnomalibDataModule, str, AnomalibDataset]] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fill the cache and hand the trainer the features.

        Raises:
            ValueError: If there is no datamodule, or the features are not the same in each epoch.
            OSError: If the disk has no room, or cannot be written to.
        """
        datamodule = getattr(trainer, "datamodule", None)
        if not isinstance(datamodule, AnomalibDataModule):
            msg = "feature_cache needs one of anomalib's datamodules: give datamodule= instead of loaders."
            raise ValueError(msg)  # noqa: TRY004  # it is the setting that does not fit, not its type
        subsets = ["train_data", "val_data"] if trainer.limit_val_batches else ["train_data"]
        datasets = {key: getattr(datamodule, key) for key in subsets if getattr(datamodule, key, None) is not None}
        preprocess = getattr(pl_module.pre_processor, "transform", None)
        _refuse_randomness(pl_module.training_settings.anomaly_source, datasets, preprocess)
        writer = FeatureWriter(trainer, pl_module, preprocess, self.folder)
        with processes() as others:
            files = writer.fill(list(datasets.values()), others)
        for (key, dataset), own in zip(datasets.items(), files, strict=True):
            self._replaced.append((datamodule, key, dataset))
            setattr(datamodule, key, FeatureDataset(dataset, own))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the datamodule its data sets back."""
        del trainer, pl_module, exception
        self._restore()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the datamodule its data sets back."""
        del trainer, pl_module, stage
        self._restore()

    def _restore(self) -> None:
        while self._replaced:
            setattr(*self._replaced.pop())


def _refuse_randomness(source: str, datasets: dict[str, AnomalibDataset], preprocess: nn.Module | None) -> None:
    """Make sure that each epoch sees the same images.

    Raises:
        ValueError: If it may not; names the setting.
    """
    if makes_anomalies(source, datasets["train_data"]):
        msg = (
            "feature_cache needs the same images in every epoch, and training makes new synthetic anomalies each time "
            f"(anomaly_source={source!r}). Train on a labelled source (CrossDataset), or leave feature_cache out."
        )
        raise ValueError(msg)
    places = {f"the datamodule's {key.removesuffix('_data')}_augmentations": key for key in datasets}
    transforms = {place: datasets[key].augmentations for place, key in places.items()}
    for place, transform in {**transforms, "the pre_processor": preprocess}.items():
        for step in _steps(transform):
            if type(step) not in _FIXED_TRANSFORMS:
                msg = (
                    f"feature_cache needs the same images in every epoch, and {type(step).__name__} in {place} may "
                    "change them. Leave out that transform or feature_cache."
                )
                raise ValueError(msg)


def _steps(transform: Any) -> Iterable[Any]:  # noqa: ANN401  # a transform or None
    """Yield a transform's steps, containers included."""
    if transform is None:
        return []
    inner = transform.transforms if isinstance(transform, v2.Compose) else []
    return chain([transform], *(_steps(step) for step in inner))
