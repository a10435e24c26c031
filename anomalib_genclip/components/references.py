# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Few-shot references: normal images whose patches the patches of a test image are compared with (ours)."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from anomalib_genclip.clip.frozen_clip import ImageTokens

from .class_names import clean_class_name

ZERO_SHOT_WEIGHT = 0.25  # of the zero-shot map's log-odds in the joined map (ours)
CLS_WEIGHT = 0.5  # of the CLS token's log r in the joined image score (ours)
CLS_SHARE = 1 / 3  # of w that the CLS token's probability keeps, because the joined map knows the product (ours)
MOST_SIMILARITIES = 1 << 24  # at once: 64 MB in float32
SMALLEST_DISTANCE = 1e-4  # smaller ones are float32's rounding
UNNAMED = ""  # category of references that were drawn without knowing one


class RelativeDistance(NamedTuple):
    """Distances to the references as multiples ``r`` of the usual ones, as logarithms in float32."""

    patches: Tensor  # of each patch, (B, N)
    image: Tensor  # of the CLS token, (B,)


class ReferenceMemory(nn.Module):
    """Features of one category's reference images."""

    patches: Tensor  # each tapped layer's patch features, (M, P, d_v), unit length
    cls: Tensor  # the last tapped layer's CLS tokens, (1, k, d_v), unit length
    usual_patch_distance: Tensor  # between normal images: mean of the farthest 1 % of the patches, ()
    usual_cls_distance: Tensor  # of their CLS tokens, ()

    def __init__(
        self,
        patches: Tensor,
        cls: Tensor,
        usual_patch_distance: Tensor,
        usual_cls_distance: Tensor,
        images: Sequence[str],
        drawn_with: str = "",
    ) -> None:
        super().__init__()
        self.register_buffer("patches", patches.float())
        self.register_buffer("cls", cls.float())
        self.register_buffer("usual_patch_distance", usual_patch_distance.float())
        self.register_buffer("usual_cls_distance", usual_cls_distance.float())
        self.images = list(images)  # the hash of each file
        self.drawn_with = drawn_with  # the settings that the features depend on

    def forward(self, image: ImageTokens) -> RelativeDistance:
        """Compare ``B`` images with the references: 0 at the usual distance."""
        patches = nearest_distance(image.patches, self.patches) / self.usual_patch_distance
        cls = nearest_distance([image.pooled.unsqueeze(1)], self.cls)[:, 0] / self.usual_cls_distance
        return RelativeDistance(patches.log(), cls.log())


class References(nn.Module):
    """The memories of all categories that have references.

    In the map, the odds of an anomaly become ``zero-shot odds ** 0.25 * r``, with the distance ``r`` to the nearest
    reference patch in multiples of the usual one. The image score, computed from that map with a third of ``w``, has
    its odds multiplied by ``sqrt(r)`` of the CLS token. Neither needs the other's scale: where the prompts say nothing,
    the zero-shot odds are the same everywhere and the references decide.
    """

    def __init__(self) -> None:
        super().__init__()
        self.memories = nn.ModuleList()
        self.categories: list[str] = []
        self.default: int | None = None  # memory for images without an index, as all images of an exported model

    def set(self, memories: Mapping[str, ReferenceMemory]) -> None:
        """Replace the memories by others; by none, which makes the model zero-shot again."""
        self.categories = [clean_class_name(name) if name else UNNAMED for name in memories]
        self.default = None if len(memories) > 1 else 0
        self.memories = nn.ModuleList(memories.values())

    def index(self, products: Sequence[Sequence[str]]) -> Tensor | None:
        """Look up the memories of images, ``(len(products),)``; ``None`` without references.

        ``products`` has each image's names, the most specific one first; none if unknown. A ``ValueError`` names an
        image without references, and those that have some.
        """
        return torch.tensor([self._lookup(names) for names in products]) if self.memories else None

    def _lookup(self, names: Sequence[str]) -> int:
        for name in (*names, UNNAMED):
            if name in self.categories:
                return self.categories.index(name)
        if not names and len(self.categories) == 1:
            return 0
        what = f"images of {names[0]!r}" if names else "images of unknown category"
        msg = (
            f"There are no references for {what}, only for {', '.join(map(repr, self.categories))}. If they show that "
            "product, give its name as class_name; otherwise draw other references (k_shot, few_shot_source)."
        )
        raise ValueError(msg)

    def forward(self, image: ImageTokens, index: Tensor | None = None) -> RelativeDistance | None:
        """Compare ``B`` images with the references of their categories; ``None`` without references.

        ``index`` ``(B,)`` is that of :meth:`index`; ``None`` uses the default memory.
        """
        if not self.memories:
            return None
        if index is None and self.default is None:
            self._lookup([])  # raises
        if index is None or len(self.memories) == 1:
            return self.memories[self.default](image)
        index = index.to(image.pooled.device)
        patches = torch.empty(image.patches[0].shape[:2], device=index.device)
        result = RelativeDistance(patches, torch.empty(len(index), device=index.device))
        for number in index.unique().tolist():
            rows = index == number
            own = ImageTokens(tuple(layer[rows] for layer in image.patches), *(part[rows] for part in image[1:]))
            result.patches[rows], result.image[rows] = self.memories[number](own)
        return result


def join_map(grid: Tensor, distance: RelativeDistance) -> Tensor:
    """Join the zero-shot map on the patch grid with the distances: ``(B, 1, h, w)``, in [0, 1]."""
    return torch.sigmoid(ZERO_SHOT_WEIGHT * torch.logit(grid, eps=1e-6) + distance.patches.view_as(grid))


def join_score(score: Tensor, distance: RelativeDistance) -> Tensor:
    """Join image scores, computed from the joined map, with the distance of the CLS token: ``(B,)``, in [0, 1]."""
    return torch.sigmoid(torch.logit(score.float(), eps=1e-6) + CLS_WEIGHT * distance.image)


def nearest_distance(layers: Sequence[Tensor], memory: Tensor) -> Tensor:
    """Compute each patch's distance ``1 - cos`` to a memory's nearest, mean of the layers: ``(B, N)``, float32, > 0.

    The layers are patch features ``(B, N, d_v)`` of any length; of the memory, ``(M, P, d_v)`` of unit length.
    """
    distances = []
    for patches, known in zip(layers, memory, strict=True):
        unit = F.normalize(patches.float(), dim=-1)
        # The run's precision finds the nearest patch; in half precision small distances would be 0.
        nearest = _nearest(unit.to(patches.dtype), known.to(patches.dtype))
        distances.append(1 - (unit * known[nearest]).sum(dim=-1))
    return torch.stack(distances).mean(dim=0).clamp(min=SMALLEST_DISTANCE)


def _nearest(patches: Tensor, memory: Tensor) -> Tensor:
    """Find the most similar vector of ``(P, d)`` for each of ``(B, N, d)``: its index, ``(B, N)``."""
    if torch.compiler.is_exporting():  # an exported graph has no loops
        return (patches @ memory.T).argmax(dim=-1)
    rows = patches.flatten(0, 1).split(max(1, MOST_SIMILARITIES // len(memory)))
    return torch.cat([(part @ memory.T).argmax(dim=-1) for part in rows]).view(patches.shape[:2])
