# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Class names: their tokens, and Class Name Filtering (CNF)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from anomalib_genclip.clip.frozen_clip import FrozenCLIP, clip_tokenizer

GENERIC = "object"
ABNORMAL_WORD = "damaged"
MAX_SHOWN = 60


def clean_class_name(name: str) -> str:
    """Convert a class name to the form used in prompts, ``_`` to a space; ``ValueError`` if it is no text or blank."""
    if not isinstance(name, str):
        msg = f"Class name {name!r} is not a string. Put it in quotes."
        raise ValueError(msg)  # noqa: TRY004  # invalid settings are ValueErrors
    cleaned = " ".join(name.replace("_", " ").split())
    if not cleaned:
        msg = f"Class name {name!r} is empty. Give the product's name, or leave it out to use {GENERIC!r}."
        raise ValueError(msg)
    return cleaned


def suffix_ids(name: str, max_tokens: int) -> tuple[list[int], list[int]]:
    """Tokenize ``{class} [EOS]`` and ``damaged {class} [EOS]``; ``ValueError`` for none or above ``max_tokens``."""
    tokenizer = clip_tokenizer()
    normal = [*tokenizer.encode(name), tokenizer.eot_token_id]
    abnormal = [*tokenizer.encode(ABNORMAL_WORD), *normal]
    shown = repr(name if len(name) <= MAX_SHOWN else f"{name[:MAX_SHOWN]}...")
    if len(normal) == 1:
        msg = f"Class name {shown} has no token that CLIP knows."
        raise ValueError(msg)
    if len(abnormal) > max_tokens:
        room = max_tokens - len(abnormal) + len(normal) - 1
        msg = f"Class name {shown} has {len(normal) - 1} tokens, and these prompt lengths have room for {room}."
        raise ValueError(msg)
    return normal, abnormal


@dataclass(frozen=True)
class NameRule:
    """Which class name an image gets: the given one, then its category, then the weights file's, then "object".

    All names are cleaned, so that ``metal_nut`` and ``metal nut`` are one.
    """

    given: str | None = None  # name for all images
    of_category: Mapping[str, str] = field(default_factory=dict)  # names for categories without a meaningful one
    of_file: str | None = None  # product that the weights were calibrated or given references for

    @classmethod
    def of(cls, class_name: Any, of_file: str | None, max_tokens: int) -> "NameRule":  # noqa: ANN401  # any user input
        """Build the rule from the model's argument, a name or names by category, before a model is built.

        A ``ValueError`` says that it is neither, or names one that is blank, or that :func:`suffix_ids` refuses.
        """
        names: Any = {None: class_name} if class_name is None or isinstance(class_name, str) else class_name
        if not isinstance(names, Mapping):
            msg = f"class_name={class_name!r} must be a name, or map categories to names, such as {{'01': 'cable'}}."
            raise ValueError(msg)  # noqa: TRY004  # invalid settings are ValueErrors
        cleaned: dict[Any, str] = {}
        for key, name in names.items():
            if not isinstance(key, str | None):
                msg = f'class_name has the category {key!r}, not a string. Put it in quotes: \'{{"01": "cable"}}\'.'
                raise ValueError(msg)  # noqa: TRY004  # likewise
            if name is not None or key is not None:
                cleaned[key and clean_class_name(key)] = clean_class_name(name)
        for name in cleaned.values():
            suffix_ids(name, max_tokens)
        return cls(cleaned.pop(None, None), cleaned, of_file)

    def name_of(self, category: str | None) -> str:
        """Return the class name of an image, from its category or ``None``; ``ValueError`` if the category is blank."""
        name = clean_class_name(self.given or category or self.of_file or GENERIC)
        return self.of_category.get(name, name)

    def products_of(self, category: str | None) -> list[str]:
        """Return the names by which an image's references are looked up; none if nothing is known of it."""
        known = [category, self.given or (category and self.name_of(category))]
        known = known if any(known) else [self.of_file]
        return list(dict.fromkeys(clean_class_name(name) for name in known if name))


class ClassNames(nn.Module):
    """A growing table of class names and everything that depends on a name only.

    Index 0 is always ``"object"``, to which CNF falls back. The buffers are not saved: nothing in them is learned.
    The model's ``clip`` embeds tokens and encodes texts. A suffix (``damaged {class} [EOS]``) has ≤ ``max_tokens``.
    """

    suffix: Tensor
    eos: Tensor
    features: Tensor

    def __init__(self, clip: FrozenCLIP, max_tokens: int) -> None:
        super().__init__()
        self.max_tokens = max_tokens
        self.names: list[str] = []
        width, embed_dim = clip.model.token_embedding.weight.shape[1], clip.model.visual.proj.shape[1]
        self.register_buffer("suffix", torch.zeros(0, 2, 1, width), persistent=False)
        self.register_buffer("eos", torch.zeros(0, 2, dtype=torch.long), persistent=False)
        self.register_buffer("features", torch.zeros(0, embed_dim), persistent=False)
        self.add([GENERIC], clip)

    @torch.inference_mode(mode=False)
    @torch.no_grad()
    def add(self, names: Iterable[str], clip: FrozenCLIP) -> None:
        """Add cleaned names that are not in the table yet.

        Runs outside of inference mode, because training may use the same buffers later. A ``ValueError`` names one
        without tokens, or with too many; the table is unchanged then.
        """
        new = list(dict.fromkeys(name for name in names if name not in self.names))
        if not new:
            return
        ids = [suffix_ids(name, self.max_tokens) for name in new]
        prompts = [f"a photo of {'an' if name == GENERIC else 'a'} {name}" for name in new]
        with torch.autocast(self.suffix.device.type, enabled=False):
            features = clip.encode_texts(prompts)
        embeddings = [clip.embed(sequence) for pair in ids for sequence in pair]
        tokens = nn.utils.rnn.pad_sequence(embeddings, batch_first=True).unflatten(0, (-1, 2))
        length = max(self.suffix.shape[2], tokens.shape[2])
        parts = [nn.functional.pad(part, (0, 0, 0, length - part.shape[2])) for part in (self.suffix, tokens)]
        self.suffix = torch.cat(parts)
        lengths = torch.tensor([[len(sequence) - 1 for sequence in pair] for pair in ids], device=self.eos.device)
        self.eos = torch.cat([self.eos, lengths])
        self.features = torch.cat([self.features, features])
        self.names.extend(new)

    def index(self, names: Sequence[str]) -> Tensor:
        """Look up the indices of names, ``(len(names),)``."""
        return torch.tensor([self.names.index(name) for name in names], device=self.eos.device)

    def filter(self, embedding: Tensor, index: Tensor) -> Tensor:
        """Class Name Filtering: replace names that do not fit the image by "object" (rule: ours).

        A name is kept if the image is at least as close to "a photo of a {class}" as to "a photo of an object".
        Takes CLIP's image embeddings ``(B, d)``, of unit length, and names' indices ``(B,)``: returned, 0 if replaced.
        """
        features = self.features.to(embedding.dtype)
        named = (embedding * features[index]).sum(dim=-1)
        return torch.where(named >= (embedding * features[0]).sum(dim=-1), index, torch.zeros_like(index))
