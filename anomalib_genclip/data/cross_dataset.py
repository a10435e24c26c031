# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The zero-shot protocol as a datamodule: train on labelled images of some datasets, test on others."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from anomalib import TaskType
from anomalib.data import AnomalibDataModule
from anomalib.data.datamodules.base.video import AnomalibVideoDataModule
from anomalib.data.utils import LabelName, TestSplitMode, ValSplitMode
from omegaconf import OmegaConf
from torchvision.transforms.v2 import Transform

from anomalib_genclip.data.categories import (
    category_of,
    check_categories,
    describe,
    expand,
    folders_on_disk,
    to_download,
    warn_about_missing,
)
from anomalib_genclip.data.category_dataset import CategoryDataset, CategoryPart
from anomalib_genclip.utils.settings import NonNegativeInt, OpenUnitFloat, PositiveInt, checked
from anomalib_genclip.utils.text import summarize

logger = logging.getLogger(__name__)

HeldOut = Literal["images", "categories"]


class CrossDataset(AnomalibDataModule):
    r"""Datamodule that trains on a source and tests on a target.

    - Training: the source's whole labelled test split (normal and anomalous images, with masks), whatever its
      ``val_split_mode``, without the held-out share.
    - Validation: the held-out share of the source, so that thresholds do not depend on the target. At least one image
      of each label of each category is held out, unless it is the only one.
    - Test and predict: the target's whole test split.

    Source and target are anomalib image datamodules. Only their data is used: batch sizes, workers and augmentations
    are those of this datamodule. Every item has its category and the name of its dataset. A datamodule without
    categories (``Folder``, ``Kolektor``) is one category with the datamodule's ``name``.

    Args:
        source (AnomalibDataModule | list[AnomalibDataModule]): Data to train on.
        target (AnomalibDataModule | list[AnomalibDataModule]): Data to test on.
        source_categories (list[str] | Literal["all"] | None): Categories of the source. ``"all"`` means the dataset's
            known categories that are on disk; ``None`` each datamodule's own. Defaults to ``None``.
        target_categories (list[str] | Literal["all"] | None): Likewise for the target. Defaults to ``None``.
        train_batch_size (int): Training batch size. Defaults to ``8``.
        eval_batch_size (int): Validation and test batch size. Defaults to ``32``.
        num_workers (int): Number of workers of each loader. Defaults to ``8``.
        train_augmentations (Transform | None): Augmentations of the training images. Defaults to ``None``.
        val_augmentations (Transform | None): Augmentations of the validation images. Defaults to ``None``.
        test_augmentations (Transform | None): Augmentations of the test images. Defaults to ``None``.
        augmentations (Transform | None): Augmentations where no specific ones are given. Defaults to ``None``.
        val_split_mode (str): What is held out of the source for validation: ``"images"`` of every category, or whole
            ``"categories"``, so that thresholds are chosen on categories that the prompts have not seen.
            Defaults to ``"images"``.
        val_split_ratio (float): Share of the images or categories that is held out, between 0 and 1.
            Defaults to ``0.1``.
        seed (int): Seed of the held-out share, and of the splits of sources and targets without a seed.
            Defaults to ``0``.

    Raises:
        TypeError: If a source or target is not an image datamodule.
        ValueError: If there is no source or target, or a setting is out of range.

    Example:
        >>> from anomalib.data import MVTecAD, Visa
        >>> from anomalib_genclip.data import CrossDataset
        >>> datamodule = CrossDataset(
        ...     source=Visa(), source_categories="all",
        ...     target=MVTecAD(), target_categories=["bottle", "cable"],
        ... )
        >>> datamodule.name
        'Visa_to_MVTecAD'

        From the command line::

            anomalib train --model GenCLIP --data CrossDataset \
                --data.source Visa --data.source_categories all \
                --data.target MVTecAD --data.target.category bottle
    """

    def __init__(
        self,
        source: AnomalibDataModule | list[AnomalibDataModule],
        target: AnomalibDataModule | list[AnomalibDataModule],
        source_categories: list[str] | Literal["all"] | None = None,
        target_categories: list[str] | Literal["all"] | None = None,
        train_batch_size: int = 8,
        eval_batch_size: int = 32,
        num_workers: int = 8,
        train_augmentations: Transform | None = None,
        val_augmentations: Transform | None = None,
        test_augmentations: Transform | None = None,
        augmentations: Transform | None = None,
        val_split_mode: HeldOut = "images",
        val_split_ratio: float = 0.1,
        seed: int = 0,
    ) -> None:
        val_split_ratio = checked("val_split_ratio", val_split_ratio, OpenUnitFloat)
        checked("train_batch_size", train_batch_size, PositiveInt)
        checked("eval_batch_size", eval_batch_size, PositiveInt)
        checked("num_workers", num_workers, NonNegativeInt)
        checked("seed", 0 if seed is None else seed, NonNegativeInt)
        super().__init__(
            train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            train_augmentations=train_augmentations,
            val_augmentations=val_augmentations,
            test_augmentations=test_augmentations,
            augmentations=augmentations,
            val_split_mode=ValSplitMode.NONE,
            val_split_ratio=val_split_ratio,
            test_split_mode=TestSplitMode.NONE,
            seed=seed,
        )
        self._held_out = checked("val_split_mode", val_split_mode, HeldOut)
        self.source = _as_image_datamodules(source, "source")
        self.target = _as_image_datamodules(target, "target")
        self.source_categories = check_categories(_plain(source_categories), "source_categories")
        self.target_categories = check_categories(_plain(target_categories), "target_categories")

    @property
    def name(self) -> str:
        """Name of the protocol, for example ``"Visa_to_MVTecAD"``; names the results folder."""
        source, target = ("+".join(dict.fromkeys(part.name for part in side)) for side in (self.source, self.target))
        return f"{source}_to_{target}"

    def prepare_data(self) -> None:
        """Let each source and target download and convert missing data, as in anomalib.

        Raises:
            RuntimeError: If that fails; names the dataset, its root and the cause.
            ValueError: If a category is missing.
        """
        for datamodules, categories, option in self._sides():
            # The categories are only known after the download.
            for part in to_download(datamodules) if categories == "all" else []:
                _call(part, "prepare_data", option)
            for part in expand(datamodules, categories, option):
                _call(part, "prepare_data", option)

    def _setup(self, _stage: str | None = None) -> None:
        """Create the three subsets."""
        for datamodules, categories, option in self._sides():
            if categories == "all":
                warn_about_missing(datamodules, option)
        seed = self.seed or 0
        sides = [(expand(parts, categories, option), option) for parts, categories, option in self._sides()]
        source, target = (_load(parts, seed, option) for parts, option in sides)
        # Few-shot references are drawn from these, never from test images.
        self.normal_images = [(category_of(part), getattr(part, "train_data", None)) for part in sides[1][0]]
        _require_anomalies(source)
        _warn_without_normal(source)
        _require_masks(source)
        _warn_about_ignored_augmentations([*self.source, *self.target])
        _warn_about_shared_images(source, target)
        labelled = CategoryDataset(source, TaskType.SEGMENTATION, split="train")
        draw = _held_out_categories if self._held_out == "categories" else _held_out_images
        held_out = draw(labelled, self.val_split_ratio, seed)
        self.train_data = labelled.subsample([row for row in range(len(labelled)) if row not in held_out])
        self.val_data = labelled.subsample(sorted(held_out))
        self.val_data.samples["split"] = "val"
        self.test_data = CategoryDataset(target, _target_task(target), split="test")
        for what, data in (("Training", self.train_data), ("Validation", self.val_data), ("Test", self.test_data)):
            groups = data.samples.groupby(["dataset", "category"])
            logger.info("%s: %d images of %d categories.", what, len(data), groups.ngroups)

    def _create_test_split(self) -> None:
        """Keep the subsets; the base class would drop the normal test images."""

    def _create_val_split(self) -> None:
        """Keep the subsets; the validation set is the source's held-out share."""

    def _sides(self) -> list[tuple[list[AnomalibDataModule], list[str] | Literal["all"] | None, str]]:
        """Return datamodules, categories and name of the option for source and target."""
        return [
            (self.source, self.source_categories, "source_categories"),
            (self.target, self.target_categories, "target_categories"),
        ]


