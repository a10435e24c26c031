# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Supported CLIP models, and how their weights are found and loaded; names and weights are open_clip's.

The model is built here, because versions of ``open_clip.create_model`` differ in how they treat activation and position
embedding of OpenAI's weights (2.24 ignores ``force_image_size`` for them, 3.x ignores QuickGELU).
"""

import io
import logging
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.model import CLIP, resize_pos_embed
from open_clip.transformer import QuickGELU
from safetensors.torch import load_file

from anomalib_genclip.demo.tiny_clip import expand_vocabulary, tiny_config, tiny_state_dict
from anomalib_genclip.utils.files import check_archive, is_file, why_unreadable
from anomalib_genclip.utils.messages import quiet
from anomalib_genclip.utils.tensors import check_finite, digest

logger = logging.getLogger(__name__)

DEFAULT_BACKBONE = "ViT-L-14-336"
DEFAULT_PRETRAINED = "openai"
BUNDLED, RANDOM = "bundled", "random"  # values of `pretrained` beside open_clip's tags and files
TINY = "tiny"
PAPER_IMAGE_SIZE = 518  # paper, implementation details: 37 patches of 14 px per side
MAX_IMAGE_SIZE = 16_384  # a larger one is a mistake: attention between that many patches fits into no memory
_QUICKGELU = "-quickgelu"
_NO_WEIGHTS = {"input_resolution", "context_length", "vocab_size", "attn_mask"}  # in OpenAI's files


@dataclass(frozen=True)
class BackboneSpec:
    """Dimensions of a CLIP model, known before its weights are loaded."""

    name: str  # open_clip's, without "-quickgelu", or "tiny"
    patch_size: int  # pixels
    image_size: int  # side of the images that the model was trained on, in pixels
    depth: int  # blocks of the vision tower
    vision_width: int  # d_v
    text_width: int  # d_t
    embed_dim: int  # d
    context_length: int  # maximum length of a prompt in tokens, including [SOS] and [EOS]
    quick_gelu: bool  # of the architecture; weights can require it too


def _unsupported_reason(config: Mapping[str, Any]) -> str | None:
    """Return why a configuration is not a plain-ViT CLIP, ``None`` if it is one."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    reasons = {
        "its image tower is a timm model": "timm_model_name" in vision,
        "its image tower is a ResNet": not isinstance(vision.get("layers"), int),
        "its image tower pools by attention": vision.get("attentional_pool"),
        "its image tower has no CLS token output": vision.get("pool_type", "tok") != "tok",
        "its image tower normalizes after pooling": vision.get("final_ln_after_pool"),
        "its text tower or tokenizer is not CLIP's": any(key.startswith("hf_") for key in text),
        "its text tower is not CLIP's causal one": text.get("embed_cls") or text.get("no_causal_mask"),
        "its text tower has no [EOS] token output": text.get("pool_type", "argmax") != "argmax",
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def list_backbones() -> list[str]:
    """List the valid values of ``backbone``: the bundled ``"tiny"`` and open_clip's plain-ViT CLIP models."""
    names = (name for name in open_clip.list_models() if not name.endswith(_QUICKGELU))
    return [TINY, *(name for name in names if _unsupported_reason(open_clip.get_model_config(name)) is None)]


def _read_config(name: str) -> dict[str, Any]:
    """Read the configuration of an architecture (name without ``-quickgelu``)."""
    if name == TINY:
        return tiny_config()
    # Checked first, because open_clip would read a configuration from "hf-hub:..." and "local-dir:...".
    config = open_clip.get_model_config(name) if name in open_clip.list_models() else None
    reason = "open_clip has none of that name" if config is None else _unsupported_reason(config)
    if config is None or reason:
        msg = f"Backbone {name!r} cannot be used: {reason}. Supported are: {', '.join(list_backbones())}."
        raise ValueError(msg)
    return config


def plain_name(backbone: str) -> str:
    """Return the name of an architecture without ``-quickgelu``, which depends on the weights."""
    return str(backbone).removesuffix(_QUICKGELU)


def backbone_spec(backbone: str) -> BackboneSpec:
    """Look up the dimensions of a plain-ViT CLIP (name with or without ``-quickgelu``) without building it."""
    name = plain_name(backbone)
    config = _read_config(name)
    vision, text = config["vision_cfg"], config["text_cfg"]
    return BackboneSpec(
        name=name,
        patch_size=vision["patch_size"],
        image_size=vision["image_size"],
        depth=vision["layers"],
        vision_width=vision["width"],
        text_width=text["width"],
        embed_dim=config["embed_dim"],
        context_length=text.get("context_length", 77),
        quick_gelu=bool(config.get("quick_gelu")) or name != backbone,
    )


