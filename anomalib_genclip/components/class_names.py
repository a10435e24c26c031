# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Class names: their tokens, and Class Name Filtering (CNF)."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from anomalib_genclip.clip.frozen_clip import FrozenCLIP, clip_tokenizer

GENERIC = "object"
ABNORMAL_WORD = "damaged"
MAX_SHOWN = 60
# WinCLIP's words for the two states, with one of its templates (ours: all 21 of them gave the same results).
NORMAL_STATES = (
    "a photo of a {}", "a photo of a flawless {}", "a photo of a perfect {}", "a photo of an unblemished {}",
    "a photo of a {} without flaw", "a photo of a {} without defect", "a photo of a {} without damage",
)  # fmt: skip
ABNORMAL_STATES = (
    "a photo of a damaged {}", "a photo of a {} with flaw", "a photo of a {} with defect",
    "a photo of a {} with damage",
)  # fmt: skip


def clean_class_name(name: str) -> str:
    """Convert a class name to the form used in prompts: ``_`` becomes a space.

    Raises:
        ValueError: If it is not a string, or is blank.
    """
    if not isinstance(name, str):
        msg = f"Class name {name!r} is not a string. Put it in quotes."
        raise ValueError(msg)  # noqa: TRY004  # invalid settings are ValueErrors
    cleaned = " ".join(name.replace("_", " ").split())
    if not cleaned:
        msg = f"Class name {name!r} is empty. Give the product's name, or leave it out to use {GENERIC!r}."
        raise ValueError(msg)
    return cleaned


def _written_prompt(name: str) -> str:
    """Return the prompt that CNF compares an image with."""
    return f"a photo of an {GENERIC}" if name == GENERIC else f"a photo of a {name}"


def suffix_ids(name: str, max_tokens: int) -> tuple[list[int], list[int]]:
    """Tokenize the suffix of the normal and of the abnormal prompt, which follows the learnable tokens.

    Args:
        name (str): Cleaned class name.
        max_tokens (int): Maximum number of tokens of ``damaged {class} [EOS]``.

    Returns:
        tuple[list[int], list[int]]: Token IDs of ``{class} [EOS]`` and of ``damaged {class} [EOS]``.

    Raises:
        ValueError: If the name has no tokens, or too many.
    """
    tokenizer = clip_tokenizer()
    normal = [*tokenizer.encode(name), tokenizer.eot_token_id]
    abnormal = [*tokenizer.encode(ABNORMAL_WORD), *normal]
    shown = repr(name if len(name) <= MAX_SHOWN else f"{name[:MAX_SHOWN]}...")
    if len(normal) == 1:
        msg = f"Class name {shown} has no token that CLIP knows."
        raise ValueError(msg)
    if len(abnormal) > max_tokens:
        room = max_tokens - len(abnormal) + len(normal) - 1
        msg = (
            f"Class name {shown} has {len(normal) - 1} tokens; with these prompt lengths there is room for {room}. "
            "Give a shorter name."
        )
        raise ValueError(msg)
    return normal, abnormal


def check_class_names(class_name: str | None, class_names: Mapping[str, str] | None, max_tokens: int) -> dict[str, str]:
    """Check the user's class names before a model is built.

    Args:
        class_name (str | None): The model's argument of that name.
        class_names (Mapping[str, str] | None): The model's argument of that name.
        max_tokens (int): Maximum number of tokens of ``damaged {class} [EOS]``.

    Returns:
        dict[str, str]: ``class_names``, empty for ``None``.

    Raises:
        ValueError: If ``class_names`` is not a mapping of strings, or a name is blank, or has no tokens or too many.
    """
    class_names = {} if class_names is None else class_names
    if not isinstance(class_names, Mapping):
        msg = f"class_names={class_names!r} must map categories to names, such as {{'01': 'cable'}}."
        raise ValueError(msg)  # noqa: TRY004  # invalid settings are ValueErrors
    for key in class_names:
        if not isinstance(key, str):
            msg = f'class_names has the category {key!r}, not a string. Put it in quotes: \'{{"01": "cable"}}\'.'
            raise ValueError(msg)  # noqa: TRY004  # likewise
    for name in [*([] if class_name is None else [class_name]), *class_names.values()]:
        suffix_ids(clean_class_name(name), max_tokens)
    return dict(class_names)


