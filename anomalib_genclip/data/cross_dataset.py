# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The zero-shot protocol as a datamodule: train on labelled images of some datasets, test on others."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd
import torch
from anomalib import TaskType
from anomalib.data import AnomalibDataModule
from anomalib.data.datamodules.base.video import AnomalibVideoDataModule
from anomalib.data.utils import LabelName, TestSplitMode, ValSplitMode
from omegaconf import OmegaConf
from torchvision.transforms.v2 import Transform

from anomalib_genclip.utils.files import is_file, why_unreadable
from anomalib_genclip.utils.loaders import as_list, category_of
from anomalib_genclip.utils.messages import counted, summarize
from anomalib_genclip.utils.settings import NonNegativeInt, OpenUnitFloat, PositiveInt, checked

from .categories import check_categories, expand_each, folders_on_disk, full_name, to_download, warn_about_missing
from .category_dataset import CategoryDataset, CategoryPart

logger = logging.getLogger(__name__)

HeldOut = Literal["images", "categories"]
Side = Literal["source", "target"]


class CrossDataset(AnomalibDataModule):
    """Datamodule that trains on a source and tests on a target.

    - Training: the source's whole labelled test split, with masks, without the held-out share.
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
        held_out (str): What is held out of the source for validation: ``"images"`` of every category, or whole
            ``"categories"``, so that thresholds are chosen on unseen categories. Defaults to ``"images"``.
        val_split_ratio (float): Share of images or categories that is held out, between 0 and 1. Defaults to ``0.1``.
        seed (int): Seed of the held-out share, and of splits of datamodules without one. Defaults to ``0``.
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
        held_out: HeldOut = "images",
        val_split_ratio: float = 0.1,
        seed: int = 0,
    ) -> None:
        checked("seed", seed, NonNegativeInt | None)
        super().__init__(
            train_batch_size=checked("train_batch_size", train_batch_size, PositiveInt),
            eval_batch_size=checked("eval_batch_size", eval_batch_size, PositiveInt),
            num_workers=checked("num_workers", num_workers, NonNegativeInt),
            train_augmentations=train_augmentations,
            val_augmentations=val_augmentations,
            test_augmentations=test_augmentations,
            augmentations=augmentations,
            val_split_ratio=checked("val_split_ratio", val_split_ratio, OpenUnitFloat),
            seed=seed,
        )
        self.held_out = checked("held_out", held_out, HeldOut)
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
        """Let each source and target download and convert missing data; an error names the dataset and its root."""
        for side in get_args(Side):
            # The categories are only known after the download.
            for part in to_download(getattr(self, side)) if getattr(self, f"{side}_categories") == "all" else []:
                _call(part, "prepare_data", side)
            for part in self._parts(side):
                _call(part, "prepare_data", side)

    def _setup(self, _stage: str | None = None) -> None:
        """Create the three subsets."""
        for side in get_args(Side):
            if getattr(self, f"{side}_categories") == "all":
                warn_about_missing(getattr(self, side), f"{side}_categories")
        seed, targets = self.seed or 0, self._parts("target")
        source, target = _load(self._parts("source"), seed, "source"), _load(targets, seed, "target")
        # Few-shot references are drawn from these, never from test images.
        self.normal_images = [(category_of(part), getattr(part, "train_data", None)) for part in targets]
        _check_source(source)
        _warn([*self.source, *self.target], source, target)
        labelled = CategoryDataset(source, TaskType.SEGMENTATION, split="train")
        held_out = _draw_held_out(labelled.samples, self.held_out, self.val_split_ratio, seed)
        self.train_data = labelled.subsample([row for row in range(len(labelled)) if row not in held_out])
        self.val_data = labelled.subsample(sorted(held_out))
        self.val_data.samples["split"], self.val_data.ignores = "val", False
        self.test_data = CategoryDataset(target, _target_task(target), split="test")
        for what, data in (("Training", self.train_data), ("Validation", self.val_data), ("Test", self.test_data)):
            groups = data.samples.groupby(["dataset", "category"])
            logger.info("%s: %s, number of categories: %d.", what, counted(len(data), "image"), groups.ngroups)

    def _create_test_split(self) -> None:
        """Keep the subsets; the base class would drop the normal test images and split again."""

    _create_val_split = _create_test_split

    def _parts(self, side: Side) -> list[AnomalibDataModule]:
        """Return one datamodule per category of the source or target."""
        option = f"{side}_categories"
        return [part for own in expand_each(getattr(self, side), getattr(self, option), option) for part in own]


def _as_image_datamodules(value: Any, option: Side) -> list[AnomalibDataModule]:  # noqa: ANN401
    """Return a non-empty list of image datamodules; ``anomalib benchmark`` passes dictionaries, which are converted."""
    from anomalib.data import get_datamodule  # not yet defined when this module is imported

    values = [get_datamodule(item) if isinstance(item, dict) else item for item in as_list(_plain(value))]
    if not values:
        msg = f"{option} must name at least one datamodule."
        raise ValueError(msg)
    for datamodule in values:
        if not isinstance(datamodule, AnomalibDataModule) or isinstance(datamodule, AnomalibVideoDataModule):
            msg = f"{option} must be anomalib image datamodules, got {type(datamodule).__name__}."
            raise TypeError(msg)
    return values


def _plain(value: Any) -> Any:  # noqa: ANN401
    """Convert OmegaConf's containers to Python's; return all other values unchanged."""
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _call(datamodule: AnomalibDataModule, method: Literal["prepare_data", "setup"], side: Side) -> None:
    """Call a method of a source or target; an error names the dataset and the folders under its root."""
    try:
        getattr(datamodule, method)()
    except Exception as error:
        complete = "Is it complete? Each anomalous image needs a mask file of its own, and each mask its image."
        hint = complete if method == "setup" else "If the dataset could not be downloaded, put it there yourself."
        reason = f"{type(error).__name__}: {why_unreadable(error)}"
        there = ", ".join(folders_on_disk(datamodule)) or "none"
        msg = f"{method}() of the {side} {full_name(datamodule)} failed: {reason}. Folders there: {there}. {hint}"
        raise RuntimeError(msg) from error


def _load(datamodules: list[AnomalibDataModule], seed: int, side: Side) -> list[CategoryPart]:
    """Set the datamodules up and return their whole test splits."""
    for datamodule in datamodules:
        datamodule.val_split_mode = ValSplitMode.NONE
        datamodule.test_split_mode = TestSplitMode.FROM_DIR  # some (RealIAD, MVTecAD2) would drop the normal images
        datamodule.seed = seed if datamodule.seed is None else datamodule.seed  # a Folder may draw its test images
        datamodule._is_setup = False  # noqa: SLF001  # else it keeps the category of an earlier setup
        _call(datamodule, "setup", side)
    rooted = [(part, getattr(part, "root", None) if side == "source" else None) for part in datamodules]
    return [CategoryPart(part.name, category_of(part), part.test_data, root and Path(root)) for part, root in rooted]


def _names(parts: Iterable[CategoryPart]) -> str:
    return ", ".join(f"{part.dataset}/{part.category}" for part in parts)


def _anomalous_without_mask(part: CategoryPart) -> list[str]:
    """Return the anomalous images one of whose masks (MVTec LOCO has several for an image) is not on disk."""
    samples = part.data.samples
    rows = samples[samples.label_index == LabelName.ABNORMAL].reindex(columns=["image_path", "mask_path"])
    return [image for image, masks in rows.itertuples(index=False) if not all(map(is_file, as_list(masks) or [""]))]


def _check_source(source: list[CategoryPart]) -> None:
    if clean := [part for part in source if not part.data.has_anomalous]:
        msg = f"No anomalous images in the test split of the source {_names(clean)}: training needs some."
        raise ValueError(msg)
    for part in source:
        if images := _anomalous_without_mask(part):
            what = f"Without a mask in the source {_names([part])}: {counted(len(images), 'anomalous image')}"
            msg = f"{what}: {summarize(images)}. Training needs a mask for each; for a Folder, give mask_dir."
            raise ValueError(msg)
    if not any(part.data.has_normal for part in source):
        text = "No normal images in the test split of the source %s: the threshold on image scores is meaningless."
        logger.warning(text, _names(source))


def _target_task(target: list[CategoryPart]) -> TaskType:
    """Return segmentation if every anomalous target image has a mask, else classification."""
    if without := [part for part in target if _anomalous_without_mask(part)]:
        logger.warning("Only image metrics: anomalous images of the target %s have no masks.", _names(without))
        return TaskType.CLASSIFICATION
    return TaskType.SEGMENTATION


def _warn(datamodules: list[AnomalibDataModule], *sides: list[CategoryPart]) -> None:
    """Warn of augmentations that are not used, and of images in both the source and the target."""
    kinds = ("train_augmentations", "val_augmentations", "test_augmentations")
    if named := [part.name for part in datamodules if any(getattr(part, kind) is not None for kind in kinds)]:
        logger.warning("Augmentations of %s are not used: give them to CrossDataset.", ", ".join(named))
    files = [{Path(file).resolve() for part in side for file in part.data.samples.image_path} for side in sides]
    if shared := sorted(set.intersection(*files)):
        text = "In both the source and the target, so this is not a zero-shot test: %s: %s."
        logger.warning(text, counted(len(shared), "image"), summarize(shared))


def _draw_held_out(samples: pd.DataFrame, unit: HeldOut, ratio: float, seed: int) -> set[int]:
    """Draw the rows of ``samples`` to validate with: some of each group of two or more, whatever other groups are."""

    def drawn(count: int) -> list[int]:
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        return order[: min(max(round(count * ratio), 1), count - 1)].tolist()

    if unit == "images":
        by_label = samples.groupby(["dataset", "category", "label_index"]).groups.values()
        return {int(rows[i]) for rows in by_label for i in drawn(len(rows))}
    categories = list(samples.groupby(["dataset", "category"]).groups.items())
    if len(categories) < 2:
        what = f"held_out='categories' needs two or more source categories, there is {'/'.join(categories[0][0])}"
        msg = f"{what}. Add categories to the source, or use held_out='images'."
        raise ValueError(msg)
    return {int(row) for i in drawn(len(categories)) for row in categories[i][1]}
