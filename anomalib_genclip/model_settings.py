# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Settings of a model and of its training, resolved once from the user's arguments and the prompts file."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from anomalib.data.utils.tiler import Tiler

from .clip.backbone import (
    DEFAULT_BACKBONE,
    DEFAULT_PRETRAINED,
    BackboneSpec,
    backbone_spec,
    check_pretrained,
    plain_name,
    resolve_image_size,
    resolve_layers,
)
from .clip.frozen_clip import PatchAttention
from .persistence.prompts_file import INFERENCE
from .utils.settings import NonNegativeFloat, NonNegativeInt, PositiveInt, UnitFloat, checked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .persistence.prompts_file import LearnedWeights

Branches = Literal["both", "vision", "query"]
AnomalySource = Literal["auto", "labels", "synthetic"]
PROMPT_LENGTH = 4  # n and q (ours)
SHORTEST_SUFFIX = 3  # "damaged", "object", [EOS]


@dataclass(frozen=True)
class ModelSettings:
    """Complete settings of a :class:`~anomalib_genclip.torch_model.GenCLIPModel`; created by :meth:`resolve`.

    Args:
        spec (BackboneSpec): Dimensions of the architecture.
        backbone (str): Name of the architecture, with ``-quickgelu`` if the user gave it.
        pretrained (str | None): An open_clip tag, a weights file, or ``None`` for random weights.
        image_size (tuple[int, int]): Height and width in pixels.
        layers (tuple[int, ...]): Feature layers: blocks of the vision tower, counted from 1, ascending.
        patch_attention (str): Patch features of these layers: "clip" or "value".
        state_length (int): ``n``, tokens of the normal and of the abnormal prompt.
        query_length (int): ``q``, tokens of the general query prompt and of the vision prompts.
        branches (str): Branches that compute map and score: "both", "vision" or "query".
        class_name_filter (bool): Whether CNF may replace a class name by "object".
        smoothing_sigma (float): Standard deviation of the Gaussian filter on the map, in input pixels; 0 for none.
    """

    spec: BackboneSpec
    backbone: str
    pretrained: str | None
    image_size: tuple[int, int]
    layers: tuple[int, ...]
    patch_attention: str
    state_length: int
    query_length: int
    branches: str
    class_name_filter: bool
    smoothing_sigma: float

    @classmethod
    def resolve(
        cls,
        backbone: str | None = None,
        pretrained: str | None = DEFAULT_PRETRAINED,
        image_size: int | Sequence[int] | None = None,
        layers: Sequence[int] | None = None,
        patch_attention: str | None = None,
        state_length: int | None = None,
        query_length: int | None = None,
        branches: str | None = None,
        class_name_filter: bool | None = None,
        smoothing_sigma: float | None = None,
        *,
        prompts: LearnedWeights | None = None,
    ) -> ModelSettings:
        """Fill in missing settings, from the prompts file if there is one, and check all of them.

        CLIP's weights are not read.

        Args:
            backbone (str | None): As for :class:`~anomalib_genclip.lightning_model.GenCLIP`, like the following.
            pretrained (str | None): With ``prompts``, the default is replaced by the file's value.
            image_size (int | Sequence[int] | None): Side, or height and width, in pixels.
            layers (Sequence[int] | None): Feature layers.
            patch_attention (str | None): "clip" or "value".
            state_length (int | None): ``n``.
            query_length (int | None): ``q``.
            branches (str | None): "both", "vision" or "query".
            class_name_filter (bool | None): Whether CNF is on.
            smoothing_sigma (float | None): In pixels.
            prompts (LearnedWeights | None): Contents of the prompts file that the model will use.

        Returns:
            ModelSettings: Complete settings.

        Raises:
            ValueError: If a setting is invalid, or does not fit the backbone or the prompts file; names it.
        """
        if prompts is not None:
            backbone = _backbone_of_prompts(backbone, prompts)
            pretrained = prompts.pretrained if pretrained == DEFAULT_PRETRAINED else pretrained
            image_size = prompts.image_size if image_size is None else image_size
            layers = prompts.signature.layers if layers is None else layers
            patch_attention = prompts.signature.patch_attention if patch_attention is None else patch_attention
            state_length = prompts.signature.state_length if state_length is None else state_length
            query_length = prompts.signature.query_length if query_length is None else query_length
        given = {"branches": branches, "class_name_filter": class_name_filter, "smoothing_sigma": smoothing_sigma}
        inference = INFERENCE | (prompts.inference if prompts else {})
        inference |= {name: value for name, value in given.items() if value is not None}
        patch_attention = "clip" if patch_attention is None else patch_attention
        backbone = DEFAULT_BACKBONE if backbone is None else backbone
        spec = backbone_spec(backbone)
        try:
            check_pretrained(spec, pretrained)
        except ValueError as error:
            if prompts is None or pretrained != prompts.pretrained:
                raise
            msg = f"{prompts.source} was trained with other CLIP weights, which must be given as pretrained: {error}"
            raise ValueError(msg) from error
        size = resolve_image_size(spec, image_size)
        lengths = _prompt_lengths(spec, state_length, query_length)
        return cls(
            spec=spec,
            backbone=backbone,
            pretrained=None if pretrained is None else str(pretrained),
            image_size=size,
            layers=tuple(resolve_layers(spec, layers)),
            patch_attention=checked("patch_attention", patch_attention, PatchAttention),
            state_length=lengths[0],
            query_length=lengths[1],
            branches=checked("branches", inference["branches"], Branches),
            class_name_filter=checked("class_name_filter", inference["class_name_filter"], bool),
            smoothing_sigma=_sigma(size, inference["smoothing_sigma"]),
        )

    @property
    def max_suffix_tokens(self) -> int:
        """Maximum number of tokens of ``damaged {class} [EOS]`` after [SOS] and the learnable tokens."""
        return self.spec.context_length - 1 - self.state_length - self.query_length

    def as_hparams(self) -> dict[str, Any]:
        """Return the settings under the names of the model's arguments, as plain data for checkpoints."""
        names = [field.name for field in fields(self) if field.name != "spec"]
        return {name: getattr(self, name) for name in names} | {"layers": list(self.layers)}


