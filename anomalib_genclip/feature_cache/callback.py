# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Features of the frozen vision tower on disk, so that training runs the tower once per image and not once per epoch.

One safetensors file per image, named after a hash of all that its content depends on: CLIP's weights, tapped layers,
image size, preprocessing, label, and the bytes of image and mask. An edited image or another model therefore never
meets an old file. A checksum in each file tells whether it is still what was written.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from anomalib.data import AnomalibDataModule, AnomalibDataset, ImageBatch
from anomalib.data.utils import LabelName
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from rich.progress import track
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from torchvision.transforms import v2
from torchvision.tv_tensors import Mask

from anomalib_genclip.callbacks.input_checks import check_images
from anomalib_genclip.callbacks.synthetic_anomalies import makes_anomalies
from anomalib_genclip.clip.frozen_clip import ImageTokens
from anomalib_genclip.data.batch import CategoryBatch, CategoryItem
from anomalib_genclip.utils.distributed import Processes, processes
from anomalib_genclip.utils.files import atomic_write
from anomalib_genclip.utils.tensors import digest

if TYPE_CHECKING:
    from anomalib_genclip.torch_model import GenCLIPModel

logger = logging.getLogger(__name__)

_FORMAT = 1
_HEADER_BYTES = 2048  # more than safetensors' header takes here
_TOKENS = ImageTokens._fields
# Those that give the same result each time and whose printed form says all that the result depends on.
_FIXED_TRANSFORMS = (v2.Compose, v2.Resize, v2.CenterCrop, v2.Normalize, v2.Pad, v2.Grayscale, v2.RGB, v2.Identity)


@dataclass
class FeatureItem(CategoryItem):
    """One image by its features; ``image`` is ``None``.

    Args:
        patches (Tensor): Patch tokens of the tapped layers, ``(M, N, d_v)``, half precision.
        cls (Tensor): CLS tokens of the tapped layers, ``(M, d_v)``.
        pooled (Tensor): Last tapped layer's CLS token after CLIP's final norm, ``(d_v,)``.
        embedding (Tensor): CLIP's image embedding, ``(d,)``.
    """

    patches: Tensor = field(kw_only=True)
    cls: Tensor = field(kw_only=True)
    pooled: Tensor = field(kw_only=True)
    embedding: Tensor = field(kw_only=True)

    @staticmethod
    def validate_image(image: None) -> None:
        """There is no image to check."""
        return image


@dataclass
class FeatureBatch(CategoryBatch):
    """A batch of :class:`FeatureItem`: the same fields with the batch as first dimension."""

    patches: Tensor = field(kw_only=True)
    cls: Tensor = field(kw_only=True)
    pooled: Tensor = field(kw_only=True)
    embedding: Tensor = field(kw_only=True)

    item_class: ClassVar[type[FeatureItem]] = FeatureItem

    @staticmethod
    def validate_image(image: None) -> None:
        """There is no image to check."""
        return image

    @property
    def batch_size(self) -> int:
        """Number of images."""
        return len(self.cls)

    @classmethod
    def collate(cls, items: list[FeatureItem]) -> "FeatureBatch":  # type: ignore[override]
        """Join items of one kind: what the first lacks is left out."""
        columns = {name: [getattr(item, name) for item in items] for name in items[0].__dict__}
        return cls(**{name: _joined(values) for name, values in columns.items()})

    def tokens(self, dtype: torch.dtype) -> ImageTokens:
        """What the vision tower said about the images, in the precision that the model computes in."""
        return ImageTokens(
            # Layer by layer, so that each is one block of memory for the product with ψ.
            patches=tuple(layer.to(dtype) for layer in self.patches.unbind(1)),
            cls=self.cls.to(dtype),
            pooled=self.pooled.to(dtype),
            embedding=self.embedding.to(dtype),
        )


