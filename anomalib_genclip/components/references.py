# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Few-shot references: normal images whose patches the patches of a test image are compared with (ours)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

EXPONENT = 2.0  # of the distance, as a factor of the odds (ours)
UNNAMED = ""  # category of references that were drawn without knowing one
SMALLEST_DISTANCE = 1e-4  # smaller ones are float32's rounding


class ReferenceMemory(nn.Module):
    """Patch features of one category's reference images.

    Args:
        patches (Tensor): Each tapped layer's patch features, ``(M, P, d_v)``, unit length.
        usual_distance (Tensor): Distance at which the odds of an anomaly stay as they are: that of the farthest 1 % of
            a normal image's patches, ``()``.
        images (Sequence[str]): Hash of each image's file.
    """

    patches: Tensor
    usual_distance: Tensor

    def __init__(self, patches: Tensor, usual_distance: Tensor, images: Sequence[str]) -> None:
        super().__init__()
        self.register_buffer("patches", patches.float())
        self.register_buffer("usual_distance", usual_distance.float())
        self.images = list(images)

    def forward(self, layers: Sequence[Tensor]) -> Tensor:
        """Compute the logarithm of the factor by which the references change the odds of an anomaly.

        Args:
            layers (Sequence[Tensor]): Each tapped layer's patch features, ``(B, N, d_v)``, any length.

        Returns:
            Tensor: ``2 log(distance / usual distance)``, ``(B, N)``, float32.
        """
        ratio = nearest_distance(layers, self.patches) / self.usual_distance.float().clamp(min=SMALLEST_DISTANCE)
        return EXPONENT * ratio.log()


class References(nn.Module):
    """The memories of all categories that have references.

    The odds of an anomaly that the zero-shot map gives are multiplied by the squared distance to the references,
    relative to the usual distance. Neither map needs the other's scale: where the prompts do not know, the odds are
    about 1:1 everywhere and the distance decides; where the part varies, so does the usual distance.
    """

    def __init__(self) -> None:
        super().__init__()
        self.memories = nn.ModuleList()
        self.categories: list[str] = []
        self.default = 0  # memory for images without an index, which includes all images of an exported model

    def set(self, memories: Mapping[str, ReferenceMemory]) -> None:
        """Replace the memories by others; by none, which makes the model zero-shot again."""
        self.categories, self.default = list(memories), 0
        self.memories = nn.ModuleList(memories.values())

    def index(self, categories: Sequence[str | None], class_name: str | None = None) -> Tensor | None:
        """Look up the memories that images are compared with.

        Args:
            categories (Sequence[str | None]): Each image's category, ``None`` if it is unknown.
            class_name (str | None): Category to try for those that have no references of their own.

        Returns:
            Tensor | None: Indices for :meth:`join`, ``(len(categories),)``; ``None`` without references.

        Raises:
            ValueError: If there are none for one of the categories; names it and those that have some.
        """
        if not self.memories:
            return None
        return torch.tensor([self._lookup(category, class_name) for category in categories])

    def _lookup(self, category: str | None, class_name: str | None) -> int:
        for name in (category, class_name, UNNAMED):
            if name in self.categories:
                return self.categories.index(name)
        if category is None and len(self.categories) == 1:
            return 0
        what = "images of unknown category" if category is None else f"images of category {category!r}"
        msg = (
            f"There are no references for {what}, only for {', '.join(map(repr, self.categories))}. If they show that "
            "product, give its name as class_name; otherwise draw other references (k_shot, few_shot_source)."
        )
        raise ValueError(msg)

    def join(self, grid: Tensor, layers: Sequence[Tensor], index: Tensor | None = None) -> Tensor:
        """Join the zero-shot map with the comparison.

        Args:
            grid (Tensor): Zero-shot map on the patch grid, ``(B, 1, h, w)``, in [0, 1].
            layers (Sequence[Tensor]): Each tapped layer's patch features, ``(B, N, d_v)``.
            index (Tensor | None): From :meth:`index`, ``(B,)``; ``None`` uses the default memory.

        Returns:
            Tensor: Joined map, ``(B, 1, h, w)``, in [0, 1]; without references the zero-shot map.
        """
        if not self.memories:
            return grid
        if index is None or len(self.memories) == 1:
            factor = self.memories[self.default](layers)
        else:
            factor = torch.empty(layers[0].shape[:2], device=grid.device)
            for number in index.unique().tolist():
                images = (index == number).to(grid.device)
                factor[images] = self.memories[number]([patches[images] for patches in layers])
        return torch.sigmoid(torch.logit(grid, eps=1e-6) + factor.view_as(grid))

    def describe(self) -> list[dict[str, Any]]:
        """Return category and file hashes of each memory, as plain data."""
        memories = zip(self.categories, self.memories, strict=True)
        return [{"category": category, "images": memory.images} for category, memory in memories]


def nearest_distance(layers: Sequence[Tensor], memory: Tensor) -> Tensor:
    """Compute each patch's distance to the nearest patch of a memory: ``1 - cos``, mean of the layers.

    Args:
        layers (Sequence[Tensor]): Each tapped layer's patch features, ``(B, N, d_v)``, any length.
        memory (Tensor): The same layers' features to compare with, ``(M, P, d_v)``, unit length.

    Returns:
        Tensor: Distances, ``(B, N)``, float32, positive.
    """
    distances = []
    for patches, known in zip(layers, memory, strict=True):
        unit = F.normalize(patches.float(), dim=-1)
        # The run's precision finds the nearest patch; in half precision small distances would be 0.
        nearest = (unit.to(patches.dtype) @ known.to(patches.dtype).T).argmax(dim=-1)
        distances.append(1 - (unit * known[nearest]).sum(dim=-1))
    return torch.stack(distances).mean(dim=0).clamp(min=SMALLEST_DISTANCE)