def _as_image_datamodules(
    value: AnomalibDataModule | list[AnomalibDataModule],
    option: str,
) -> list[AnomalibDataModule]:
    """Return a non-empty list of image datamodules.

    anomalib's ``get_datamodule``, and with it ``anomalib benchmark``, passes nested settings as dictionaries, which
    are converted to datamodules here.
    """
    value = _plain(value)
    values = list(value) if isinstance(value, list | tuple) else [value]
    from anomalib.data import get_datamodule  # not yet defined when this module is imported

    datamodules = [get_datamodule(item) if isinstance(item, dict) else item for item in values]
    if not datamodules:
        msg = f"{option} must name at least one datamodule."
        raise ValueError(msg)
    for datamodule in datamodules:
        if not isinstance(datamodule, AnomalibDataModule) or isinstance(datamodule, AnomalibVideoDataModule):
            msg = f"{option} must be anomalib image datamodules, got {type(datamodule).__name__}."
            raise TypeError(msg)
    return datamodules


def _plain(value: Any) -> Any:  # noqa: ANN401
    """Convert OmegaConf's containers to Python's; return all other values unchanged."""
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _call(datamodule: AnomalibDataModule, method: Literal["prepare_data", "setup"], option: str) -> None:
    """Call a method of a source or target; an error names the dataset and the folders under its root."""
    try:
        getattr(datamodule, method)()
    except Exception as error:
        there = ", ".join(folders_on_disk(datamodule)) or "no folders"
        side = option.removesuffix("_categories")
        hints = {
            "prepare_data": "If the dataset could not be downloaded, put it there yourself.",
            "setup": "Is it complete? Each anomalous image needs a mask file of its own, and each mask its image.",
        }
        msg = (
            f"{method}() of the {side} {describe(datamodule)} failed: {type(error).__name__}: {error}. "
            f"Folders under its root: {there}. {hints[method]}"
        )
        raise RuntimeError(msg) from error


