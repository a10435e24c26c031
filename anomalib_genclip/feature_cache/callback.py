# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Vision-encoder outputs on disk, so that training runs the vision tower once per image, not once per epoch."""

from pathlib import Path

from anomalib.data import AnomalibDataModule, AnomalibDataset
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torchvision.transforms import v2

from anomalib_genclip.callbacks.synthetic_anomalies import makes_anomalies
from anomalib_genclip.utils.distributed import processes

from .dataset import FeatureDataset
from .writer import FeatureWriter

# Deterministic transforms whose repr() has everything that the result depends on.
_FIXED_TRANSFORMS = (v2.Compose, v2.Resize, v2.CenterCrop, v2.Normalize, v2.Pad, v2.Grayscale, v2.RGB, v2.Identity)


class FeatureCache(Callback):
    """Fill a folder with the vision tower's outputs, and let training and validation read them from there.

    The datamodule's datasets are replaced while the model is fitted. Several processes, of one run or of several, may
    use one folder at the same time, because files are written atomically and their content does not depend on the
    process.

    Args:
        folder (str | Path): Folder of the cache, on a disk that all processes share. It may be deleted whenever no
            training runs.

    Raises:
        NotADirectoryError: If ``folder`` is a file.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if self.folder.is_file():
            msg = f"feature_cache={str(folder)!r} is a file. Give a folder; it is created if it does not exist."
            raise NotADirectoryError(msg)
        self._replaced: list[tuple[AnomalibDataModule, str, AnomalibDataset]] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fill the cache and replace the datamodule's datasets.

        Raises:
            ValueError: If there is no datamodule, the images may change from epoch to epoch, or the model has tiles.
            OSError: If the disk is full or cannot be written to.
        """
        if pl_module.model.tiler is not None:
            msg = "feature_cache has features of whole images alone: train without tiles, or leave it out."
            raise ValueError(msg)
        datamodule = getattr(trainer, "datamodule", None)
        if not isinstance(datamodule, AnomalibDataModule):
            msg = "feature_cache needs one of anomalib's datamodules: give datamodule= instead of loaders."
            raise ValueError(msg)  # noqa: TRY004  # invalid settings are ValueErrors
        subsets = ["train_data", "val_data"] if trainer.limit_val_batches else ["train_data"]
        datasets = {key: getattr(datamodule, key) for key in subsets if getattr(datamodule, key, None) is not None}
        preprocess = getattr(pl_module.pre_processor, "transform", None)
        _refuse_randomness(pl_module.training_settings.anomaly_source, datasets, preprocess)
        writer = FeatureWriter(trainer, pl_module, preprocess, self.folder)
        with processes() as group:
            files = writer.fill(list(datasets.values()), group)
        for (key, dataset), own in zip(datasets.items(), files, strict=True):
            self._replaced.append((datamodule, key, dataset))
            setattr(datamodule, key, FeatureDataset(dataset, own))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the datamodule's datasets."""
        del trainer, pl_module, stage
        while self._replaced:
            setattr(*self._replaced.pop())

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore the datamodule's datasets."""
        del exception
        self.teardown(trainer, pl_module, "fit")


def _refuse_randomness(source: str, datasets: dict[str, AnomalibDataset], preprocess: nn.Module | None) -> None:
    """Raise a ``ValueError`` that names the setting through which epochs may use different images."""
    if makes_anomalies(source, datasets["train_data"]):
        msg = (
            "feature_cache needs the same images in every epoch, but training generates new synthetic anomalies each "
            f"time (anomaly_source={source!r}). Train on a labelled source (CrossDataset), or leave feature_cache out."
        )
        raise ValueError(msg)
    places = {f"the datamodule's {key.removesuffix('_data')}_augmentations": key for key in datasets}
    transforms = {place: datasets[key].augmentations for place, key in places.items()}
    for place, transform in {**transforms, "the pre_processor": preprocess}.items():
        for step in _steps(transform):
            if type(step) not in _FIXED_TRANSFORMS:
                msg = (
                    f"feature_cache needs the same images in every epoch, but {type(step).__name__} in {place} may "
                    "change them. Leave out that transform or feature_cache."
                )
                raise ValueError(msg)


def _steps(transform: nn.Module | None) -> list[nn.Module]:
    """Return a transform and, if it is a container, its steps."""
    inner = transform.transforms if isinstance(transform, v2.Compose) else []
    return [*filter(None, [transform]), *(step for part in inner for step in _steps(part))]
