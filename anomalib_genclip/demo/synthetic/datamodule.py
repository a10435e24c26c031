# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Rendering of images: scene, defect, light and camera; as a datamodule, rendered once, then read as MVTec AD is."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
from anomalib.data.datamodules.image.mvtecad import MVTecAD
from numpy.random import Generator
from rich.progress import track

from anomalib_genclip.utils.settings import NonNegativeInt, PositiveInt, RenderSize, checked

from .canvas import Canvas, fractal
from .defects import damage, damage_window
from .objects import OBJECTS
from .textures import TEXTURES

CATEGORIES = (*TEXTURES, *OBJECTS)
DEFECTS_OF = {name: kinds for name, (_, kinds) in (TEXTURES | OBJECTS).items()}

# Prompts are trained on the first group and tested on the second; settings are chosen on the third.
SOURCE = (
    "weave", "wood", "brushed_metal", "tile", "paper", "cork", "knit",
    "bolt", "washer", "pill", "circuit_board", "button", "battery", "label", "switch",
)  # fmt: skip
TARGET = (
    "leather", "grid", "concrete", "carpet", "perforated_sheet", "corrugated_cardboard", "honeycomb",
    "gear", "bottle_cap", "cable", "coin", "bearing", "biscuit", "capsule", "key",
)  # fmt: skip
TUNING = ("marble", "rubber_mat", "wicker", "nut", "fuse")

# The bundled demonstration CLIP was trained without images and names of these.
UNSEEN_BY_TINY = ("leather", "grid", "honeycomb", "gear", "cable", "biscuit", "marble", "fuse")

RENDER_VERSION = 1  # incremented when the same seed gives other images, so that old images are rendered again
_RECIPE = "recipe.json"


