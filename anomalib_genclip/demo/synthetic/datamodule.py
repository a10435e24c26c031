# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The rendered images as a datamodule: rendered once, then read by one of anomalib's datasets."""

import json
import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from anomalib.data.datamodules.base.image import AnomalibDataModule
from anomalib.data.datasets.image.mvtecad import MVTecADDataset
from anomalib.data.utils import Split, TestSplitMode, ValSplitMode
from joblib import Parallel, cpu_count, delayed
from rich.progress import track
from torchvision.transforms.v2 import Transform

from anomalib_genclip.utils.settings import NonNegativeInt, PositiveInt, RenderSize, checked

from .categories import CATEGORIES, DEFECTS_OF
from .render import render

logger = logging.getLogger(__name__)

# Incremented when the same seed gives other images, so that old images are rendered again.
RENDER_VERSION = 1
_RECIPE = "recipe.json"
_MOST_WORKERS = 8


def _write(path: Path, image: np.ndarray) -> None:
    """Write a PNG: RGB ``(S, S, 3)`` or grey ``(S, S)``, uint8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), image[..., ::-1] if image.ndim == 3 else image):
        msg = f"Could not write {path}."
        raise OSError(msg)


def _split_plan(category: str, recipe: dict[str, Any]) -> list[tuple[str, str | None, int]]:
    """List ``(folder, defect, count)`` of a category."""
    damaged = [(f"test/{kind}", kind, recipe["test_per_defect"]) for kind in DEFECTS_OF[category]]
    return [("train/good", None, recipe["train_good"]), ("test/good", None, recipe["test_good"]), *damaged]


def _read_recipe(folder: Path) -> dict[str, Any] | None:
    """Read the recipe of a rendered folder, ``None`` if there is none or it is unreadable."""
    try:
        return json.loads((folder / _RECIPE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def render_category(root: Path | str, category: str, recipe: dict[str, Any]) -> None:
    """Render a category in MVTec AD's layout.

    The folder is written atomically: to a temporary folder that is then renamed. Every image has its own random
    generator, so that it only depends on the recipe and its path.

    Args:
        root: Folder of the dataset.
        category: One of ``CATEGORIES``.
        recipe: ``seed``, ``size`` (pixels), ``train_good``, ``test_good``, ``test_per_defect``, ``version``, and
            ``defect_size`` (pixels) where it differs from ``size``.
    """
    cv2.setNumThreads(1)
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{category}-", dir=root))
    try:
        number = sum(ord(letter) * 31**place for place, letter in enumerate(category)) % 2**32
        for part, (folder, kind, count) in enumerate(_split_plan(category, recipe)):
            for k in range(count):
                rng = np.random.default_rng([recipe["seed"], number, part, k])
                image, mask = render(category, kind, recipe["size"], rng, recipe.get("defect_size"))
                _write(work / folder / f"{k:03}.png", image)
                if kind:
                    _write(work / "ground_truth" / kind / f"{k:03}_mask.png", mask)
        (work / _RECIPE).write_text(json.dumps(recipe, indent=2), encoding="utf-8")
        work.chmod(0o755)  # folders of mkdtemp are accessible by their owner only
        _move_into_place(work, root / category, recipe)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _move_into_place(work: Path, target: Path, recipe: dict[str, Any]) -> None:
    """Rename a finished folder; keep that of another process that was faster with the same recipe."""
    old = work.with_name(work.name + ".old")
    try:
        if target.exists():
            if _read_recipe(target) == recipe:
                return
            target.rename(old)
        work.rename(target)
    except OSError:
        if _read_recipe(target) != recipe:
            raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def render_dataset(root: Path | str, categories: tuple[str, ...], recipe: dict[str, Any]) -> None:
    """Render the categories that are missing or were rendered from another recipe.

    Args:
        root: Folder of the dataset.
        categories: Categories to render.
        recipe: See :func:`render_category`.

    Raises:
        FileExistsError: If a folder of that name was not rendered by this function.
    """
    root = Path(root)
    missing = [name for name in categories if _read_recipe(root / name) != recipe]
    for name in missing:
        if (root / name).exists() and _read_recipe(root / name) is None:
            msg = f"{root / name} was not rendered by SyntheticDefects and is left alone. Choose another root."
            raise FileExistsError(msg)
    if not missing:
        logger.debug("Found the synthetic dataset.")
        return
    # joblib's processes inherit no threads and no GPU context, and do not import the user's script, which may have no
    # guard for the main module.
    workers = min(len(missing), cpu_count(), _MOST_WORKERS)
    done = Parallel(workers, return_as="generator")(delayed(render_category)(root, name, recipe) for name in missing)
    for _ in track(done, "Rendering SyntheticDefects", total=len(missing)):
        pass


class SyntheticDefects(AnomalibDataModule):
    """Rendered textures and objects with defects and pixel masks.

    The first call of :meth:`prepare_data` renders all categories in MVTec AD's layout; the images depend only on the
    arguments. They are for tests and first steps without a download. Results on them do not transfer to photographs.

    Args:
        root (Path | str | None): Folder of the dataset.
            Defaults to ``"./datasets/SyntheticDefects"``.
        category (str): One of ``anomalib_genclip.demo.synthetic.CATEGORIES``.
            Defaults to ``"wood"``.
        render_size (int): Side of the images in pixels.
            Defaults to ``128``.
        defect_size (int | None): Side of an image in which the defects would have their usual share, in pixels:
            ``render_size=1024, defect_size=128`` gives large images with small defects.
            Defaults to ``None``: ``render_size``.
        train_good (int): Normal training images per category.
            Defaults to ``40``.
        test_good (int): Normal test images per category.
            Defaults to ``30``.
        test_per_defect (int): Test images per defect kind; every category has five kinds.
            Defaults to ``8``.
        render_seed (int): Seed of the images; ``seed`` is that of the splits, as in anomalib.
            Defaults to ``0``.
        train_batch_size (int): Training batch size.
            Defaults to ``32``.
        eval_batch_size (int): Test batch size.
            Defaults to ``32``.
        num_workers (int): Number of workers.
            Defaults to ``8``.
        train_augmentations (Transform | None): Augmentations of the training images.
            Defaults to ``None``.
        val_augmentations (Transform | None): Augmentations of the validation images.
            Defaults to ``None``.
        test_augmentations (Transform | None): Augmentations of the test images.
            Defaults to ``None``.
        augmentations (Transform | None): General augmentations if stage-specific ones are not given.
        test_split_mode (TestSplitMode): Method to create the test set.
            Defaults to ``TestSplitMode.FROM_DIR``.
        test_split_ratio (float): Fraction of data to use for testing.
            Defaults to ``0.2``.
        val_split_mode (ValSplitMode): Method to create the validation set. The default is anomalib's: validation
            on the test images.
            Defaults to ``ValSplitMode.SAME_AS_TEST``.
        val_split_ratio (float): Fraction of data to use for validation.
            Defaults to ``0.5``.
        seed (int | None): Seed of the splits.
            Defaults to ``None``.

    Example:
        >>> datamodule = SyntheticDefects(category="gear")
        >>> datamodule.prepare_data()
        >>> datamodule.setup()
        >>> next(iter(datamodule.test_dataloader())).image.shape
        torch.Size([32, 3, 128, 128])
    """

    def __init__(
        self,
        root: Path | str | None = "./datasets/SyntheticDefects",
        category: str = "wood",
        render_size: int = 128,
        defect_size: int | None = None,
        train_good: int = 40,
        test_good: int = 30,
        test_per_defect: int = 8,
        render_seed: int = 0,
        train_batch_size: int = 32,
        eval_batch_size: int = 32,
        num_workers: int = 8,
        train_augmentations: Transform | None = None,
        val_augmentations: Transform | None = None,
        test_augmentations: Transform | None = None,
        augmentations: Transform | None = None,
        test_split_mode: TestSplitMode | str = TestSplitMode.FROM_DIR,
        test_split_ratio: float = 0.2,
        val_split_mode: ValSplitMode | str = ValSplitMode.SAME_AS_TEST,
        val_split_ratio: float = 0.5,
        seed: int | None = None,
    ) -> None:
        checked("render_size", render_size, RenderSize)
        if defect_size is not None and checked("defect_size", defect_size, RenderSize) > render_size:
            msg = f"defect_size={defect_size} is larger than the images, whose render_size is {render_size}."
            raise ValueError(msg)
        for name, value in (("train_good", train_good), ("test_good", test_good), ("test_per_defect", test_per_defect)):
            checked(name, value, PositiveInt)
        checked("render_seed", render_seed, NonNegativeInt)
        checked("train_batch_size", train_batch_size, PositiveInt)
        checked("eval_batch_size", eval_batch_size, PositiveInt)
        checked("num_workers", num_workers, NonNegativeInt)
        super().__init__(
            train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            train_augmentations=train_augmentations,
            val_augmentations=val_augmentations,
            test_augmentations=test_augmentations,
            augmentations=augmentations,
            test_split_mode=test_split_mode,
            test_split_ratio=test_split_ratio,
            val_split_mode=val_split_mode,
            val_split_ratio=val_split_ratio,
            seed=seed,
        )
        if category not in CATEGORIES:
            msg = f"There is no synthetic category {category!r}. There are: {', '.join(CATEGORIES)}."
            raise ValueError(msg)
        self.root = Path(root or "./datasets/SyntheticDefects")
        self.category = category
        self.recipe = {
            "version": RENDER_VERSION,
            "seed": int(render_seed),
            "size": int(render_size),
            "train_good": int(train_good),
            "test_good": int(test_good),
            "test_per_defect": int(test_per_defect),
        }
        if defect_size is not None:
            self.recipe["defect_size"] = int(defect_size)

    def prepare_data(self) -> None:
        """Render all categories that are missing.

        Directory structure afterwards::

            datasets/
            └── SyntheticDefects/
                ├── weave/
                │   ├── train/good/000.png
                │   ├── test/good/000.png
                │   ├── test/hole/000.png
                │   ├── ground_truth/hole/000_mask.png
                │   └── recipe.json
                └── ...
        """
        render_dataset(self.root, CATEGORIES, self.recipe)

    def _setup(self, _stage: str | None = None) -> None:
        """Read the folders with anomalib's MVTec AD dataset.

        Raises:
            ValueError: If the images were rendered from another recipe.
        """
        if _read_recipe(self.root / self.category) != self.recipe:
            msg = (
                f"{self.root / self.category} has no images with these settings: {self.recipe}. Another "
                "SyntheticDefects has replaced them, or prepare_data() has not run. Give each its own root."
            )
            raise ValueError(msg)
        self.train_data = MVTecADDataset(split=Split.TRAIN, root=self.root, category=self.category)
        self.test_data = MVTecADDataset(split=Split.TEST, root=self.root, category=self.category)
