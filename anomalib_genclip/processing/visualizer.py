# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Visualization of each image, for loaders with several categories and datasets."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from copy import copy
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from anomalib.visualization import ImageVisualizer
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger
from PIL import Image

from anomalib_genclip.utils.devices import processes
from anomalib_genclip.utils.files import atomic_open
from anomalib_genclip.utils.loaders import as_list, datamodule_of, image_paths
from anomalib_genclip.utils.tensors import digest

# The model imports this module while anomalib.models may be partly imported.
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from anomalib.data import ImageBatch
    from anomalib.models import AnomalibModule
    from lightning.pytorch import Trainer
    from lightning.pytorch.loggers import Logger

_Group = tuple[str, str]  # dataset, category
_SHORTEST_TAIL = 2
_CAPTION_SHARE = 13  # width of a tile divided by the largest font size for which "Image + Anomaly Map" fits
_LOGGED = 8  # pictures per test that go to the loggers: enough to judge by, too few to slow the run
_LONGEST_NAME = 60  # of a folder, in characters of up to four bytes: file systems take 255 bytes


class CategoryVisualizer(ImageVisualizer):
    """anomalib's visualizer, with the same arguments, that saves ``<output_dir>/<dataset>/<category>/<folder>/<file>``.

    Dataset and category are those of the batch, else those of the datamodule; unknown ones are left out. ``<folder>``
    is the image's parent folder, with as many further parents as are needed to distinguish all images of a category.
    ``output_dir`` is read from the trainer in each run, unless it is given; in a distributed run it is that of the
    first process. With tiles, the fields have the size of the map, unless ``field_size`` is given. The first eight
    pictures of a test also go to TensorBoard, W&B and MLflow loggers, normal ones left out where labels are known.
    """

    def __init__(self, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(**kwargs)
        self._has_own_size = "field_size" in kwargs
        if self.text_config["size"] is None:  # anomalib's default truncates captions
            self.text_config["size"] = max(1, self.field_size[0] // _CAPTION_SHARE)
        self._root = Path()
        self._prefix = ""
        self._left_to_log = self._saved = 0
        self._groups: list[_Group] = []  # of the loaders
        self._tail_lengths: dict[_Group, int] = {}

    def on_test_start(self, trainer: Trainer, pl_module: AnomalibModule) -> None:
        """Read all test paths, to give each image a unique file."""
        self._start(trainer, as_list(trainer.test_dataloaders), logged=_LOGGED)

    def on_predict_start(self, trainer: Trainer, pl_module: AnomalibModule) -> None:
        """Read all prediction paths, to give each image a unique file."""
        self._start(trainer, as_list(trainer.predict_dataloaders), logged=0)

    def _start(self, trainer: Trainer, loaders: list, *, logged: int) -> None:
        self._left_to_log, self._saved = logged, 0
        self._groups = [_group_of(datamodule_of(trainer, loader), "name") for loader in loaders]
        self._tail_lengths = _tail_lengths(loaders, self._groups)
        with processes() as group:
            root = self.output_dir if self.output_dir is not None else Path(trainer.default_root_dir) / "images"
            self._root = Path(group.broadcast(str(root)))  # anomalib creates one for each process
            self._prefix = f"process{group.rank}_" if group.number > 1 else ""

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: object, _: object, batch: ImageBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Save one visualization per image of the batch."""
        tiled = getattr(getattr(pl_module, "model", None), "tiler", None) is not None and not self._has_own_size
        for index, item in enumerate(batch):
            visualizer = self if item.anomaly_map is None or not tiled else self._of_size(item.anomaly_map.shape)
            visualization = visualizer.visualize(item)
            if not isinstance(visualization, Image.Image):
                continue
            own = _group_of(item, "dataset")
            group = own if any(own) else self._groups[dataloader_idx]
            tail: tuple[str, ...] = (f"{self._prefix}{dataloader_idx}_{batch_idx}_{index}.png",)
            if item.image_path:
                tail = _parts(item.image_path)[-self._tail_lengths.get(group, _SHORTEST_TAIL) :]
            file = self._root.joinpath(*map(_folder_name, filter(None, group)), *tail)
            if Image.registered_extensions().get(file.suffix.lower()) not in Image.SAVE:
                file = file.with_name(f"{file.name}.png")
            file.parent.mkdir(parents=True, exist_ok=True)
            self._saved += 1
            with atomic_open(file, sync=False) as content:
                visualization.save(content, format=Image.registered_extensions()[file.suffix.lower()])
            if self._left_to_log and (item.gt_label is None or item.gt_label):
                self._left_to_log -= 1
                name = file.relative_to(self._root).with_suffix("").as_posix()
                log_picture(trainer.loggers, f"test/{name}", visualization, trainer.global_step)

    def on_test_end(self, trainer: Trainer, pl_module: AnomalibModule) -> None:
        """Say where the pictures are."""
        if self._saved and trainer.is_global_zero:
            print(f"Result images: {self._root}")

    on_predict_end = on_test_end

    def _of_size(self, shape: Sequence[int]) -> ImageVisualizer:
        """Return a visualizer like this one whose fields have the size of a map ``(..., H, W)``."""
        height, width = shape[-2:]
        other = copy(self)
        size = max(1, self.text_config["size"] * width // self.field_size[0])
        other.field_size, other.text_config = (width, height), {**self.text_config, "size": size}
        return other


def _group_of(source: object, dataset: str) -> _Group:
    """Return dataset (the attribute of that name) and category of an item or datamodule, empty where unknown."""
    return getattr(source, dataset, None) or "", getattr(source, "category", None) or ""


def _folder_name(name: str) -> str:
    """Convert a name from the data to a valid folder name that does not lead out of the results."""
    plain = re.sub(r"[/\\\0]", "_", name)[:_LONGEST_NAME]
    if plain == name and name not in {".", ".."}:
        return name
    return f"{plain.strip('.')}_{digest({}, name)[:8]}"  # stays unique


def _parts(path: str | Path) -> tuple[str, ...]:
    """Split a path without its anchor and ``..``, so that the last parts do not lead out of a folder."""
    path = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links and change the user's names
    return path.relative_to(path.anchor).parts


def _tail_lengths(loaders: list, fallbacks: list[_Group]) -> dict[_Group, int]:
    """Return for each group the smallest number of last parts, at least two, that distinguishes all of its paths."""
    groups: dict[_Group, set[tuple[str, ...]]] = defaultdict(set)
    for loader, fallback in zip(loaders, fallbacks, strict=True):
        samples = getattr(getattr(loader, "dataset", None), "samples", None)
        names: Iterable[tuple[str, str]] = repeat(fallback)
        if samples is not None and {"dataset", "category"} <= {*samples}:
            names = zip(samples["dataset"], samples["category"], strict=True)
        for group, path in zip(names, image_paths(loader), strict=False):
            groups[group].add(_parts(path))
    lengths = dict.fromkeys(groups, _SHORTEST_TAIL)
    for group, paths in groups.items():
        while len({path[-lengths[group] :] for path in paths}) < len(paths):
            lengths[group] += 1
    return lengths


def log_picture(loggers: Iterable[Logger], name: str, picture: Image.Image, step: int) -> None:
    """Give a picture to every TensorBoard, W&B and MLflow logger (ours): anomalib's ``add_image`` differs in each."""
    pixels = np.asarray(picture)
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, pixels, step, dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            logger.log_image(name, [picture], step=step)
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_image(logger.run_id, pixels, f"{name}.png")