class ClassNames(nn.Module):
    """A growing table of class names and everything that depends on a name only.

    Index 0 is always ``"object"``, the name that CNF falls back to. The buffers are not saved, because nothing in them
    is learned.

    Args:
        clip (FrozenCLIP): Computes token embeddings and text features. Not registered as a submodule, because it
            belongs to the model.
        max_tokens (int): Maximum number of tokens of a suffix (``damaged {class} [EOS]``).
    """

    suffix: Tensor
    eos: Tensor
    features: Tensor
    states: Tensor

    def __init__(self, clip: FrozenCLIP, max_tokens: int) -> None:
        super().__init__()
        self.max_tokens = max_tokens
        self.names: list[str] = []
        width = clip.model.token_embedding.weight.shape[1]
        self.register_buffer("suffix", torch.zeros(0, 2, 1, width), persistent=False)
        self.register_buffer("eos", torch.zeros(0, 2, dtype=torch.long), persistent=False)
        embed_dim = clip.model.visual.proj.shape[1]
        self.register_buffer("features", torch.zeros(0, embed_dim), persistent=False)
        self.register_buffer("states", torch.zeros(0, 2, embed_dim), persistent=False)
        self.add([GENERIC], clip)

    @torch.inference_mode(mode=False)
    @torch.no_grad()
    def add(self, names: Iterable[str], clip: FrozenCLIP) -> None:
        """Add cleaned names that are not in the table yet.

        Runs outside of inference mode, because training may use the same buffers later.

        Args:
            names (Iterable[str]): Cleaned class names.
            clip (FrozenCLIP): Computes token embeddings and text features.

        Raises:
            ValueError: If a name has no tokens, or too many; the table is unchanged then.
        """
        new = list(dict.fromkeys(name for name in names if name not in self.names))
        if not new:
            return
        ids = [suffix_ids(name, self.max_tokens) for name in new]
        with torch.autocast(self.suffix.device.type, enabled=False):
            features = clip.encode_texts([_written_prompt(name) for name in new])
            states = _encode_states(clip, new)
        length = max(self.suffix.shape[2], *(len(sequence) for pair in ids for sequence in pair))
        padded = torch.stack([torch.stack([_pad(clip.embed(sequence), length) for sequence in pair]) for pair in ids])
        known = nn.functional.pad(self.suffix, (0, 0, 0, length - self.suffix.shape[2]))
        self.suffix = torch.cat([known, padded])
        lengths = torch.tensor([[len(sequence) - 1 for sequence in pair] for pair in ids], device=self.eos.device)
        self.eos = torch.cat([self.eos, lengths])
        self.features = torch.cat([self.features, features])
        self.states = torch.cat([self.states, states])
        self.names.extend(new)

    def index(self, names: Sequence[str]) -> Tensor:
        """Look up names.

        Returns:
            Tensor: Their indices, ``(len(names),)``.
        """
        return torch.tensor([self.names.index(name) for name in names], device=self.eos.device)

    def state_cosines(self, embedding: Tensor, index: Tensor) -> Tensor:
        """Compute the similarity of images and the written states of their class names, as in WinCLIP (ours).

        Args:
            embedding (Tensor): CLIP's image embeddings, ``(B, d)``, unit length.
            index (Tensor): Indices of the images' class names, ``(B,)``.

        Returns:
            Tensor: Cosines, ``(B, 2)``; index 0 is normal.
        """
        # As in filter(), products one by one: autocast would round matrix products to half precision.
        return (self.states.to(embedding.dtype)[index] * embedding.unsqueeze(1)).sum(dim=-1)

    def filter(self, embedding: Tensor, index: Tensor) -> Tensor:
        """Class Name Filtering: replace names that do not fit the image by "object" (rule: ours).

        A name is kept if the image is at least as close to "a photo of a {class}" as to "a photo of an object".

        Args:
            embedding (Tensor): CLIP's image embeddings, ``(B, d)``, unit length.
            index (Tensor): Indices of the images' class names, ``(B,)``.

        Returns:
            Tensor: The same indices, with 0 (``"object"``) for names that are replaced, ``(B,)``.
        """
        features = self.features.to(embedding.dtype)
        named = (embedding * features[index]).sum(dim=-1)
        generic = (embedding * features[0]).sum(dim=-1)
        return torch.where(named >= generic, index, torch.zeros_like(index))


def _encode_states(clip: FrozenCLIP, names: Sequence[str]) -> Tensor:
    """Average the text features of the prompts of each state, ``(len(names), 2, d)``, unit length."""
    states = [
        clip
        .encode_texts([text.format(name) for name in names for text in texts])
        .unflatten(0, (-1, len(texts)))
        .mean(dim=1)
        for texts in (NORMAL_STATES, ABNORMAL_STATES)
    ]
    return nn.functional.normalize(torch.stack(states, dim=1), dim=-1)


def _pad(embeddings: Tensor, length: int) -> Tensor:
    """Pad token embeddings ``(L, d_t)`` with zeros to ``(length, d_t)``."""
    return nn.functional.pad(embeddings, (0, 0, 0, length - len(embeddings)))
