# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Saving and loading of what GenCLIP has learned, without the frozen CLIP."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from anomalib_genclip.components.references import ReferenceMemory
from anomalib_genclip.processing.post_processor import RawScorePostProcessor

from .checkpoint_io import FROZEN, GenCLIPCheckpointIO, describe_checkpoint
from .prompts_file import INFERENCE_SETTINGS, Description, LearnedWeights, ModelSignature, ReferenceNote, described

REFERENCES = "references.memories."  # their tensors' names in the torch model's state
IGNORE_MASK = "ignore_mask.mask"


def signature_of(model: Any) -> ModelSignature:  # noqa: ANN401  # GenCLIPModel
    """Return the settings that learned tensors must have been trained with to fit a torch model."""
    length, attention = len(model.prompts.normal), model.clip.patch_attention
    return ModelSignature(model.backbone, model.fingerprint, list(model.layers), length, attention)


def save_weights(module: Any, path: str | Path, references: bool) -> Path:  # noqa: ANN401  # GenCLIP
    """Write a prompts file; arguments and errors as in ``GenCLIP.save_weights``."""
    model, post_processor = module.model, module.post_processor
    notes = reference_notes(model)
    if references and not notes:
        msg = "There are no references to save: set k_shot, and test or predict first."
        raise ValueError(msg)
    left_out = ("clip.",) if references else ("clip.", REFERENCES)
    tensors = {key: value for key, value in model.state_dict().items() if not key.startswith(left_out)}
    thresholds, calibration = dict.fromkeys(("image", "pixel"), torch.tensor(float("nan"))), None
    if isinstance(post_processor, RawScorePostProcessor) and references == bool(notes):
        thresholds, calibration = post_processor.raw_thresholds(), post_processor.calibration
    # A file for one product says which, and how its images were seen.
    of_product = references or calibration is not None
    product = (getattr(post_processor, "calibration", None) or {}).get("class_name") or module.names.given
    description = Description(
        signature=signature_of(model),
        pretrained=Path(module.hparams["pretrained"]).name,
        image_size=list(model.image_size),
        trained_on=module.trained_on,
        inference={name: module.hparams[name] for name in INFERENCE_SETTINGS},
        class_name=product or module.names.of_file if of_product else None,
        tiles=module.hparams["tiles"] if of_product else None,
        calibration=calibration,
        references=notes if references else [],
        ignore_mask=model.ignore_mask.size,
    )
    path = Path(path)
    weights = LearnedWeights(description, in_half(tensors), thresholds)
    return weights.save(path) if getattr(module._trainer, "is_global_zero", True) else path  # noqa: SLF001


def load_prompts(module: Any, learned: LearnedWeights) -> None:  # noqa: ANN401  # GenCLIP
    """Load the tensors of a prompts file; a ``ValueError`` says what does not fit: model, tensor or shape."""
    model, description = module.model, learned.description
    signature_of(model).check(learned.signature, learned.source)
    size = tuple(description.image_size)
    if description.references and size != model.image_size:
        what = f"{learned.source} has references at {size} pixels, and this model is built for {model.image_size}"
        msg = f"{what}: leave image_size out, or draw references again (k_shot)."
        raise ValueError(msg)
    set_references(model, description.references, learned.tensors, REFERENCES, learned.source)
    model.ignore_mask.restore(learned.tensors.get(IGNORE_MASK), description.ignore_mask, learned.source)
    expected = {key: value for key, value in model.state_dict().items() if not key.startswith("clip.")}
    for key in sorted(expected.keys() | learned.tensors.keys()):
        theirs, ours = (_shape(group.get(key)) for group in (learned.tensors, expected))
        if theirs != ours:
            msg = f"{learned.source}, tensor {key!r}: the file has {theirs}, the model {ours}."
            raise ValueError(msg)
    model.load_state_dict(learned.tensors, strict=False)  # the frozen CLIP is not in the file
    module.trained_on = description.trained_on


def write_checkpoint(module: Any, checkpoint: dict[str, Any]) -> None:  # noqa: ANN401  # GenCLIP
    """Remove CLIP from a checkpoint, and add the signature."""
    checkpoint["state_dict"] = in_half(checkpoint["state_dict"])
    description = {**asdict(signature_of(module.model)), "trained_on": module.trained_on}
    calibration = getattr(module.post_processor, "calibration", None)
    description |= {"class_name": module.names.of_file, "calibration": calibration}
    if module.model.ignore_mask.size:
        description["ignore_mask"] = module.model.ignore_mask.size
    if notes := reference_notes(module.model):
        description["references"] = [asdict(note) for note in notes]
    describe_checkpoint(checkpoint, description)