def _load(datamodules: list[AnomalibDataModule], seed: int, option: str) -> list[CategoryPart]:
    """Set the datamodules up and return their whole test splits."""
    for datamodule in datamodules:
        datamodule.val_split_mode = ValSplitMode.NONE
        # Some datamodules (RealIAD, MVTecAD2) default to a mode that drops the normal images.
        datamodule.test_split_mode = TestSplitMode.FROM_DIR
        # A Folder without normal test images samples them; the seed makes that reproducible.
        datamodule.seed = seed if datamodule.seed is None else datamodule.seed
        # A datamodule that has been set up before would keep its former category.
        datamodule._is_setup = False  # noqa: SLF001
        _call(datamodule, "setup", option)
    return [CategoryPart(part.name, category_of(part), part.test_data) for part in datamodules]


def _anomalous_without_mask(part: CategoryPart) -> list[str]:
    """Return the anomalous images whose mask is not on disk."""
    samples = part.data.samples
    anomalous = samples[samples.label_index == LabelName.ABNORMAL]
    masks = anomalous["mask_path"] if "mask_path" in anomalous else [None] * len(anomalous)
    return [image for image, mask in zip(anomalous["image_path"], masks, strict=True) if not _exists(mask)]


def _exists(mask_path: object) -> bool:
    """Return whether all masks of an image (MVTec LOCO has several) are on disk."""
    paths = mask_path if isinstance(mask_path, list) else [mask_path]
    return bool(paths) and all(isinstance(path, str | Path) and Path(path).is_file() for path in paths)


def _names(parts: Iterable[CategoryPart]) -> str:
    """List the names of parts for a message."""
    return ", ".join(f"{part.dataset}/{part.category}" for part in parts)