def light_and_camera(image: np.ndarray, rng: Generator, sharp_at: int | None = None) -> np.ndarray:
    """Apply light, tint, gamma, noise and, as to an image of side ``sharp_at``, blur to ``(S, S, 3)``: uint8."""
    size = image.shape[0]
    line = np.linspace(-1, 1, size, dtype=np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    slope = rng.uniform(0, 0.28) * (np.cos(angle) * line[None] + np.sin(angle) * line[:, None])
    vignette = rng.uniform(-0.05, 0.2) * (line[None] ** 2 + line[:, None] ** 2) / 2
    clouds = rng.uniform(0, 0.06) * fractal(rng, size, 2, 1)
    light = rng.uniform(0.75, 1.2) * (1 + slope - vignette + clouds)
    image = image * light[..., None] * rng.uniform(0.93, 1.07, 3).astype(np.float32)
    image = np.clip(image, 0, 1) ** rng.uniform(0.8, 1.25)
    sigma = rng.uniform(0, 0.8) * (sharp_at or size) / 128
    if sigma > 0.25:
        image = cv2.GaussianBlur(image, (0, 0), sigma)
    noise = rng.standard_normal((size, size, 3), dtype=np.float32) * rng.uniform(0.003, 0.03)
    return (np.clip(image + noise, 0, 1) * 255 + 0.5).astype(np.uint8)


def scene(category: str, size: int, rng: Generator) -> Canvas:
    """Paint an undamaged scene of a category in a random pose."""
    if category not in CATEGORIES:
        msg = f"There is no synthetic category {category!r}. There are: {', '.join(CATEGORIES)}."
        raise ValueError(msg)
    canvas = Canvas(size, rng, (0.7, 1.3), 0.5) if category in TEXTURES else Canvas(size, rng)
    if category in OBJECTS:
        canvas.backdrop()
    (TEXTURES | OBJECTS)[category][0](canvas, rng)
    canvas.image = np.clip(canvas.image, 0, 1).astype(np.float32)
    return canvas


def render(
    category: str, defect: str | None, size: int, rng: Generator, defect_size: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Render an image ``(S, S, 3)`` uint8 RGB and its mask ``(S, S)`` uint8, 255 where it is anomalous."""
    canvas = scene(category, size, rng)
    mask = np.zeros((size, size), np.uint8)
    if defect is not None:
        mask = damage(canvas, defect) if defect_size is None else damage_window(canvas, defect, defect_size)
    return light_and_camera(canvas.image, rng, defect_size), mask * np.uint8(255)


def _write(path: Path, image: np.ndarray) -> None:
    """Write a PNG: RGB ``(S, S, 3)`` or grey ``(S, S)``, uint8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", image[..., ::-1] if image.ndim == 3 else image)[1].tobytes())


class SyntheticDefects(MVTecAD):
    """Rendered textures and objects with defects and pixel masks.

    The first call of :meth:`prepare_data` renders the category in MVTec AD's layout; the images depend only on the
    arguments. Metrics on them say little about photographs.

    Args:
        root (Path | str | None): Folder of the dataset. Defaults to ``"./datasets/SyntheticDefects"``.
        category (str): One of ``anomalib_genclip.demo.synthetic.CATEGORIES``. Defaults to ``"wood"``.
        render_size (int): Side of the images in pixels. Defaults to ``128``.
        defect_size (int | None): Side of an image in which the defects would have their usual share, in pixels: 128
            with a render_size of 1024 gives large images with small defects. Defaults to ``None``: ``render_size``.
        train_good (int): Normal training images per category. Defaults to ``40``.
        test_good (int): Normal test images per category. Defaults to ``30``.
        test_per_defect (int): Test images per defect kind; every category has five kinds. Defaults to ``8``.
        render_seed (int): Seed of the images; ``seed`` is that of the splits, as in anomalib. Defaults to ``0``.
        **kwargs: Batch sizes, workers, augmentations and splits, as of anomalib's ``MVTecAD``.
    """

    on_demand = True  # CrossDataset need not find a category on disk: it is rendered when it is asked for

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
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(root or "./datasets/SyntheticDefects", category, **kwargs)
        checked("train_batch_size", self.train_batch_size, PositiveInt)
        checked("eval_batch_size", self.eval_batch_size, PositiveInt)
        checked("num_workers", self.num_workers, NonNegativeInt)
        if category not in CATEGORIES:
            msg = f"There is no synthetic category {category!r}. There are: {', '.join(CATEGORIES)}."
            raise ValueError(msg)
        self.recipe = {
            "version": RENDER_VERSION,
            "seed": checked("render_seed", render_seed, NonNegativeInt),
            "size": checked("render_size", render_size, RenderSize),
            "train_good": checked("train_good", train_good, PositiveInt),
            "test_good": checked("test_good", test_good, PositiveInt),
            "test_per_defect": checked("test_per_defect", test_per_defect, PositiveInt),
        }
        if defect_size is not None:
            self.recipe["defect_size"] = checked("defect_size", defect_size, RenderSize)
            if defect_size > render_size:
                msg = f"defect_size={defect_size} is larger than the images, whose render_size is {render_size}."
                raise ValueError(msg)

    @property
    def _found(self) -> dict[str, Any] | None:
        """Recipe of the rendered folder, ``None`` if there is none."""
        path = self.root / self.category / _RECIPE
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def prepare_data(self) -> None:
        """Render the category atomically if it is missing or outdated; ``FileExistsError`` for another folder there."""
        target = self.root / self.category
        if self._found == self.recipe:
            return
        if self._found is None and target.exists():
            msg = f"{target} was not rendered by SyntheticDefects and is left alone. Choose another root."
            raise FileExistsError(msg)
        self.root.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{self.category}-", dir=self.root) as folder:
            work = Path(folder) / self.category
            self._render(work)
            (work / _RECIPE).write_text(json.dumps(self.recipe, indent=2), encoding="utf-8")
            try:
                if self._found != self.recipe and target.exists():
                    target.rename(work.with_name("old"))
                work.rename(target)
            except OSError:
                if self._found != self.recipe:  # else another process was faster
                    raise

    def _render(self, folder: Path) -> None:
        """Render the images; each has its own random generator and depends only on the recipe and its path."""
        recipe, number = self.recipe, sum(ord(letter) * 31**place for place, letter in enumerate(self.category)) % 2**32
        kinds: list[str | None] = [None, None, *DEFECTS_OF[self.category]]
        counts = [recipe["train_good"], recipe["test_good"]] + [recipe["test_per_defect"]] * (len(kinds) - 2)
        plan = [(part, kinds[part], k) for part, count in enumerate(counts) for k in range(count)]
        for part, kind, k in track(plan, f"Rendering {self.category}", transient=True):
            rng = np.random.default_rng([recipe["seed"], number, part, k])
            image, mask = render(self.category, kind, recipe["size"], rng, recipe.get("defect_size"))
            _write(folder / ("test" if part else "train") / (kind or "good") / f"{k:03}.png", image)
            if kind:
                _write(folder / "ground_truth" / kind / f"{k:03}_mask.png", mask)

    def _setup(self, _stage: str | None = None) -> None:
        """Read the folders; raise a ``ValueError`` if the images were rendered from another recipe."""
        if self._found != self.recipe:
            why = "Another SyntheticDefects has replaced them, or prepare_data() has not run. Give each its own root."
            msg = f"{self.root / self.category} has no images with these settings: {self.recipe}. {why}"
            raise ValueError(msg)
        super()._setup(_stage)