def read_checkpoint(module: Any, checkpoint: dict[str, Any]) -> None:  # noqa: ANN401  # GenCLIP
    """Prepare a model for a checkpoint's tensors, and refuse one of another backbone or other layers."""
    source = f"The checkpoint {getattr(module._trainer, 'ckpt_path', None) or ''}".rstrip()  # noqa: SLF001
    description = dict(checkpoint.get("genclip", {}))
    trained_on, notes = str(description.pop("trained_on", "")), description.pop("references", [])
    description.pop("digest", None)
    product, calibration = description.pop("class_name", None), description.pop("calibration", None)
    mask_size, state = described(list[int], description.pop("ignore_mask", []), source), checkpoint["state_dict"]
    signature_of(module.model).check(described(ModelSignature, description, source), source)
    set_references(module.model, described(list[ReferenceNote], notes, source), state, f"model.{REFERENCES}", source)
    key, own = f"model.{IGNORE_MASK}", module.model.ignore_mask
    if module.hparams["ignore_mask"] is None:
        own.restore(state.get(key), mask_size, source)
    else:  # a given one replaces the checkpoint's, and so does a folder
        state.pop(key, None)
        state |= {} if own.mask is None else {key: own.mask}
    module.trained_on = trained_on
    module.names = replace(module.names, of_file=product)
    if calibration is not None and isinstance(module.post_processor, RawScorePostProcessor):
        module.post_processor.set_thresholds(calibration=calibration)  # their values come with the tensors


def settings_for_checkpoint(path: str | Path | IO, safe_globals: Sequence) -> dict[str, Any]:
    """Check a checkpoint before Lightning builds a model with its settings, and return those it must not choose."""
    checkpoint = GenCLIPCheckpointIO(safe_globals).load_checkpoint(path, map_location="cpu")
    training = {**checkpoint["hyper_parameters"].get("training", {}), "feature_cache": None}
    here = {"fine_tune": False, "training": training, **dict.fromkeys(("weights", "few_shot_source", "ignore_mask"))}
    return here | ({"k_shot": 0} if checkpoint["genclip"].get("references") else {})  # it needs no other references


def check_keys(result: Any) -> None:  # noqa: ANN401  # of torch's load_state_dict
    """Refuse a state dict in which more than the frozen CLIP is missing, or with other tensors: ``RuntimeError``."""
    missing = [key for key in result.missing_keys if not key.startswith(FROZEN)]
    if missing or result.unexpected_keys:
        msg = f"The state dict does not fit GenCLIP: missing {missing}, unexpected {result.unexpected_keys}."
        raise RuntimeError(msg)


def reference_notes(model: Any) -> list[ReferenceNote]:  # noqa: ANN401  # GenCLIPModel
    """Describe the references of a torch model."""
    references = model.references
    memories = zip(references.categories, references.memories, strict=True)
    return [ReferenceNote(category, memory.images, memory.drawn_with) for category, memory in memories]


def set_references(model: Any, notes: list[ReferenceNote], state: dict[str, Tensor], prefix: str, source: str) -> None:  # noqa: ANN401
    """Create the memories that a file describes; ``ValueError`` if a tensor is missing or of another shape."""
    layers, width = len(model.layers), model.spec.vision_width
    memories = {}
    for number, note in enumerate(notes):
        parts = {name: state.get(f"{prefix}{number}.{name}") for name in ReferenceMemory.__annotations__}
        count = 0 if parts["patches"] is None else parts["patches"].shape[-2]
        shapes = {"patches": (layers, count, width), "cls": (1, len(note.images), width)}
        for name, part in parts.items():
            if part is None or tuple(part.shape) != shapes.get(name, ()) or not part.numel():
                msg = f"{source}, {name} of the references of {note.category!r}: the file has {_shape(part)}."
                raise ValueError(msg)
        memories[note.category] = ReferenceMemory(**parts, images=note.images, drawn_with=note.drawn_with)
    model.references.set(memories)


def in_half(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert the references' features to half precision, which holds their values exactly."""
    names = [key for key in state if REFERENCES in key and key.endswith((".patches", ".cls"))]
    return {**state, **{name: state[name].half() for name in names}}


def _shape(tensor: Tensor | None) -> str:
    """Describe a tensor for a message."""
    return "none" if tensor is None else f"one of shape {tuple(tensor.shape)}"
