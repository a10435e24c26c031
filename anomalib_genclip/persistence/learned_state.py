# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Saving and loading of what GenCLIP has learned."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from anomalib_genclip.components.references import ReferenceMemory
from anomalib_genclip.processing.post_processor import RawScorePostProcessor

from .checkpoint_io import FROZEN, GenCLIPCheckpointIO, describe_checkpoint
from .prompts_file import LearnedWeights, ModelSignature, check_references

if TYPE_CHECKING:
    from anomalib.models.components import AnomalibModule as _Module
else:
    _Module = nn.Module


REFERENCES = "references.memories."  # their tensors' names in the torch model's state


class LearnedStateMixin(_Module):
    """Saves and loads learned tensors and thresholds, without the frozen CLIP.

    Mixed into :class:`~anomalib_genclip.lightning_model.GenCLIP`, which has ``model``, ``post_processor`` and
    ``pretrained``.
    """

    pretrained: str | None
    trained_on: str

    @property
    def signature(self) -> ModelSignature:
        """Settings that learned tensors must have been trained with to fit this model."""
        model = self.model
        return ModelSignature(
            backbone=model.backbone,
            fingerprint=model.fingerprint,
            layers=model.layers,
            state_length=len(model.prompts.normal),
            query_length=len(model.prompts.query),
            patch_attention=model.clip.patch_attention,
        )

    def save_weights(self, path: str | Path, references: bool = False) -> Path:
        """Write the learned tensors and thresholds, without CLIP, to a prompts file.

        In a distributed run the first process writes it.

        Args:
            path (str | Path): A ``*.safetensors`` file.
            references (bool): Include the features of the reference images. Without them the thresholds are left out,
                because they do not apply to scores without references. Defaults to ``False``.

        Returns:
            Path: The file.

        Raises:
            ValueError: If the name has another suffix, a tensor is not finite, or there are no references.
        """
        description = self.model.references.describe()
        if references and not description:
            msg = "There are no references to save: set k_shot, and test or predict first."
            raise ValueError(msg)
        left_out = ("clip.",) if references else ("clip.", REFERENCES)
        tensors = {key: value for key, value in self.model.state_dict().items() if not key.startswith(left_out)}
        thresholds, calibration = dict.fromkeys(("image", "pixel"), torch.tensor(float("nan"))), None
        if isinstance(self.post_processor, RawScorePostProcessor) and references == bool(description):
            thresholds, calibration = self.post_processor.raw_thresholds(), self.post_processor.calibration
        path = Path(path)
        weights = LearnedWeights(
            signature=self.signature,
            pretrained=None if self.pretrained is None else Path(self.pretrained).name,
            image_size=self.model.image_size,
            trained_on=self.trained_on,
            tensors=in_half(tensors),
            thresholds=thresholds,
            inference={
                "branches": self.model.branches,
                "class_name_filter": self.model.class_name_filter,
                "smoothing_sigma": self.hparams["smoothing_sigma"],
            },
            calibration=calibration,
            references=description if references else [],
        )
        return weights.save(path) if getattr(self._trainer, "is_global_zero", True) else path

    def load_prompts(self, learned: LearnedWeights) -> None:
        """Load the tensors of a prompts file.

        Args:
            learned (LearnedWeights): Contents of the file.

        Raises:
            ValueError: If they belong to another model, or a tensor is missing, unexpected or of another shape.
        """
        self.signature.check(learned.signature, learned.source)
        if learned.references and learned.image_size != self.model.image_size:
            msg = (
                f"{learned.source} has references at {learned.image_size} pixels, and this model is built for "
                f"{self.model.image_size}: leave image_size out, or draw references again (k_shot)."
            )
            raise ValueError(msg)
        self._set_references(learned.references, learned.tensors, REFERENCES, learned.source)
        expected = {key: value for key, value in self.model.state_dict().items() if not key.startswith("clip.")}
        for key in sorted(expected.keys() | learned.tensors.keys()):
            theirs, ours = (_shape(group.get(key)) for group in (learned.tensors, expected))
            if theirs != ours:
                msg = f"{learned.source}, tensor {key!r}: the file has {theirs}, the model {ours}."
                raise ValueError(msg)
        self.model.load_state_dict(learned.tensors, strict=False)  # the frozen CLIP is not in the file
        self.trained_on = learned.trained_on

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: str | Path | IO, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Load a model from a checkpoint.

        Args:
            checkpoint_path (str | Path | IO): The checkpoint.
            *args (Any): As in anomalib.
            **kwargs (Any): As in anomalib; unknown ones are init arguments that override the checkpoint's.

        Returns:
            GenCLIP: The model.

        Raises:
            ValueError: If the checkpoint is damaged, could run code, or belongs to another model.
        """
        # Lightning builds the model with the file's settings before any hook, so the file is read and checked first.
        reader = GenCLIPCheckpointIO(cls.checkpoint_safe_globals())
        checkpoint = reader.load_checkpoint(checkpoint_path, map_location="cpu")
        # The file must not choose where this machine reads prompts and keeps features.
        here: dict[str, Any] = {"weights": None, "fine_tune": False, "feature_cache": None, "few_shot_source": None}
        if checkpoint["genclip"].get("references"):
            here["k_shot"] = 0  # it needs no others
        return super().load_from_checkpoint(checkpoint_path, *args, **{**here, **kwargs})  # type: ignore[arg-type]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remove CLIP from the checkpoint and add the signature."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["state_dict"] = in_half(checkpoint["state_dict"])
        description = {**asdict(self.signature), "trained_on": self.trained_on}
        if references := self.model.references.describe():
            description["references"] = references
        describe_checkpoint(checkpoint, description)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse checkpoints of another backbone or other layers."""
        source = f"The checkpoint {getattr(self._trainer, 'ckpt_path', None) or ''}".rstrip()
        description = checkpoint.get("genclip", {})
        self.signature.check(ModelSignature.parse(description, source), source)
        references = check_references(description.get("references", []), source)
        self._set_references(references, checkpoint["state_dict"], f"model.{REFERENCES}", source)
        self.trained_on = str(description.get("trained_on", ""))
        super().on_load_checkpoint(checkpoint)

    def _set_references(
        self, description: list[dict[str, Any]], tensors: Mapping[str, Tensor], prefix: str, source: str
    ) -> None:
        """Create the memories that a file describes.

        Raises:
            ValueError: If a tensor is missing or of another shape.
        """
        layers, width = len(self.model.layers), self.model.spec.vision_width
        memories = {}
        for number, entry in enumerate(description):
            parts = {name: tensors.get(f"{prefix}{number}.{name}") for name in ReferenceMemory.__annotations__}
            count = 0 if parts["patches"] is None else parts["patches"].shape[-2]
            shapes = {"patches": (layers, count, width), "cls": (1, len(entry["images"]), width)}
            for name, part in parts.items():
                if part is None or tuple(part.shape) != shapes.get(name, ()) or not part.numel():
                    msg = f"{source}, {name} of the references of {entry['category']!r}: the file has {_shape(part)}."
                    raise ValueError(msg)
            memories[entry["category"]] = ReferenceMemory(**parts, images=entry["images"])
        self.model.references.set(memories)

    def load_state_dict(self, state_dict: dict[str, Any], strict: bool = True, assign: bool = False) -> Any:  # noqa: ANN401
        """Load a state dict, in which only the tensors of the frozen CLIP may be missing.

        Raises:
            RuntimeError: If a learned tensor is missing, or there are unexpected ones.
        """
        result = super().load_state_dict(state_dict, strict=False, assign=assign)
        missing = [key for key in result.missing_keys if not key.startswith(FROZEN)]
        if strict and (missing or result.unexpected_keys):
            msg = f"The state dict does not fit GenCLIP: missing {missing}, unexpected {result.unexpected_keys}."
            raise RuntimeError(msg)
        return result


def in_half(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert the references' features to half precision, which holds their values exactly."""
    names = [key for key in state if REFERENCES in key and key.endswith((".patches", ".cls"))]
    return {**state, **{name: state[name].half() for name in names}}


def _shape(tensor: Tensor | None) -> str:
    """Describe a tensor for a message."""
    return "none" if tensor is None else f"one of shape {tuple(tensor.shape)}"
