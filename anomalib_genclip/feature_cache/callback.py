# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Vision-encoder outputs on disk, so that training runs the vision tower once per image, not once per epoch.

There is one safetensors file per image, named after a hash of everything that its content depends on: an edited image
or another model gets a new file. Names and headers are checked before training, checksums when a file is read.
"""

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from anomalib.data import AnomalibDataModule, AnomalibDataset, ImageBatch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from rich.progress import track
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from torchvision.transforms import v2

from anomalib_genclip.callbacks.synthetic_anomalies import makes_anomalies
from anomalib_genclip.data.images import check_images
from anomalib_genclip.utils.devices import Processes, bf16_is_fast, processes
from anomalib_genclip.utils.files import atomic_write, file_hash
from anomalib_genclip.utils.loaders import as_list
from anomalib_genclip.utils.messages import counted, summarize
from anomalib_genclip.utils.tensors import digest

from .dataset import FeatureDataset, read_header

if TYPE_CHECKING:
    from anomalib_genclip.torch_model import GenCLIPModel

logger = logging.getLogger(__name__)

_FORMAT = 2
_HEADER_BYTES = 2048  # upper bound for the size of the header here
# Deterministic transforms whose repr() has everything that the result depends on.
_FIXED_TRANSFORMS = (v2.Compose, v2.Resize, v2.CenterCrop, v2.Normalize, v2.Pad, v2.Grayscale, v2.RGB, v2.Identity)


class FeatureCache(Callback):
    """Fill a folder with the vision tower's outputs, and let training and validation read them from there.

    The datamodule's datasets are replaced while the model is fitted. Several processes, of one run or of several, may
    use one folder at the same time. It may be deleted whenever no training runs.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if self.folder.is_file():
            msg = f"feature_cache={str(folder)!r} is a file. Give a folder; it is created if it does not exist."
            raise NotADirectoryError(msg)
        self._replaced: list[tuple[AnomalibDataModule, str, AnomalibDataset]] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fill the cache and replace the datamodule's datasets; the images must not change from epoch to epoch."""
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
        with processes() as group:
            files = FeatureWriter(trainer, pl_module, preprocess, self.folder).fill([*datasets.values()], group)
        for (key, dataset), own in zip(datasets.items(), files, strict=True):
            self._replaced.append((datamodule, key, dataset))
            setattr(datamodule, key, FeatureDataset(dataset, own))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the datamodule's datasets."""
        while self._replaced:
            setattr(*self._replaced.pop())

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore the datamodule's datasets."""
        self.teardown(trainer, pl_module, "fit")


def _refuse_randomness(source: str, datasets: dict[str, AnomalibDataset], preprocess: nn.Module | None) -> None:
    """Raise a ``ValueError`` that names the setting through which epochs may use different images."""
    made = f"new synthetic anomalies (anomaly_source={source!r}; none on a labelled source, CrossDataset)"
    reasons = [made] if makes_anomalies(source, datasets["train_data"]) else []
    places = {f"the datamodule's {key.removesuffix('_data')}_augmentations": key for key in datasets}
    transforms = {place: datasets[key].augmentations for place, key in places.items()}
    for place, transform in {**transforms, "the pre_processor": preprocess}.items():
        others = [step for step in _steps(transform) if type(step) not in _FIXED_TRANSFORMS]
        reasons += [f"{type(step).__name__} in {place}" for step in others]
    if reasons:
        msg = f"feature_cache needs the same images in every epoch, without {reasons[0]}: leave out one of the two."
        raise ValueError(msg)


def _steps(transform: nn.Module | None) -> list[nn.Module]:
    """Return a transform and, if it is a container, its steps."""
    inner = transform.transforms if isinstance(transform, v2.Compose) else []
    return [*filter(None, [transform]), *(step for part in inner for step in _steps(part))]


