# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Prompts files: GenCLIP's learned tensors, without CLIP, in one safetensors file."""

import json
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from anomalib_genclip.utils.files import atomic_write
from anomalib_genclip.utils.tensors import check_finite, digest

from .hub import SCHEME, download_prompts

FORMAT = "anomalib-genclip"
FORMAT_VERSION = 2
INFERENCE: dict[str, Any] = {"branches": "both", "class_name_filter": True, "smoothing_sigma": 0.0}  # defaults
BUNDLED = {"tiny-demo": "demo/assets/tiny_demo.safetensors"}


@dataclass(frozen=True)
class ModelSignature:
    """Settings of the model that learned tensors belong to; compared when they are loaded.

    Args:
        backbone (str): Name of the architecture.
        fingerprint (str): Hash of the CLIP weights.
        layers (list[int]): Feature layers.
        state_length (int): ``n``.
        query_length (int): ``q``.
        patch_attention (str): Patch features, "clip" in files without this entry.
    """

    backbone: str
    fingerprint: str
    layers: list[int]
    state_length: int
    query_length: int
    patch_attention: str = "clip"

    @classmethod
    def parse(cls, description: Any, source: str) -> "ModelSignature":  # noqa: ANN401  # whatever was in the file
        """Create a signature from plain data, which may have other entries.

        Raises:
            ValueError: If an entry is missing or of the wrong type; names the source.
        """
        kinds = {"backbone": str, "fingerprint": str, "layers": list, "state_length": int, "query_length": int}
        kinds |= {"patch_attention": str}
        given = {"patch_attention": cls.patch_attention} | description if isinstance(description, dict) else {}
        parts: dict[str, Any] = {name: given.get(name) for name in kinds}
        wrong = [name for name, kind in kinds.items() if type(parts[name]) is not kind]
        if wrong or not all(type(layer) is int for layer in parts["layers"]):
            msg = f"{source} has no valid entry for {', '.join(wrong) or 'layers'}."
            raise ValueError(msg)
        return cls(**parts)

    def check(self, other: "ModelSignature", source: str) -> None:
        """Refuse tensors that belong to another model.

        Args:
            other (ModelSignature): Signature of the model that the tensors belong to.
            source (str): Where they come from, for the message.

        Raises:
            ValueError: If the signatures differ; names both sides.
        """
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


@dataclass(frozen=True)
class LearnedWeights:
    """Contents of a prompts file.

    Args:
        signature (ModelSignature): Settings of the model that the tensors belong to.
        pretrained (str | None): The ``pretrained`` argument of the training run; for a file its name without folders.
        image_size (tuple[int, int]): Height and width of the training images.
        trained_on (str): Name of the training data, for information.
        tensors (dict[str, Tensor]): The learned tensors.
        thresholds (dict[str, Tensor]): Image and pixel threshold, NaN for none.
        inference (dict[str, Any]): Settings that the thresholds depend on: ``branches``, ``class_name_filter``,
            ``smoothing_sigma``; empty for the defaults.
        calibration (dict[str, Any] | None): What the thresholds were calibrated on, if they were.
        references (list[dict[str, Any]]): For each category with references its name and the hashes of the images.
        source (str): Where they come from, for messages.
    """

    signature: ModelSignature
    pretrained: str | None
    image_size: tuple[int, int]
    trained_on: str
    tensors: dict[str, Tensor]
    thresholds: dict[str, Tensor]
    inference: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, Any] | None = None
    references: list[dict[str, Any]] = field(default_factory=list)
    source: str = ""

    def save(self, path: str | Path) -> Path:
        """Write the file atomically.

        Args:
            path (str | Path): Path, which must end in ``.safetensors``. Missing folders are created.

        Returns:
            Path: The file.

        Raises:
            ValueError: If the name has another suffix, or a tensor is not finite.
        """
        path = Path(path)
        check_finite(self.tensors, f"{path} is not written")
        if path.suffix != ".safetensors":
            msg = f"A prompts file must be named *.safetensors, got {path}."
            raise ValueError(msg)
        metadata: dict[str, Any] = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "signature": asdict(self.signature),
            "pretrained": self.pretrained,
            "image_size": list(self.image_size),
            "trained_on": self.trained_on,
        }
        optional = {"inference": self.inference, "calibration": self.calibration, "references": self.references}
        metadata |= {key: value for key, value in optional.items() if value}
        tensors = {**self.tensors, **{f"threshold.{key}": value for key, value in self.thresholds.items()}}
        tensors = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
        metadata["digest"] = digest(tensors, metadata)
        path.parent.mkdir(parents=True, exist_ok=True)
        return atomic_write(path, save(tensors, {"genclip": json.dumps(metadata)}))


def prompts_path(path: str | Path) -> Path:
    """Return the file for a path, the name of bundled prompts, or a URL of the Hugging Face Hub."""
    if str(path) in BUNDLED:
        return Path(str(files("anomalib_genclip") / BUNDLED[str(path)]))
    return download_prompts(path) if isinstance(path, str) and path.startswith(SCHEME) else Path(path)


