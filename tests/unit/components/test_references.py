# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The comparison with reference images, and how it changes the zero-shot map."""

import pytest
import torch
from torch.nn import functional as F  # noqa: N812
from torch.utils._python_dispatch import TorchDispatchMode

from anomalib_genclip.clip.frozen_clip import ImageTokens
from anomalib_genclip.components import references as module
from anomalib_genclip.components.references import ReferenceMemory, References, join_map, join_score, nearest_distance

LAYERS, PATCHES, WIDTH = 2, 4, 8
GRID = (2, 2)


def tokens(images: int) -> ImageTokens:
    patches = tuple(3 * torch.randn(LAYERS, images, PATCHES, WIDTH))
    return ImageTokens(patches, torch.randn(images, LAYERS, WIDTH), 3 * torch.randn(images, WIDTH), torch.zeros(images))


def memory(known: ImageTokens, patch_distance: float = 0.5, cls_distance: float = 0.25) -> ReferenceMemory:
    patches, cls = torch.stack(known.patches).flatten(1, 2), known.pooled.unsqueeze(0)
    usual = torch.tensor(patch_distance), torch.tensor(cls_distance)
    return ReferenceMemory(F.normalize(patches, dim=-1), F.normalize(cls, dim=-1), *usual, ["hash"] * len(known.pooled))


def test_distance_is_one_minus_the_highest_cosine_in_the_mean_of_the_layers():
    layers, known = tokens(3).patches, tokens(2)
    expected = torch.zeros(3, PATCHES)
    for own, theirs in zip(layers, known.patches, strict=True):
        cosines = F.cosine_similarity(own[:, :, None], theirs.flatten(0, 1)[None, None], dim=-1)
        expected += (1 - cosines.amax(dim=-1)) / LAYERS
    torch.testing.assert_close(nearest_distance(layers, memory(known).patches), expected)


def test_small_distances_survive_half_precision():
    known = tokens(1)
    layers = [layer + 0.05 * torch.randn_like(layer) for layer in known.patches]
    expected = nearest_distance(layers, memory(known).patches)
    half = nearest_distance([layer.bfloat16() for layer in layers], memory(known).patches)
    assert expected.max() < 0.01
    torch.testing.assert_close(half, expected, rtol=0.2, atol=1e-4)


def test_odds_are_multiplied_by_the_relative_distance():
    references, images, known = References(), tokens(3), memory(tokens(2))
    references.set({"bottle": known})
    distance = references(images)
    grid, score = torch.rand(3, 1, *GRID), torch.rand(3)
    odds = (grid / (1 - grid)) ** 0.25 * (nearest_distance(images.patches, known.patches) / 0.5).view_as(grid)
    torch.testing.assert_close(join_map(grid, distance), odds / (1 + odds))
    cosine = (F.normalize(images.pooled, dim=-1) @ known.cls[0].T).amax(dim=-1)
    odds = score / (1 - score) * ((1 - cosine) / 0.25).sqrt()
    torch.testing.assert_close(join_score(score, distance), odds / (1 + odds))


def test_categories_do_not_leak_into_each_other():
    references, images = References(), tokens(3)
    memories = {name: memory(tokens(2)) for name in ("bottle", "cable")}
    alone = {}
    for name, known in memories.items():
        references.set({name: known})
        alone[name] = references(images)
    references.set(memories)
    joined = references(images, references.index([["cable"], ["bottle"], ["cable"]]))
    for part in range(2):
        torch.testing.assert_close(joined[part][1], alone["bottle"][part][1])
        torch.testing.assert_close(joined[part][[0, 2]], alone["cable"][part][[0, 2]])


@pytest.mark.parametrize(
    ("known", "names", "expected"),
    [
        (["bottle", "metal_nut"], ["metal nut"], 1),
        (["bottle", "cable"], ["wire", "cable"], 1),
        (["cable"], [], 0),
        ([""], ["wire"], 0),
        (["bottle", "cable"], ["wire"], "'wire'"),
        (["bottle", "cable"], [], "unknown category"),
        (["bottle"], ["wire"], "'wire'"),
    ],
)
def test_references_are_found_by_name_or_an_error_says_which_there_are(known, names, expected):
    references = References()
    references.set({name: memory(tokens(1)) for name in known})
    if isinstance(expected, int):
        assert references.index([names]).tolist() == [expected]
        return
    with pytest.raises(ValueError, match=rf"{expected}.*{', '.join(map(repr, known))}.*class_name"):
        references.index([names])


def test_the_nearest_patches_are_found_part_by_part(monkeypatch):
    """The similarities of a batch and 10,000 patches would be gigabytes."""
    layers, known = tokens(3).patches, memory(tokens(2)).patches
    expected, sizes = nearest_distance(layers, known), []

    class Products(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if "mm" in str(function):
                sizes.append(result.numel())
            return result

    monkeypatch.setattr(module, "MOST_SIMILARITIES", 20)
    with Products():
        result = nearest_distance(layers, known)
    torch.testing.assert_close(result, expected, rtol=0, atol=0)
    assert max(sizes) <= 20