def resolve_image_size(spec: BackboneSpec, image_size: int | Sequence[int] | None) -> tuple[int, int]:
    """Convert the ``image_size`` argument to height and width in pixels; raise ``ValueError`` if it does not fit.

    ``None`` gives the paper's 518 px, rounded down to whole patches. A model trained on less than 224 px keeps its
    own size, because its position embedding cannot be interpolated that far (ours).
    """
    patch = spec.patch_size
    if image_size is None:
        image_size = spec.image_size if spec.image_size < 224 else PAPER_IMAGE_SIZE // patch * patch
    sides = tuple(image_size) if isinstance(image_size, Sequence) else (image_size, image_size)
    fit = all(type(side) is int and side % patch == 0 and 0 < side <= MAX_IMAGE_SIZE for side in sides)
    if len(sides) != 2 or not fit:
        near = {side - side % patch + step for side in sides if isinstance(side, int) for step in (0, patch)}
        hint = ", ".join(str(value) for value in sorted(near) if 0 < value <= MAX_IMAGE_SIZE)
        msg = (
            f"image_size {image_size!r} does not fit {spec.name}: give one number or (height, width), multiples of its "
            f"patch size {patch} up to {MAX_IMAGE_SIZE}.{hint and f' Nearest: {hint}.'}"
        )
        raise ValueError(msg)
    return sides