def load_weights(path: str | Path) -> LearnedWeights:
    """Read a prompts file. It contains only tensors and plain text, no code.

    Args:
        path (str | Path): A file written by :meth:`LearnedWeights.save`, the name of bundled prompts, or
            ``"hf://owner/name[@revision]/file.safetensors"``.

    Returns:
        LearnedWeights: Its contents.

    Raises:
        FileNotFoundError: If there is no such file.
        ConnectionError: If it cannot be downloaded.
        ValueError: If it is not a prompts file, is damaged, or has values that are not finite.
    """
    source = str(path)
    path = prompts_path(path)
    if not path.is_file():
        msg = f"No prompts file {source}. Give a *.safetensors file, or one of the bundled: {', '.join(BUNDLED)}."
        raise FileNotFoundError(msg)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get("genclip", "{}"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # not a dict
    except (SafetensorError, ValueError, RecursionError, OSError) as error:
        hint = " A Lightning checkpoint goes to ckpt_path instead." if path.suffix == ".ckpt" else ""
        msg = f"{source} is not a readable prompts file: {error}.{hint}"
        raise ValueError(msg) from error
    return _parse(metadata, tensors, source)


def _parse(metadata: Any, tensors: dict[str, Tensor], source: str) -> LearnedWeights:  # noqa: ANN401
    """Check the contents of a file and return them."""
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        msg = f"{source} is a safetensors file, but not one of GenCLIP's prompts files."
        raise ValueError(msg)
    if metadata.get("version") != FORMAT_VERSION:
        msg = f"{source} has format version {metadata.get('version')!r}, this package reads {FORMAT_VERSION}."
        raise ValueError(msg)
    if metadata.pop("digest", None) != digest(tensors, metadata):
        msg = f"{source} is damaged: its contents do not match its checksum. Copy or create it again."
        raise ValueError(msg)
    thresholds = {key.removeprefix("threshold."): tensors.pop(key) for key in list(tensors) if "threshold." in key}
    check_finite(tensors, source)
    try:
        return LearnedWeights(
            signature=ModelSignature.parse(metadata["signature"], source),
            pretrained=_plain_name(metadata["pretrained"], source),
            image_size=_two_numbers(metadata["image_size"], source),
            trained_on=str(metadata["trained_on"]),
            tensors=tensors,
            thresholds={
                key: _in_unit_interval(thresholds[key], f"{key} threshold", source) for key in ("image", "pixel")
            },
            inference=_inference(metadata.get("inference", {}), source),
            calibration=_mapping(metadata.get("calibration"), source),
            references=check_references(metadata.get("references", []), source),
            source=source,
        )
    except KeyError as error:
        msg = f"{source} has no entry {error}."
        raise ValueError(msg) from error


def check_references(references: Any, source: str) -> list[dict[str, Any]]:  # noqa: ANN401  # whatever was in the file
    """Return the description of references if it is one.

    Raises:
        ValueError: If it is not; names the source.
    """
    for entry in references if isinstance(references, list) else [None]:
        category, images = (entry.get(key) if isinstance(entry, dict) else None for key in ("category", "images"))
        if not isinstance(images, list) or not all(isinstance(text, str) for text in [category, *images]):
            msg = f"{source} has references without a category or images."
            raise ValueError(msg)
    return references


def _inference(inference: Any, source: str) -> dict[str, Any]:  # noqa: ANN401  # whatever was in the file
    """Return the settings of inference if they are known ones; their values are checked with the other settings."""
    if isinstance(inference, dict) and inference.keys() <= INFERENCE.keys():
        return inference
    msg = f"{source} has inference={inference!r}, which are no settings of this version."
    raise ValueError(msg)


def _mapping(calibration: Any, source: str) -> dict[str, Any] | None:  # noqa: ANN401  # whatever was in the file
    """Return the description of a calibration if it is one."""
    if calibration is None or isinstance(calibration, dict):
        return calibration
    msg = f"{source} has calibration={calibration!r}, which describes none."
    raise ValueError(msg)


def _in_unit_interval(value: Tensor, name: str, source: str) -> Tensor:
    """Return a tensor if it is a scalar in [0, 1], or NaN for none."""
    if value.shape == () and value.is_floating_point() and (value.isnan() or 0 <= value <= 1):
        return value
    msg = f"{source}: the {name} is not a number between 0 and 1."
    raise ValueError(msg)


def _plain_name(pretrained: Any, source: str) -> str | None:  # noqa: ANN401
    """Refuse ``pretrained`` if it is a path: a file from elsewhere must not determine which files are read."""
    if pretrained is None or (isinstance(pretrained, str) and Path(pretrained).name == pretrained != ".."):
        return pretrained
    msg = f"{source} has pretrained={pretrained!r}, which is not a tag or file name: give pretrained yourself."
    raise ValueError(msg)


def _two_numbers(image_size: Any, source: str) -> tuple[int, int]:  # noqa: ANN401
    """Return height and width."""
    if isinstance(image_size, list) and len(image_size) == 2 and all(type(side) is int for side in image_size):
        return image_size[0], image_size[1]
    msg = f"{source} has image_size={image_size!r}, which is not height and width."
    raise ValueError(msg)
