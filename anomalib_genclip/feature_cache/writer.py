# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Filling the feature cache.

There is one safetensors file per image, named after a hash of everything that its content depends on: CLIP's weights,
feature layers, patch attention, image size, preprocessing, label, and the bytes of image and mask. An edited image or
another model therefore gets a new file. Names and headers are checked before training, the checksum of the tensors when
a file is read.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from anomalib.data import AnomalibDataset, ImageBatch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from rich.progress import track
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from anomalib_genclip.clip.frozen_clip import ImageTokens
from anomalib_genclip.data.images import check_images
from anomalib_genclip.utils.distributed import Processes
from anomalib_genclip.utils.files import atomic_write
from anomalib_genclip.utils.precision import bf16_is_fast
from anomalib_genclip.utils.tensors import digest

from .dataset import METADATA, read_header

if TYPE_CHECKING:
    from anomalib_genclip.torch_model import GenCLIPModel

logger = logging.getLogger(__name__)

_FORMAT = 1
_HEADER_BYTES = 2048  # upper bound for the size of the header here
_TOKENS = ImageTokens._fields


@dataclass(frozen=True)
class _Entry:
    """File of a sample in the cache."""

    path: Path
    key: str
    good: bool


class FeatureWriter:
    """Fills the cache for one model.

    In a float32 run on a device that is fast in bf16, the tower computes in bf16 (ours): patch tokens are stored in
    half precision anyway. Other precisions are the trainer's.

    Args:
        trainer (Trainer): Determines precision and progress bar.
        module (LightningModule): GenCLIP.
        preprocess (nn.Module | None): Transform of the pre-processor.
        folder (Path): Folder of the cache.
    """

    def __init__(self, trainer: Trainer, module: LightningModule, preprocess: nn.Module | None, folder: Path) -> None:
        self.trainer = trainer
        self.module = module
        self.model: GenCLIPModel = module.model
        self.preprocess = preprocess
        self.in_bf16 = trainer.precision == "32-true" and bf16_is_fast(module.device)
        self.settings = _settings(self.model, preprocess, "bf16" if self.in_bf16 else trainer.precision)
        height, width = self.model.image_size
        self.folder = folder / f"{self.model.spec.name}_{height}x{width}_{self.settings[:12]}"

    def fill(self, datasets: Sequence[AnomalibDataset], others: Processes) -> list[list[Path]]:
        """Write missing files.

        Args:
            datasets (Sequence[AnomalibDataset]): Datasets to cache.
            others (Processes): Processes that share the work.

        Returns:
            list[list[Path]]: Files of the samples of each dataset.
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
        others.all_gather(None)  # a barrier: all files are written before any is read
        return [[entry.path for entry in part] for part in entries]

    def _entries(self, dataset: AnomalibDataset, others: Processes) -> list[_Entry]:
        """Return the entries of a dataset's samples; the processes share the reading of images."""
        settings = _hash(self.settings, type(dataset).__name__, dataset.task, repr(dataset.augmentations))
        rows = list(dataset.samples.itertuples(index=False))
        shares = others.all_gather([self._entry(settings, row) for row in rows[others.rank :: others.number]])
        return [shares[index % others.number][index // others.number] for index in range(len(rows))]

    def _entry(self, settings: str, row: Any) -> _Entry:  # noqa: ANN401  # a row of a table
        masks = row.mask_path if isinstance(row.mask_path, list) else [row.mask_path]
        files = [Path(mask) for mask in masks if isinstance(mask, str | Path) and Path(mask).is_file()]
        # The content, because date and size may stay the same when a file is replaced.
        contents = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (Path(row.image_path), *files)]
        key = _hash(settings, int(row.label_index), *contents)
        path = self.folder / f"{key[:32]}.safetensors"
        return _Entry(path, key, read_header(path).get("key") == key)

    def _announce(self, total: int, missing: list[_Entry], others: Processes) -> None:
        """Log what will be written, and check that the disk has enough space.

        Raises:
            OSError: If it does not.
        """
        if bad := [entry.path for entry in missing if entry.path.exists()]:
            logger.warning(
                "%d files of the feature cache are damaged or foreign, and are rewritten: %s%s.",
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
                "has been written. Give feature_cache a folder on another disk, free some space, or leave it out."
            )
            raise OSError(msg)
        how = ", computed in bf16, which is fast here" if self.in_bf16 else ""
        rank_zero_info(f"Feature cache: writing {what} to {self.folder} ({free / 1e9:.2f} GB free){how}.")

    def _bytes_per_image(self) -> int:
        spec, layers = self.model.spec, len(self.model.layers)
        patches = layers * prod(self.model.clip.grid_size) * spec.vision_width
        vectors = (layers + 1) * spec.vision_width + spec.embed_dim
        return 2 * patches + 4 * vectors + prod(self.model.image_size) + _HEADER_BYTES

    def _write(self, dataset: AnomalibDataset, rows: dict[int, _Entry]) -> None:
        """Run the vision tower on samples and write a file for each."""
        datamodule = self.trainer.datamodule
        loader = DataLoader(
            Subset(dataset, list(rows)),
            batch_size=datamodule.train_batch_size,
            num_workers=datamodule.num_workers,
            collate_fn=dataset.collate_fn,
            generator=torch.Generator(),  # keeps the global random state, and with it the order of training
        )
        quiet = self.trainer.progress_bar_callback is None or not self.trainer.is_global_zero
        entries = iter(rows.values())
        for batch in track(loader, description="Features", disable=quiet):
            for tensors in self._features(batch):
                entry = next(entries)
                metadata = {"key": entry.key, "checksum": digest(tensors, {})}
                with _readable_errors(self.folder):
                    # No fsync: the checksum reveals files that a power failure has truncated.
                    atomic_write(entry.path, save(tensors, {METADATA: json.dumps(metadata)}), sync=False)

    def _features(self, batch: ImageBatch) -> Iterator[dict[str, Tensor]]:
        """Run the vision tower on a batch, and yield the tensors of each image by name."""
        check_images(batch, map(str, batch.image_path or []))
        batch = self.module.transfer_batch_to_device(batch, self.module.device, 0)
        images = self.preprocess(batch.image) if self.preprocess is not None else batch.image
        precision = self.trainer.precision_plugin
        bf16 = torch.autocast(self.module.device.type, torch.bfloat16, enabled=self.in_bf16)
        with precision.forward_context(), bf16:
            tokens = self.model.clip.encode_image(precision.convert_input(images))
        fields = {
            "patches": torch.stack(tokens.patches, dim=1).half(),
            # Small enough for full precision, so that Class Name Filtering decides as without the cache.
            **{name: getattr(tokens, name).float() for name in _TOKENS if name != "patches"},
        }
        if not torch.isfinite(fields["patches"]).all():
            msg = f"Patch tokens of {self.model.spec.name} overflow half precision: leave feature_cache out."
            raise ValueError(msg)
        if batch.gt_mask is not None:
            fields["mask"] = batch.gt_mask.as_subclass(Tensor).bool()
        for values in zip(*(value.cpu() for value in fields.values()), strict=True):
            yield {name: value.contiguous() for name, value in zip(fields, values, strict=True)}


def _settings(model: "GenCLIPModel", preprocess: nn.Module | None, precision: str) -> str:
    """Hash everything that the features of all images depend on."""
    return _hash(
        _FORMAT,
        model.spec.name,
        model.fingerprint,
        digest({"positions": model.clip.model.visual.positional_embedding}, {}),  # not in the fingerprint
        list(model.layers),
        model.clip.patch_attention,
        list(model.image_size),
        repr(preprocess),
        precision,
    )


def _hash(*values: object) -> str:
    return hashlib.sha256(json.dumps([str(value) for value in values]).encode()).hexdigest()


@contextmanager
def _readable_errors(folder: Path) -> Iterator[None]:
    """Name the setting in errors of the file system."""
    try:
        yield
    except OSError as error:
        msg = f"The feature cache cannot be written to {folder}: {error}. Give feature_cache another folder."
        raise OSError(msg) from error
