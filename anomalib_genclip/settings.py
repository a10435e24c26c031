# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Groups of GenCLIP's arguments: training and tiles. Imports no heavy module."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from .utils.settings import NonNegativeFloat, PositiveInt, UnitFloat, check_fields, checked, checked_path

if TYPE_CHECKING:
    from anomalib.data.utils.tiler import Tiler

logger = logging.getLogger(__name__)

AnomalySource = Literal["auto", "labels", "synthetic"]
EPOCHS = 15
Settings = TypeVar("Settings")


@dataclass(frozen=True)
class TrainingSettings:
    """How GenCLIP is trained; a ``ValueError`` names an invalid setting.

    Args:
        learning_rate (float): Adam's initial learning rate for prompts and ``φ``; it decays linearly to zero.
        projection_learning_rate (float): The same for ``ψ``.
        query_only_prob (float): Share of training images with the query-only prompt (ours; 0 in the paper).
        vision_dropout (float): Share of vision prompts that are dropped, by image and layer (ours; 0 in the paper).
        image_loss_weight (float): Weight of the cross-entropy on the CLS token (ours; 0 in the paper).
        anomaly_source (str): Source of anomalous training images: ``"labels"`` of the training set, ``"synthetic"``
            (anomalib's Perlin generator on normal images), or ``"auto"``: labels if the set has anomalous images.
        epochs (int): Epochs of a run whose trainer has no limit; Lightning's default of 1000 counts as none.
        feature_cache (str | None): Folder for the vision tower's outputs, so that training runs the tower once per
            image instead of once per epoch. It needs a datamodule without random augmentation, and disk space: 11 MB
            per image for ViT-L/14 at 518 px, 1.3 MB for ViT-B/16 at 224 px.
    """

    learning_rate: NonNegativeFloat = 1e-3
    projection_learning_rate: NonNegativeFloat = 1e-3
    query_only_prob: UnitFloat = 0.3
    vision_dropout: UnitFloat = 0.5
    image_loss_weight: NonNegativeFloat = 0.5
    anomaly_source: AnomalySource = "auto"
    epochs: PositiveInt = EPOCHS
    feature_cache: str | None = None

    def __post_init__(self) -> None:
        """Check the settings and convert them to plain types."""
        check_fields(self)
        object.__setattr__(self, "feature_cache", checked_path("feature_cache", self.feature_cache))


@dataclass(frozen=True)
class TileSettings:
    """Overlapping tiles that large images are cut into; a ``ValueError`` names an invalid setting.

    Args:
        size (int | Sequence[int]): Side, or height and width, of a tile, in pixels.
        stride (int | Sequence[int] | None): Maximum step from tile to tile. Defaults to ``None``: ¾ of ``size``.
        working_size (int | Sequence[int] | None): Longer side, or height and width, that images are scaled to before
            they are cut. Defaults to ``None``: their own size.
        batch_size (int): Tiles that the model sees at once, which bounds memory.
    """

    size: int | list[int]
    stride: int | list[int] | None = None
    working_size: int | list[int] | None = None
    batch_size: PositiveInt = 16

    def __post_init__(self) -> None:
        """Check the settings and convert them to plain types."""
        check_fields(self)
        for name in ("size", "stride", "working_size"):
            value = getattr(self, name)
            if value is not None or name == "size":
                object.__setattr__(self, name, _pixels(f"tiles.{name}", value))
        self.tiler()

    def tiler(self) -> "Tiler":
        """Return anomalib's tiler with size and stride; ``ValueError`` for a stride that is larger than the tiles."""
        from anomalib.data.utils.tiler import Tiler  # late: the command line reads these settings and must be fast

        size = _pair(self.size)
        stride = tuple(-(-3 * side // 4) for side in size) if self.stride is None else _pair(self.stride)
        if any(step > side for step, side in zip(stride, size, strict=True)):
            msg = f"tiles.stride={self.stride} leaves gaps between tiles: tiles.size is {self.size}."
            raise ValueError(msg)
        return Tiler(size, stride)


def as_settings(kind: type[Settings], name: str, value: Any) -> Settings:  # noqa: ANN401  # any user input
    """Return settings that were given as such or as a mapping (YAML, checkpoints); a ``ValueError`` names the group."""
    try:
        return value if isinstance(value, kind) else kind(**value)
    except TypeError as error:  # no mapping, or one is missing or unknown
        known = ", ".join(field.name for field in fields(kind))  # type: ignore[arg-type]
        msg = f"{name}={value!r} must be {kind.__name__} or a mapping of some of its settings: {known}. {error}."
        raise ValueError(msg) from error


def tiles_of(given: Any, of_file: dict[str, Any] | None) -> TileSettings | None:  # noqa: ANN401  # any user input
    """Return the tiles that were given, else those of the weights file; warn if they differ."""
    saved = of_file and as_settings(TileSettings, "tiles", of_file)
    if given is None:
        return saved or None
    tiles = as_settings(TileSettings, "tiles", given)
    if saved and tiles != saved:
        logger.warning("The weights are for %s, and are used with %s: calibrate again.", saved, tiles)
    return tiles


_RENAMED = {  # old name: new name
    **dict.fromkeys(("state_length", "query_length"), "prompt_length"),
    "class_names": "class_name",
    **{name: f"training.{name}" for name in TrainingSettings.__dataclass_fields__},
    **{f"tile_{name}": f"tiles.{name}" for name in ("size", "stride", "batch_size")},
    "working_size": "tiles.working_size",
    **{f"{name}_threshold": f"post_processor.{name}_threshold" for name in ("image", "pixel")},
}


def refuse_unknown(names: Iterable[str]) -> None:
    """Refuse arguments that GenCLIP does not have with a ``TypeError``, which says the new name if there is one."""
    for name in names:
        hint = f": it is {_RENAMED[name]} now" if name in _RENAMED else ""
        msg = f"GenCLIP has no argument {name}{hint}."
        raise TypeError(msg)


def _pixels(name: str, size: Any) -> int | list[int]:  # noqa: ANN401  # any user input
    """Return a size as plain numbers: one, or height and width; a ``ValueError`` names the setting."""
    sides = list(size) if isinstance(size, Sequence) else [size]
    try:
        plain = [checked(name, side, PositiveInt) for side in sides]
    except ValueError:
        plain = []
    if len(plain) not in {1, 2} or (len(plain) == 1 and isinstance(size, Sequence)):
        msg = f"{name}={size!r} must be a whole number of pixels, or two of them: height and width."
        raise ValueError(msg)
    return plain if len(plain) == 2 else plain[0]


def _pair(size: int | Sequence[int]) -> tuple[int, ...]:
    return (size, size) if isinstance(size, int) else tuple(size)