def _require_anomalies(source: list[CategoryPart]) -> None:
    """Raise if a source category has no anomalous images."""
    if clean := [part for part in source if not part.data.has_anomalous]:
        msg = f"No anomalous images in the test split of the source {_names(clean)}: training needs some."
        raise ValueError(msg)


def _warn_without_normal(source: list[CategoryPart]) -> None:
    """Warn if the source has no normal images."""
    if not any(part.data.has_normal for part in source):
        logger.warning(
            "No normal images in the test split of the source %s: the threshold on image scores is meaningless, and "
            "the weight of the CLS token in them keeps its default.",
            _names(source),
        )


def _require_masks(source: list[CategoryPart]) -> None:
    """Raise if an anomalous source image has no mask."""
    for part in source:
        if images := _anomalous_without_mask(part):
            msg = (
                f"{len(images)} anomalous images of the source {_names([part])} have no mask: {summarize(images)}. "
                "Training needs a mask for each; for a Folder, give mask_dir."
            )
            raise ValueError(msg)


def _target_task(target: list[CategoryPart]) -> TaskType:
    """Return segmentation if every anomalous target image has a mask, else classification."""
    without = [part for part in target if _anomalous_without_mask(part)]
    if not without:
        return TaskType.SEGMENTATION
    logger.warning("Only image metrics: anomalous images of the target %s have no masks.", _names(without))
    return TaskType.CLASSIFICATION


def _warn_about_ignored_augmentations(datamodules: list[AnomalibDataModule]) -> None:
    """Warn that augmentations of source and target are not used."""
    kinds = ("train_augmentations", "val_augmentations", "test_augmentations")
    if named := [part.name for part in datamodules if any(getattr(part, kind) is not None for kind in kinds)]:
        logger.warning("Augmentations of %s are not used: give them to CrossDataset.", ", ".join(named))


def _warn_about_shared_images(source: list[CategoryPart], target: list[CategoryPart]) -> None:
    """Warn about files that are in both source and target."""
    if shared := sorted(_files(source) & _files(target)):
        logger.warning(
            "%d images are in both the source and the target, so this is not a zero-shot test: %s.",
            len(shared),
            summarize(shared),
        )


def _files(parts: list[CategoryPart]) -> set[Path]:
    """Return the image files, with links resolved."""
    return {Path(path).resolve() for part in parts for path in part.data.samples.image_path}


def _held_out_images(data: CategoryDataset, ratio: float, seed: int) -> set[int]:
    """Draw the validation share of each (dataset, category, label) group.

    Each group is drawn independently, so that its share does not depend on the other categories.

    Args:
        data (CategoryDataset): All labelled source images.
        ratio (float): Share to draw; at least one image of each group of two or more, never all of them.
        seed (int): Seed of the draw.

    Returns:
        set[int]: Rows of ``data.samples``.
    """
    held_out: set[int] = set()
    for rows in data.samples.groupby(["dataset", "category", "label_index"]).groups.values():
        count = min(max(round(len(rows) * ratio), 1), len(rows) - 1)
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
        held_out.update(int(rows[i]) for i in order[:count].tolist())
    return held_out


def _held_out_categories(data: CategoryDataset, ratio: float, seed: int) -> set[int]:
    """Draw whole categories for validation: at least one, never all of them.

    Args:
        data (CategoryDataset): All labelled source images.
        ratio (float): Share of the categories.
        seed (int): Seed of the draw.

    Returns:
        set[int]: Rows of ``data.samples``.

    Raises:
        ValueError: If there is only one category.
    """
    groups = data.samples.groupby(["dataset", "category"]).groups
    if len(groups) < 2:
        only = "/".join(next(iter(groups)))
        msg = (
            f"val_split_mode='categories' needs two or more source categories, there is {only}. "
            "Add categories to the source, or use val_split_mode='images'."
        )
        raise ValueError(msg)
    count = min(max(round(len(groups) * ratio), 1), len(groups) - 1)
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed))
    chosen = [list(groups)[i] for i in order[:count].tolist()]
    return {int(row) for category in chosen for row in groups[category]}