class FeatureDataset(AnomalibDataset):
    """A data set whose images have been through the vision tower: no image or mask file is opened.

    Args:
        dataset (AnomalibDataset): The data set.
        files (Sequence[Path]): Each sample's file in the cache.
    """

    def __init__(self, dataset: AnomalibDataset, files: Sequence[Path]) -> None:
        super().__init__()
        self._name = dataset.name
        self._category = dataset.category
        self._samples = dataset.samples.assign(features=[str(file) for file in files])

    @property
    def name(self) -> str:
        """Name of the data set that the features belong to."""
        return self._name

    def __getitem__(self, index: int) -> FeatureItem:
        """Read one image's features; the file is mapped into memory, not copied."""
        row = self.samples.iloc[index]
        with safe_open(row.features, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # not a dict
        mask = tensors.pop("mask", None)
        return FeatureItem(
            image=None,
            gt_label=None if row.label_index == LabelName.UNKNOWN else torch.tensor(int(row.label_index)),
            gt_mask=None if mask is None else Mask(mask),
            image_path=row.image_path,
            mask_path=row.mask_path,
            category=row.get("category"),
            dataset=row.get("dataset"),
            **tensors,
        )

    @property
    def collate_fn(self) -> Callable:
        """Collate into :class:`FeatureBatch`."""
        return FeatureBatch.collate


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
        writer = _Writer(trainer, pl_module, preprocess, self.folder)
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


@dataclass(frozen=True)
class _Entry:
    """One sample's place in the cache."""

    path: Path
    key: str
    good: bool


class _Writer:
    """Fills the cache for one model.

    Args:
        trainer (Trainer): Gives precision and progress bar.
        module (LightningModule): GenCLIP.
        preprocess (nn.Module | None): Transform of the pre-processor.
        folder (Path): Folder of the cache.
    """

    def __init__(self, trainer: Trainer, module: LightningModule, preprocess: nn.Module | None, folder: Path) -> None:
        self.trainer = trainer
        self.module = module
        self.model: GenCLIPModel = module.model
        self.preprocess = preprocess
        self.settings = _settings(self.model, preprocess, trainer.precision)
        height, width = self.model.image_size
        self.folder = folder / f"{self.model.spec.name}_{height}x{width}_{self.settings[:12]}"

    def fill(self, datasets: Sequence[AnomalibDataset], others: Processes) -> list[list[Path]]:
        """Write what is missing.

        Args:
            datasets (Sequence[AnomalibDataset]): What to cache.
            others (Processes): The processes that share the work.

        Returns:
            list[list[Path]]: For each data set the samples' files.
        """
        entries = [self._entries(dataset, others) for dataset in datasets]
        places: dict[Path, tuple[int, int]] = {}
        for part, own in enumerate(entries):
            for row, entry in enumerate(own):
                places.setdefault(entry.path, (part, row))  # copies of an image share a file
        missing = [(part, row) for part, row in places.values() if not entries[part][row].good]
        self._announce(len(places), [entries[part][row] for part, row in missing], others)
        share = missing[others.rank :: others.number]
        for part, dataset in enumerate(datasets):
            if rows := [row for at, row in share if at == part]:
                self._write(dataset, {row: entries[part][row] for row in rows})
        others.all_gather(None)  # nobody reads before everybody has written
        return [[entry.path for entry in part] for part in entries]

    def _entries(self, dataset: AnomalibDataset, others: Processes) -> list[_Entry]:
        """Find each sample's place and look what is there; the processes share the reading."""
        settings = _hash(self.settings, type(dataset).__name__, dataset.task, repr(dataset.augmentations))
        rows = list(dataset.samples.itertuples(index=False))
        shares = others.all_gather([self._entry(settings, row) for row in rows[others.rank :: others.number]])
        return [shares[index % others.number][index // others.number] for index in range(len(rows))]

    def _entry(self, settings: str, row: Any) -> _Entry:  # noqa: ANN401  # a row of a table
        masks = row.mask_path if isinstance(row.mask_path, list) else [row.mask_path]
        files = [Path(mask) for mask in masks if isinstance(mask, str | Path) and Path(mask).is_file()]
        # Content, not date and size: those may stay when a file is replaced.
        contents = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (Path(row.image_path), *files)]
        key = _hash(settings, int(row.label_index), *contents)
        path = self.folder / f"{key[:32]}.safetensors"
        return _Entry(path, key, path.exists() and _is_good(path, key))

    def _announce(self, total: int, missing: list[_Entry], others: Processes) -> None:
        """Say what will be written, and check that there is room.

        Raises:
            OSError: If there is none.
        """
        if bad := [entry.path for entry in missing if entry.path.exists()]:
            logger.warning(
                "%d files of the feature cache are damaged or belong to something else, and are made anew: %s%s.",
                len(bad),
                bad[0],
                ", ..." if len(bad) > 1 else "",
            )
        if not missing:
            rank_zero_info(f"Feature cache: all {total} images are in {self.folder}.")
            return
        with _readable_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            free = others.broadcast(shutil.disk_usage(self.folder).free)
        needed = len(missing) * self._bytes_per_image()
        what = f"{needed / 1e9:.2f} GB for {len(missing)} of {total} images"
        if needed > free:
            msg = (
                f"The feature cache needs {what}, and the disk of {self.folder} has {free / 1e9:.2f} GB left. Nothing "
                "has been written. Give feature_cache a folder on another disk, make room, or leave it out."
            )
            raise OSError(msg)
        rank_zero_info(f"Feature cache: writing {what} to {self.folder} ({free / 1e9:.2f} GB free).")

    def _bytes_per_image(self) -> int:
        spec, layers = self.model.spec, len(self.model.layers)
        patches = layers * prod(self.model.clip.grid_size) * spec.vision_width
        vectors = (layers + 1) * spec.vision_width + spec.embed_dim
        return 2 * patches + 4 * vectors + prod(self.model.image_size) + _HEADER_BYTES

    def _write(self, dataset: AnomalibDataset, rows: dict[int, _Entry]) -> None:
        """Run the vision tower over samples and write a file for each."""
        datamodule = self.trainer.datamodule
        loader = DataLoader(
            Subset(dataset, list(rows)),
            batch_size=datamodule.train_batch_size,
            num_workers=datamodule.num_workers,
            collate_fn=dataset.collate_fn,
            generator=torch.Generator(),  # leaves the order of training to the trainer's stream of random numbers
        )
        quiet = self.trainer.progress_bar_callback is None or not self.trainer.is_global_zero
        entries = iter(rows.values())
        for batch in track(loader, description="Features", disable=quiet):
            for tensors in self._features(batch):
                entry = next(entries)
                metadata = {"key": entry.key, "checksum": digest(tensors, {})}
                with _readable_errors(self.folder):
                    # Waiting for the disk is no use: what a power failure leaves is found by its checksum.
                    atomic_write(entry.path, save(tensors, {"feature_cache": json.dumps(metadata)}), sync=False)

    def _features(self, batch: ImageBatch) -> Iterator[dict[str, Tensor]]:
        """Run the vision tower on a batch as training does: one dictionary of tensors per image."""
        check_images(batch, map(str, batch.image_path or []))
        batch = self.module.transfer_batch_to_device(batch, self.module.device, 0)
        images = self.preprocess(batch.image) if self.preprocess is not None else batch.image
        precision = self.trainer.precision_plugin
        with precision.forward_context():
            tokens = self.model.clip.encode_image(precision.convert_input(images))
        fields = {
            "patches": torch.stack(tokens.patches, dim=1).half(),
            # So little that full precision costs nothing, and Class Name Filtering decides as without the cache.
            **{name: getattr(tokens, name).float() for name in _TOKENS if name != "patches"},
        }
        if not torch.isfinite(fields["patches"]).all():
            msg = f"Patch tokens of {self.model.spec.name} do not fit half precision: leave feature_cache out."
            raise ValueError(msg)
        if batch.gt_mask is not None:
            fields["mask"] = batch.gt_mask.as_subclass(Tensor).bool()
        for values in zip(*(value.cpu() for value in fields.values()), strict=True):
            yield {name: value.contiguous() for name, value in zip(fields, values, strict=True)}


def _settings(model: "GenCLIPModel", preprocess: nn.Module | None, precision: str) -> str:
    """Hash all that the features of any image depend on."""
    return _hash(
        _FORMAT,
        model.spec.name,
        model.fingerprint,  # knows the activation, which the weights do not say
        digest(model.clip.model.visual.state_dict(), {}),
        list(model.layers),
        list(model.image_size),
        repr(preprocess),
        precision,
    )


def _hash(*values: object) -> str:
    return hashlib.sha256(json.dumps([str(value) for value in values]).encode()).hexdigest()


def _is_good(path: Path, key: str) -> bool:
    """Tell whether a file is what was once written for ``key``."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get("feature_cache", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    except (SafetensorError, OSError, ValueError, RecursionError):
        return False
    return metadata == {"key": key, "checksum": digest(tensors, {})}


@contextmanager
def _readable_errors(folder: Path) -> Iterator[None]:
    """Say which setting an error of the file system comes from."""
    try:
        yield
    except OSError as error:
        msg = f"The feature cache cannot be written to {folder}: {error}. Give feature_cache another folder."
        raise OSError(msg) from error


def _joined(values: list) -> Any:  # noqa: ANN401  # a tensor, a list or None
    """One field of a batch."""
    if values[0] is None:
        return None
    return torch.stack(values) if isinstance(values[0], Tensor) else values


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