@dataclass(frozen=True)
class TrainingSettings:
    """Training settings: the arguments of :class:`~anomalib_genclip.lightning_model.GenCLIP` with these names.

    Raises:
        ValueError: If one is invalid; names it.
    """

    learning_rate: float
    projection_learning_rate: float
    query_only_prob: float
    vision_dropout: float
    image_loss_weight: float
    anomaly_source: str
    epochs: int
    seed: int | None
    feature_cache: str | None

    def __post_init__(self) -> None:
        """Check the settings and convert them to plain types."""
        kinds: dict[str, Any] = {
            "learning_rate": NonNegativeFloat,
            "projection_learning_rate": NonNegativeFloat,
            "query_only_prob": UnitFloat,
            "vision_dropout": UnitFloat,
            "image_loss_weight": NonNegativeFloat,
            "anomaly_source": AnomalySource,
            "epochs": PositiveInt,
        }
        for name, kind in kinds.items():
            object.__setattr__(self, name, checked(name, getattr(self, name), kind))
        if self.seed is not None:
            object.__setattr__(self, "seed", checked("seed", self.seed, NonNegativeInt))

    def as_hparams(self) -> dict[str, Any]:
        """Return the settings under the names of the model's arguments, as plain data for checkpoints."""
        return asdict(self)


@dataclass(frozen=True)
class ProductSettings:
    """References and thresholds: the arguments of :class:`~anomalib_genclip.lightning_model.GenCLIP` of these names.

    Raises:
        ValueError: If one is invalid; names it.
    """

    k_shot: int
    few_shot_source: str | None
    max_reference_patches: int
    image_threshold: float | None
    pixel_threshold: float | None

    def __post_init__(self) -> None:
        """Check the settings and convert them to plain types."""
        kinds: dict[str, Any] = {"k_shot": NonNegativeInt, "max_reference_patches": PositiveInt}
        given = [name for name in ("image_threshold", "pixel_threshold") if getattr(self, name) is not None]
        for name, kind in {**kinds, **dict.fromkeys(given, UnitFloat)}.items():
            object.__setattr__(self, name, checked(name, getattr(self, name), kind))
        if self.few_shot_source is not None and not self.k_shot:
            msg = "few_shot_source needs k_shot, the number of reference images that are drawn from it."
            raise ValueError(msg)

    def as_hparams(self) -> dict[str, Any]:
        """Return the settings under the names of the model's arguments, as plain data for checkpoints."""
        return asdict(self)

    @property
    def thresholds(self) -> dict[str, Any]:
        """The thresholds that were given, as arguments of the post-processor's ``set_thresholds``."""
        values = {"image": self.image_threshold, "pixel": self.pixel_threshold}
        return {name: value for name, value in values.items() if value is not None}


