# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Prompts files: GenCLIP's learned tensors, without CLIP, in one safetensors file."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from anomalib_genclip.utils.files import atomic_write
from anomalib_genclip.utils.tensors import check_finite, digest

from .weights_files import resolve_weights

FORMAT, FORMAT_VERSION = "anomalib-genclip", 3
_STRICT = ConfigDict(strict=True)
_THRESHOLD = "threshold."  # prefix of the thresholds' names among the tensors
InferenceSetting = Literal["branches", "class_name_filter", "smoothing_sigma", "score_weight"]
INFERENCE_SETTINGS: tuple[InferenceSetting, ...] = get_args(InferenceSetting)
Described = TypeVar("Described")


@checked_dataclass(frozen=True, config=_STRICT)
class ModelSignature:
    """Settings of the model that learned tensors belong to; compared when they are loaded."""

    backbone: str  # name of the architecture
    fingerprint: str  # hash of the CLIP weights
    layers: list[int]  # feature layers
    prompt_length: int  # n = q
    patch_attention: str  # patch features

    def check(self, other: "ModelSignature", source: str) -> None:
        """Refuse tensors that belong to another model: a ``ValueError`` names both sides of the signatures."""
        own, theirs = asdict(self), asdict(other)
        if own == theirs:
            return
        if own["backbone"] == theirs["backbone"] and own["fingerprint"] != theirs["fingerprint"]:
            what = f"other weights of {self.backbone} ({theirs['fingerprint']}, this model has {own['fingerprint']})"
        else:
            keys = [key for key in own if own[key] != theirs[key] and key != "fingerprint"]
            what = ", ".join(f"{key} {theirs[key]!r} (this model has {own[key]!r})" for key in keys)
        msg = f"{source} was trained for {what}. Build the model with the same settings, or train again."
        raise ValueError(msg)


@checked_dataclass(frozen=True, config=_STRICT)
class ReferenceNote:
    """What the references of one category are."""

    category: str  # its name, "" if none was known
    images: list[str]  # hash of each image's file
    drawn_with: str  # the settings that their features depend on


@checked_dataclass(frozen=True, config=_STRICT)
class Description:
    """What a prompts file says of its tensors."""

    signature: ModelSignature  # settings of the model that they belong to
    # The argument of the training run. A file must not determine which files are read, so this is no path.
    pretrained: Annotated[str, Field(pattern=r"^[^/\\]+$")]
    image_size: Annotated[list[int], Field(min_length=2, max_length=2)]  # height and width
    trained_on: str  # name of the training data, for information
    inference: dict[InferenceSetting, Any]  # what the thresholds depend on
    class_name: str | None = None  # product that the file was calibrated or given references for
    tiles: dict[str, Any] | None = None  # that it was calibrated or given references with
    calibration: dict[str, Any] | None = None  # what the thresholds were calibrated on, if they were
    references: list[ReferenceNote] = Field(default_factory=list)  # of each category
    ignore_mask: list[int] = Field(default_factory=list)  # height and width of its file, whose tensor is smaller
    format: Literal["anomalib-genclip"] = FORMAT  # type: ignore[assignment]
    version: Literal[3] = FORMAT_VERSION  # type: ignore[assignment]


@dataclass(frozen=True)
class LearnedWeights:
    """Contents of a prompts file."""

    description: Description
    tensors: dict[str, Tensor]  # the learned ones
    thresholds: dict[str, Tensor]  # "image" and "pixel", NaN for none
    source: str = ""  # where they come from, for messages

    @property
    def signature(self) -> ModelSignature:
        """Settings of the model that the tensors belong to."""
        return self.description.signature

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the model by the names of its arguments, without the backbone."""
        chosen = {name: getattr(self.signature, name) for name in ("layers", "prompt_length", "patch_attention")}
        own = {"pretrained": self.description.pretrained, "image_size": tuple(self.description.image_size)}
        return chosen | own | self.description.inference

    @property
    def product(self) -> tuple[str | None, dict[str, Any] | None]:
        """Class name and tiles of a file for one product."""
        return self.description.class_name, self.description.tiles

    def save(self, path: str | Path) -> Path:
        """Write the file atomically; ``ValueError`` if the name has another suffix, or a tensor is not finite."""
        path = Path(path)
        check_finite(self.tensors, f"{path} is not written")
        if path.suffix != ".safetensors":
            msg = f"A prompts file must be named *.safetensors, got {path}."
            raise ValueError(msg)
        metadata: dict[str, Any] = asdict(self.description)
        tensors = self.tensors | {f"{_THRESHOLD}{key}": value for key, value in self.thresholds.items()}
        tensors = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
        metadata["digest"] = digest(tensors, metadata)
        path.parent.mkdir(parents=True, exist_ok=True)
        return atomic_write(path, save(tensors, {"genclip": json.dumps(metadata)}))


def load_weights(path: str | Path) -> LearnedWeights:
    """Read a prompts file. It contains only tensors and plain text, no code.

    ``FileNotFoundError`` if there is none, ``ConnectionError`` if it cannot be downloaded, and ``ValueError`` if it is
    not a prompts file, is damaged, or has values that are not finite.
    """
    source = str(path)
    path = resolve_weights(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get("genclip", "{}"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # not a dict
    except (SafetensorError, ValueError, RecursionError, OSError) as error:
        hint = " A Lightning checkpoint goes to ckpt_path instead." if path.suffix == ".ckpt" else ""
        msg = f"{source} is not a readable prompts file: {error}.{hint}"
        raise ValueError(msg) from error
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        msg = f"{source} is a safetensors file, but not one of GenCLIP's prompts files."
        raise ValueError(msg)
    if metadata.get("version") != FORMAT_VERSION:
        msg = f"{source} has format version {metadata.get('version')!r}, this package reads {FORMAT_VERSION}."
        raise ValueError(msg)
    if metadata.pop("digest", None) != digest(tensors, metadata):
        msg = f"{source} is damaged: its contents do not match its checksum. Copy or create it again."
        raise ValueError(msg)
    thresholds = {name: tensors.pop(f"{_THRESHOLD}{name}", None) for name in ("image", "pixel")}
    check_finite(tensors, source)
    for name, value in thresholds.items():
        if value is None or value.shape != () or not (value.isnan() or 0 <= value <= 1):
            msg = f"{source}: the {name} threshold is not a number between 0 and 1."
            raise ValueError(msg)
    return LearnedWeights(described(Description, metadata, source), tensors, thresholds, source)


def described(kind: type[Described], content: Any, source: str) -> Described:  # noqa: ANN401  # whatever was in a file
    """Read a description from plain data; a ``ValueError`` names an entry that is missing or of the wrong type."""
    try:
        return TypeAdapter(kind).validate_json(json.dumps(content, default=str))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "its description"
        msg = f"{source} has no valid entry for {place}: {first['msg']}."
        raise ValueError(msg) from error