class FeatureWriter:
    """Fills the cache for one model.

    In a float32 run on a device that is fast in bf16, the tower computes in bf16 (ours): patch tokens are stored in
    half precision anyway. Other precisions are the trainer's.
    """

    def __init__(self, trainer: Trainer, module: LightningModule, preprocess: nn.Module | None, folder: Path) -> None:
        self.trainer = trainer
        self.module = module
        self.model: GenCLIPModel = module.model
        self.preprocess = preprocess
        self.in_bf16 = trainer.precision == "32-true" and bf16_is_fast(module.device)
        model, (height, width) = self.model, self.model.image_size
        precision = "bf16" if self.in_bf16 else trainer.precision
        own = [_FORMAT, model.spec.name, model.fingerprint, model.layers, model.clip.patch_attention, model.image_size]
        positions = {"positions": model.clip.model.visual.positional_embedding}  # not in the fingerprint
        self.settings = digest(positions, [*own, repr(preprocess), precision])
        self.folder = folder / f"{model.spec.name}_{height}x{width}_{self.settings[:12]}"

    def fill(self, datasets: Sequence[AnomalibDataset], group: Processes) -> list[list[str]]:
        """Write missing files, and return the file of each sample."""
        entries = pd.concat([self._entries(dataset, group) for dataset in datasets], keys=range(len(datasets)))
        single = entries.drop_duplicates("path")  # copies of an image share a file
        missing = single[~single.good]
        self._announce(len(single), missing.path, group)
        for part, share in missing.iloc[group.rank :: group.number].groupby(level=0):
            self._write(datasets[part], share.droplevel(0))
        group.all_gather(None)  # a barrier: all files are written before any is read
        return [entries.path[part].tolist() for part in range(len(datasets))]

    def _entries(self, dataset: AnomalibDataset, group: Processes) -> pd.DataFrame:
        """Return path, key and state of each sample's file; the processes share the reading of images."""
        settings = [self.settings, type(dataset).__name__, str(dataset.task), repr(dataset.augmentations)]
        share = dataset.samples.iloc[group.rank :: group.number]
        entries = [self._entry(settings, row) for row in share.itertuples(index=False)]
        table = pd.DataFrame(entries, columns=["path", "key", "good"], index=share.index).astype({"good": bool})
        return pd.concat(group.all_gather(table)).sort_index()

    def _entry(self, settings: list[str], row: Any) -> tuple[str, str, bool]:  # noqa: ANN401  # a row of a table
        masks = [*as_list(row.mask_path), getattr(row, "ignore_path", None)]
        masks = [mask for mask in masks if isinstance(mask, str | Path) and Path(mask).is_file()]
        # The content, because date and size may stay the same when a file is replaced.
        key = digest({}, [*settings, int(row.label_index), *map(file_hash, (row.image_path, *masks))])
        path = self.folder / f"{key[:32]}.safetensors"
        return str(path), key, read_header(path).get("key") == key

    def _announce(self, total: int, missing: pd.Series, group: Processes) -> None:
        """Log what will be written, and raise an ``OSError`` if the disk has too little space for it."""
        if bad := [path for path in missing if Path(path).exists()]:
            what = f"{counted(len(bad), 'file')} of the feature cache"
            logger.warning("Damaged or foreign, and rewritten: %s: %s.", what, summarize(bad))
        if missing.empty:
            rank_zero_info(f"Feature cache: {total} of {counted(total, 'image')} in {self.folder}.")
            return
        with _readable_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            free = group.broadcast(shutil.disk_usage(self.folder).free)
        spec, layers = self.model.spec, len(self.model.layers)
        patches = layers * prod(self.model.clip.grid_size) * spec.vision_width
        vectors = (layers + 1) * spec.vision_width + spec.embed_dim
        needed = len(missing) * (2 * patches + 4 * vectors + prod(self.model.image_size) + _HEADER_BYTES)
        what = f"{needed / 1e9:.2f} GB for {len(missing)} of {counted(total, 'image')}"
        if needed > free:
            msg = (
                f"The feature cache needs {what}, and the disk of {self.folder} has {free / 1e9:.2f} GB left. Nothing "
                "has been written. Give feature_cache a folder on another disk, free some space, or leave it out."
            )
            raise OSError(msg)
        how = ", computed in bf16, which is fast here" if self.in_bf16 else ""
        rank_zero_info(f"Feature cache: writing {what} to {self.folder} ({free / 1e9:.2f} GB free){how}.")

    def _write(self, dataset: AnomalibDataset, entries: pd.DataFrame) -> None:
        """Run the vision tower on the samples whose rows are the index of ``entries``, and write a file for each."""
        datamodule = self.trainer.datamodule
        loader = DataLoader(
            Subset(dataset, entries.index.tolist()),
            batch_size=datamodule.train_batch_size,
            num_workers=datamodule.num_workers,
            collate_fn=dataset.collate_fn,
            generator=torch.Generator(),  # keeps the global random state, and with it the order of training
        )
        quiet = self.trainer.progress_bar_callback is None or not self.trainer.is_global_zero
        rows = entries.itertuples()
        for batch in track(loader, description="Features", disable=quiet):
            for tensors in self._features(batch):
                row = next(rows)
                content = save(tensors, {"key": row.key, "checksum": digest(tensors, {})})
                with _readable_errors(self.folder):
                    # No fsync: the checksum reveals files that a power failure has truncated.
                    atomic_write(Path(row.path), content, sync=False)

    def _features(self, batch: ImageBatch) -> Iterator[dict[str, Tensor]]:
        """Run the vision tower on a batch, and yield the tensors of each image by name."""
        check_images(batch, map(str, batch.image_path or []))
        batch = self.module.transfer_batch_to_device(batch, self.module.device, 0)
        images = self.preprocess(batch.image) if self.preprocess is not None else batch.image
        precision = self.trainer.precision_plugin
        bf16 = torch.autocast(self.module.device.type, torch.bfloat16, enabled=self.in_bf16)
        with precision.forward_context(), bf16:
            tokens = self.model.clip.encode_image(precision.convert_input(images))
        # Small enough for full precision, so that Class Name Filtering decides as without the cache.
        fields = {name: value.float() for name, value in tokens._asdict().items() if name != "patches"}
        fields["patches"] = torch.stack(tokens.patches, dim=1).half()
        if not torch.isfinite(fields["patches"]).all():
            msg = f"Patch tokens of {self.model.spec.name} overflow half precision: leave feature_cache out."
            raise ValueError(msg)
        if batch.gt_mask is not None:
            fields["mask"] = batch.gt_mask.as_subclass(Tensor)
        for values in zip(*(value.cpu() for value in fields.values()), strict=True):
            yield {name: value.contiguous() for name, value in zip(fields, values, strict=True)}


@contextmanager
def _readable_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        msg = f"The feature cache cannot be written to {folder}: {error}. Give feature_cache another folder."
        raise OSError(msg) from error