def _backbone_of_prompts(backbone: str | None, prompts: LearnedWeights) -> str:
    """Return the backbone that a prompts file was trained with.

    Raises:
        ValueError: If the user gave another architecture; names the file and both architectures.
    """
    theirs = prompts.signature.backbone
    if backbone is None or plain_name(backbone) == plain_name(theirs):
        return theirs if backbone is None else backbone
    msg = (
        f"{prompts.source} was trained with backbone {theirs!r} and does not fit backbone={backbone!r}. Leave backbone "
        f"out to use {theirs!r}, or give prompts that were trained with {backbone!r}."
    )
    raise ValueError(msg)


def _prompt_lengths(spec: BackboneSpec, state_length: int | None, query_length: int | None) -> tuple[int, int]:
    """Return ``n`` and ``q``, which must leave room for "damaged object" in the text tower's context.

    Raises:
        ValueError: If they do not; names the maximum.
    """
    lengths = tuple(PROMPT_LENGTH if length is None else length for length in (state_length, query_length))
    most = spec.context_length - 1 - SHORTEST_SUFFIX
    try:
        n, q = (checked("length", length, PositiveInt) for length in lengths)
    except ValueError:
        n = q = most
    if n + q > most:
        msg = (
            f"state_length={lengths[0]!r} and query_length={lengths[1]!r} do not fit: each must be a whole number of "
            f"at least 1 and both together at most {most}, so that a class name fits into the text tower's "
            f"{spec.context_length} tokens."
        )
        raise ValueError(msg)
    return n, q


def _sigma(image_size: tuple[int, int], sigma: float) -> float:
    """Return the standard deviation of the Gaussian filter, whose kernel must not exceed the map.

    Raises:
        ValueError: If it does; names the maximum.
    """
    sigma = checked("smoothing_sigma", sigma, NonNegativeFloat)
    widest = (min(image_size) - 1) / 4  # the kernel extends four sigma to each side, and padding is limited to the map
    if sigma > widest:
        msg = f"smoothing_sigma={sigma!r} is out of range: images of {image_size} pixels allow at most {widest}."
        raise ValueError(msg)
    return sigma


@dataclass(frozen=True)
class TileSettings:
    """Settings of tiles: the arguments of :class:`~anomalib_genclip.lightning_model.GenCLIP` with these names.

    Raises:
        ValueError: If one is invalid; names it.
    """

    tile_size: int | Sequence[int] | None
    tile_stride: int | Sequence[int] | None
    working_size: int | Sequence[int] | None
    tile_batch_size: int
    tile_training: bool

    def __post_init__(self) -> None:
        """Check the settings and convert them to plain types."""
        for name in ("tile_size", "tile_stride", "working_size"):
            object.__setattr__(self, name, _pixels(name, getattr(self, name)))
        object.__setattr__(self, "tile_batch_size", checked("tile_batch_size", self.tile_batch_size, PositiveInt))
        checked("tile_training", self.tile_training, bool)
        if self.tile_size is not None:
            self.tiler()

    def tiler(self) -> Tiler | None:
        """Return anomalib's tiler with size and stride, ``None`` without tiles.

        Raises:
            ValueError: If the stride is larger than the tiles.
        """
        if self.tile_size is None:
            return None
        size = _pair(self.tile_size)
        stride = tuple(-(-3 * side // 4) for side in size) if self.tile_stride is None else _pair(self.tile_stride)
        if any(step > side for step, side in zip(stride, size, strict=True)):
            msg = f"tile_stride={self.tile_stride} leaves gaps between tiles: tile_size is {self.tile_size}."
            raise ValueError(msg)
        return Tiler(size, stride)

    def as_hparams(self) -> dict[str, Any]:
        """Return the settings under the names of the model's arguments, as plain data for checkpoints."""
        return asdict(self)


def _pixels(name: str, size: int | Sequence[int] | None) -> int | list[int] | None:
    """Return a size as plain numbers: one, or height and width.

    Raises:
        ValueError: If it is neither; names the setting.
    """
    if size is None:
        return None
    sides = list(size) if isinstance(size, (list, tuple)) else [size]
    try:
        plain = [checked(name, side, PositiveInt) for side in sides]
    except ValueError:
        plain = []
    if len(plain) not in {1, 2} or (len(plain) == 1 and isinstance(size, (list, tuple))):
        msg = f"{name}={size!r} must be a whole number of pixels, or two of them: height and width."
        raise ValueError(msg)
    return plain if len(plain) == 2 else plain[0]


def _pair(size: int | Sequence[int]) -> tuple[int, ...]:
    return (size, size) if isinstance(size, int) else tuple(size)
