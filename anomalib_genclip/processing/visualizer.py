# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Visualization of each image, for loaders with several categories and datasets."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections import defaultdict
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomalib.visualization import ImageVisualizer
from PIL import Image

from anomalib_genclip.processing.loggers import log_picture
from anomalib_genclip.utils.distributed import processes
from anomalib_genclip.utils.files import atomic_write
from anomalib_genclip.utils.loaders import as_list, datamodule_of

# The model imports this module while anomalib.models may be partly imported.
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anomalib.data import ImageBatch, ImageItem
    from anomalib.models import AnomalibModule
    from lightning.pytorch import Trainer

_Group = tuple[str, str]  # dataset, category
_SHORTEST_TAIL = 2
_CAPTION_SHARE = 13  # width of a tile divided by the largest font size for which "Image + Anomaly Map" fits
_LOGGED = 8  # pictures per test that go to the loggers: enough to judge by, too few to slow the run
_LONGEST_NAME = 60  # of a folder, in characters of up to four bytes: file systems take 255 bytes


class CategoryVisualizer(ImageVisualizer):
    """Image visualizer that saves ``<output_dir>/<dataset>/<category>/<folder>/<file>``.

    Dataset and category are those of the batch, else those of the datamodule; unknown ones are left out. ``<folder>``
    is the image's parent folder, with as many further parents as are needed to distinguish all images of a category.
    anomalib's own visualizer only keeps the parent folder, so that images of two categories overwrite each other, and
    its captions may be wider than their tiles. It also keeps the folder of the first run for all later runs; this one
    reads it from the trainer each time, unless ``output_dir`` is given. In a distributed run all processes save to the
    folder of the first one, and images that the sampler repeats are saved once. With tiles, the fields have the size of
    the map, unless ``field_size`` is given.

    The first eight pictures of a test also go to the trainer's TensorBoard, W&B and MLflow loggers, normal images left
    out where labels are known.

    Args:
        **kwargs: Arguments of :class:`anomalib.visualization.ImageVisualizer`.

    Example:
        >>> from anomalib_genclip.processing.visualizer import CategoryVisualizer
        >>> visualizer = CategoryVisualizer(field_size=(128, 128))
    """

    def __init__(self, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(**kwargs)
        self._has_own_size = "field_size" in kwargs
        if self.text_config["size"] is None:  # anomalib's default truncates captions
            self.text_config["size"] = max(1, self.field_size[0] // _CAPTION_SHARE)
        self._root = Path()
        self._prefix = ""
        self._left_to_log = 0
        self._groups: list[_Group] = []  # of the loaders
        self._tail_lengths: dict[_Group, int] = {}

    def on_test_start(self, trainer: Trainer, pl_module: AnomalibModule) -> None:
        """Read all test paths, to give each image a unique file."""
        del pl_module
        self._start(trainer, trainer.test_dataloaders)
        self._left_to_log = _LOGGED

    def on_predict_start(self, trainer: Trainer, pl_module: AnomalibModule) -> None:
        """Read all prediction paths, to give each image a unique file."""
        del pl_module
        self._start(trainer, trainer.predict_dataloaders)
        self._left_to_log = 0

    def _start(self, trainer: Trainer, loaders: object) -> None:
        """Determine the folders and file names of the visualizations."""
        self._groups = [_datamodule_group(trainer, loader) for loader in as_list(loaders)]
        self._tail_lengths = _tail_lengths(as_list(loaders), self._groups)
        with processes() as others:
            root = self.output_dir if self.output_dir is not None else Path(trainer.default_root_dir) / "images"
            # anomalib creates a results folder for each process.
            self._root = Path(others.broadcast(str(root)))
            self._prefix = f"process{others.rank}_" if others.number > 1 else ""

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: AnomalibModule,
        outputs: ImageBatch,
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Save one visualization per image of the batch."""
        del outputs
        tiled = getattr(getattr(pl_module, "model", None), "tiler", None) is not None and not self._has_own_size
        for index, item in enumerate(batch):
            visualizer = self if item.anomaly_map is None or not tiled else self._of_size(item.anomaly_map.shape)
            visualization = visualizer.visualize(item)
            if not isinstance(visualization, Image.Image):
                continue
            group = _item_group(item, self._groups[dataloader_idx])
            # Images without a path are named by their position.
            tail = self._tail(item, group) or Path(f"{self._prefix}{dataloader_idx}_{batch_idx}_{index}.png")
            file = _with_known_ending(self._root.joinpath(*map(_folder_name, filter(None, group)), tail))
            file.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(file, _encoded(visualization, file.suffix), sync=False)
            if self._left_to_log and (item.gt_label is None or item.gt_label):
                self._left_to_log -= 1
                name = file.relative_to(self._root).with_suffix("").as_posix()
                log_picture(trainer.loggers, f"test/{name}", visualization, trainer.global_step)

    def _of_size(self, shape: Sequence[int]) -> ImageVisualizer:
        """Return a visualizer like this one whose fields have the size of a map ``(..., H, W)``."""
        height, width = shape[-2:]
        other = copy(self)
        size = max(1, self.text_config["size"] * width // self.field_size[0])
        other.field_size, other.text_config = (width, height), {**self.text_config, "size": size}
        return other

    def _tail(self, item: ImageItem, group: _Group) -> Path | None:
        """Return folder and file name of an item's visualization, ``None`` without a path."""
        if not item.image_path:
            return None
        return Path(*_parts(item.image_path)[-self._tail_lengths.get(group, _SHORTEST_TAIL) :])


def _encoded(image: Image.Image, suffix: str) -> bytes:
    """Encode an image in the format of a file's suffix."""
    content = io.BytesIO()
    image.save(content, format=Image.registered_extensions()[suffix.lower()])
    return content.getvalue()


def _datamodule_group(trainer: Trainer, loader: object) -> _Group:
    """Return name and category of the datamodule that a loader belongs to, empty if there is none."""
    datamodule = datamodule_of(trainer, loader)
    return getattr(datamodule, "name", None) or "", getattr(datamodule, "category", None) or ""


def _item_group(item: ImageItem, fallback: _Group) -> _Group:
    """Return an item's dataset and category, or the datamodule's if the item has none."""
    group = getattr(item, "dataset", None) or "", getattr(item, "category", None) or ""
    return group if any(group) else fallback


def _with_known_ending(file: Path) -> Path:
    """Add ``.png`` to the name of a file whose suffix is not that of a format that can be written."""
    known = Image.registered_extensions().get(file.suffix.lower()) in Image.SAVE
    return file if known else file.with_name(f"{file.name}.png")


def _folder_name(name: str) -> str:
    """Convert a name from the data to a valid folder name that does not lead out of the results."""
    plain = re.sub(r"[/\\\0]", "_", name)[:_LONGEST_NAME]
    if plain == name and name not in {".", ".."}:
        return name
    return f"{plain.strip('.')}_{hashlib.sha256(name.encode(errors='replace')).hexdigest()[:8]}"  # stays unique


def _parts(path: str | Path) -> tuple[str, ...]:
    """Split a path without its anchor and ``..``, so that the last parts do not lead out of a folder."""
    path = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links and change the user's names
    return path.relative_to(path.anchor).parts


def _tail_lengths(loaders: list, fallbacks: list[_Group]) -> dict[_Group, int]:
    """Return for each group the number of last parts that distinguish all of its paths."""
    groups: dict[_Group, set[tuple[str, ...]]] = defaultdict(set)
    for loader, fallback in zip(loaders, fallbacks, strict=True):
        for group, path in _known_paths(loader, fallback):
            groups[group].add(_parts(path))
    return {group: _shortest_unique_tail(paths) for group, paths in groups.items()}


def _shortest_unique_tail(paths: set[tuple[str, ...]]) -> int:
    """Return the smallest number of last parts, at least two, that distinguishes all paths."""
    length = _SHORTEST_TAIL
    while len({path[-length:] for path in paths}) < len(paths):
        length += 1
    return length


def _known_paths(loader: object, fallback: _Group) -> Iterator[tuple[_Group, str]]:
    """Yield group and path of each image of a loader, if its dataset lists them."""
    dataset = getattr(loader, "dataset", None)
    samples = getattr(dataset, "samples", None)
    if samples is not None and {"dataset", "category"} <= set(samples.columns):
        for row in samples[["dataset", "category", "image_path"]].itertuples(index=False):
            yield (row.dataset, row.category), row.image_path
    elif samples is not None:
        yield from ((fallback, path) for path in samples["image_path"])
    else:
        yield from ((fallback, path) for path in getattr(dataset, "image_filenames", []))