def resolve_layers(spec: BackboneSpec, layers: Sequence[int] | None) -> list[int]:
    """Convert the ``layers`` argument to distinct block numbers, counted from 1; raise ``ValueError`` if it has others.

    ``None`` gives the four quarters of the tower: 6, 12, 18, 24 for ViT-L/14, as in the paper.
    """
    if layers is None:
        return sorted({max(1, spec.depth * quarter // 4) for quarter in (1, 2, 3, 4)})
    layers = list(layers) if isinstance(layers, Sequence) else [layers]
    fit = all(type(layer) is int and 1 <= layer <= spec.depth for layer in layers)
    if not layers or not fit or len(set(layers)) != len(layers):
        msg = f"layers {layers!r} do not fit {spec.name}: give distinct block numbers between 1 and {spec.depth}."
        raise ValueError(msg)
    return sorted(layers)


def _find_pretrained(spec: BackboneSpec, pretrained: str) -> tuple[dict[str, Any], bool]:
    """Look up open_clip's entry for a tag, and whether its weights were trained with QuickGELU.

    open_clip 3.x marks such weights; 2.24 only lists them under the ``-quickgelu`` name too.
    """
    quick = open_clip.get_pretrained_cfg(spec.name + _QUICKGELU, pretrained)
    config = open_clip.get_pretrained_cfg(spec.name, pretrained) or quick
    return config, bool(quick or config.get("quick_gelu")) or pretrained == DEFAULT_PRETRAINED


def default_pretrained(spec: BackboneSpec) -> str:
    """Return the weights of a backbone for which none are given: OpenAI's, for ``"tiny"`` the bundled ones."""
    return BUNDLED if spec.name == TINY else DEFAULT_PRETRAINED


def check_pretrained(spec: BackboneSpec, pretrained: str) -> None:
    """Raise ``ValueError`` if ``pretrained`` is neither ``"random"``, nor weights that this model has, nor a file."""
    names = (spec.name, spec.name + _QUICKGELU)
    tags = sorted({tag for name in names for tag in open_clip.list_pretrained_tags_by_model(name)})
    own = [*([BUNDLED] if spec.name == TINY else tags), RANDOM]
    known = pretrained in own or is_file(pretrained)
    if not known and not (isinstance(pretrained, str) and _find_pretrained(spec, pretrained)[0]):  # other spellings
        msg = f"pretrained={pretrained!r} is no file, and {spec.name} has its own weights: {', '.join(own)}."
        raise ValueError(msg)


def _file_needs_quick_gelu(spec: BackboneSpec, path: Path) -> bool:
    """Infer the activation of a local file, which does not store it, and warn if GELU is assumed."""
    tags = open_clip.list_pretrained_tags_by_model(spec.name)
    # TorchScript archives are OpenAI's; for some architectures (ViT-L-14-336) all published weights use QuickGELU.
    quick = is_torchscript(path) or (bool(tags) and all(_find_pretrained(spec, tag)[1] for tag in tags))
    if not quick:
        text = "%s is read with GELU. If its weights were trained with QuickGELU, as OpenAI's were, use backbone=%r."
        logger.warning(text, path.name, spec.name + _QUICKGELU)
    return quick


def download_weights(backbone: str, pretrained: str, config: dict[str, Any]) -> str:
    """Download the weights of a tag through open_clip, whose entry for it is ``config``, and return the file."""
    try:
        with quiet("huggingface_hub"):
            return open_clip.download_pretrained(config)
    except Exception as error:  # noqa: BLE001  # hub clients and their versions raise different types
        msg = (
            f"The CLIP weights {pretrained!r} of {backbone} could not be downloaded: {why_unreadable(error)}.\n"
            "Alternatives:\n"
            "  - pretrained=<file>: a local copy (.safetensors or .pt) in open_clip's or OpenAI's layout;\n"
            "  - fill the cache on a machine with network access and copy it: ~/.cache/huggingface or ~/.cache/clip;\n"
            "  - backbone='tiny': the bundled demonstration CLIP, which needs no download."
        )
        raise ConnectionError(msg) from None  # the hub client's traceback has nothing that a user can act on


def read_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a ``.safetensors``, torch or TorchScript file in open_clip's or OpenAI's layout.

    A ``ValueError`` names a file that cannot be read, or has code, which is not run, or other objects.
    """
    path = Path(path)
    if zipfile.is_zipfile(path):
        check_archive(path)
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        elif is_torchscript(path):  # how OpenAI publishes its weights
            state = _read_torchscript(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251  # reads tensors only
    except Exception as error:  # readers raise various types for a corrupt file
        msg = f"{path} cannot be read as CLIP weights: {why_unreadable(error)}"
        raise ValueError(msg) from error
    state = state.get("state_dict", state) if isinstance(state, Mapping) else state
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        msg = f"{path} cannot be read as CLIP weights: it is not a dictionary of tensors."
        raise ValueError(msg)
    return {str(key).removeprefix("module."): value for key, value in state.items() if key not in _NO_WEIGHTS}


def is_torchscript(path: Path) -> bool:
    """Return whether a file is a TorchScript archive, which unlike a torch file has a ``constants.pkl``."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _read_torchscript(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a TorchScript archive; refuse ``__setstate__``, a method that loading would run."""
    copy = io.BytesIO()  # what was checked is loaded, because torch locates the files of an archive differently
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(copy, "w") as checked:
        for name in archive.namelist():
            content = archive.read(name)
            if b"__setstate__" in content:
                msg = "it contains code that would run when it is read"
                raise ValueError(msg)
            checked.writestr(name, content)
    copy.seek(0)
    return torch.jit.load(copy, map_location="cpu").state_dict()  # noqa: TID251  # no code left that runs


def load_clip(spec: BackboneSpec, pretrained: str, image_size: tuple[int, int]) -> CLIP:
    """Build a CLIP model for images of a height and width in pixels, and load its weights.

    The position embedding is interpolated by open_clip's own function (bicubic, antialiased). ``pretrained`` is an
    open_clip tag, a weights file, ``"bundled"`` (of ``"tiny"``), or ``"random"``: the same weights on every call.

    Returns:
        CLIP: open_clip's model, in float32 on the CPU, frozen, in evaluation mode.
    """
    quick_gelu, state = spec.quick_gelu, None
    if is_file(pretrained):
        state = read_weights(pretrained)
        if spec.name == TINY:
            state = expand_vocabulary(state)
        else:
            quick_gelu = quick_gelu or _file_needs_quick_gelu(spec, Path(pretrained))
    elif pretrained == BUNDLED:
        state = tiny_state_dict()
    elif pretrained == RANDOM:
        logger.warning("%s has random weights: its scores are meaningless.", spec.name)
    else:
        entry, quick = _find_pretrained(spec, pretrained)
        quick_gelu = quick_gelu or quick
        state = read_weights(download_weights(spec.name, pretrained, entry))
    config = _read_config(spec.name)
    config["vision_cfg"]["image_size"] = image_size
    # Keeps the global random state. Loaded weights replace uninitialized memory: drawing large models takes seconds.
    with torch.random.fork_rng(devices=[]), torch.device("cpu" if state is None else "meta"):
        torch.manual_seed(0)
        model = CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"], quick_gelu=quick_gelu)
    if state is not None:
        model = model.to_empty(device="cpu")
        model.attn_mask.fill_(float("-inf")).triu_(1)  # the only tensor that no file of weights has
        _load_state(model, state, spec, str(pretrained))
    return model.eval().requires_grad_(requires_grad=False)


def _load_state(model: CLIP, state: dict[str, torch.Tensor], spec: BackboneSpec, origin: str) -> None:
    """Load finite weights, whose keys must match the architecture's."""
    check_finite(state, origin)
    state = {key: value.float() for key, value in state.items()}
    try:
        resize_pos_embed(state, model)
        model.load_state_dict(state)
    except (RuntimeError, ValueError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        msg = f"{origin} does not contain the weights of {spec.name}: {' '.join(lines[1:3]) or lines[0]}"
        raise ValueError(msg) from error


def full_name(spec: BackboneSpec, model: CLIP) -> str:
    """Return the name of a built model, with ``-quickgelu`` if its weights required that activation."""
    quick = isinstance(model.visual.transformer.resblocks[0].mlp.gelu, QuickGELU)
    return spec.name + _QUICKGELU if quick and not backbone_spec(spec.name).quick_gelu else spec.name


def fingerprint(model: CLIP) -> str:
    """Hash float32 weights and activation of a CLIP, but not its position embedding, which depends on image_size."""
    activation = type(model.visual.transformer.resblocks[0].mlp.gelu).__name__
    weights = {key: value for key, value in model.named_parameters() if key != "visual.positional_embedding"}
    return digest(weights, {"activation": activation})[:16]
