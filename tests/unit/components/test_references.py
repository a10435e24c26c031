# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The comparison with reference images, and how it changes the zero-shot map."""

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from anomalib_genclip.components.references import ReferenceMemory, References, nearest_distance

LAYERS, PATCHES, WIDTH = 2, 4, 8
GRID = (2, 2)


def features(images: int) -> list[torch.Tensor]:
    """Make each layer's patch features of some images, of any length."""
    return list(3 * torch.randn(LAYERS, images, PATCHES, WIDTH))


def memory(layers: list[torch.Tensor], usual_distance: float = 0.5) -> ReferenceMemory:
    patches = F.normalize(torch.stack(layers).flatten(1, 2), dim=-1)
    return ReferenceMemory(patches, torch.tensor(usual_distance), ["hash"] * layers[0].shape[0])


def test_distance_is_one_minus_the_highest_cosine_in_the_mean_of_the_layers():
    layers, known = features(3), features(2)
    expected = torch.zeros(3, PATCHES)
    for own, theirs in zip(layers, known, strict=True):
        cosines = F.cosine_similarity(own[:, :, None], theirs.flatten(0, 1)[None, None], dim=-1)
        expected += (1 - cosines.amax(dim=-1)) / LAYERS
    torch.testing.assert_close(nearest_distance(layers, memory(known).patches), expected)


def test_small_distances_survive_half_precision():
    known = features(1)
    layers = [layer + 0.05 * torch.randn_like(layer) for layer in known]
    expected = nearest_distance(layers, memory(known).patches)
    half = nearest_distance([layer.bfloat16() for layer in layers], memory(known).patches)
    assert expected.max() < 0.01
    torch.testing.assert_close(half, expected, rtol=0.2, atol=1e-4)


def test_without_references_the_zero_shot_map_is_returned_as_it_is():
    grid = torch.rand(3, 1, *GRID)
    references = References()
    assert references.join(grid, features(3)) is grid
    assert references.index(["bottle"] * 3) is None
    assert not references.state_dict()


def test_odds_are_multiplied_by_the_squared_relative_distance():
    references, layers, known = References(), features(3), memory(features(2))
    references.set({"bottle": known})
    grid = torch.rand(3, 1, *GRID)
    joined = references.join(grid, layers).flatten(1)
    ratio = nearest_distance(layers, known.patches) / 0.5
    odds = grid.flatten(1) / (1 - grid.flatten(1)) * ratio**2
    torch.testing.assert_close(joined, odds / (1 + odds))


def test_what_the_references_show_too_is_normal():
    layers = features(1)
    references = References()
    references.set({"bottle": memory(layers)})
    assert references.join(torch.full((1, 1, *GRID), 0.9), layers).max() < 1e-3


def test_categories_do_not_leak_into_each_other():
    references, layers = References(), features(3)
    memories = {name: memory(features(2)) for name in ("bottle", "cable")}
    grid = torch.rand(3, 1, *GRID)
    expected = {}
    for name in memories:
        references.set({name: memories[name]})
        expected[name] = references.join(grid, layers)
    references.set(memories)
    index = references.index(["cable", "bottle", "cable"])
    joined = references.join(grid, layers, index)
    torch.testing.assert_close(joined[1], expected["bottle"][1])
    torch.testing.assert_close(joined[[0, 2]], expected["cable"][[0, 2]])


@pytest.mark.parametrize(
    ("known", "category", "class_name", "expected"),
    [
        (["bottle", "cable"], "cable", None, 1),
        (["bottle", "cable"], "wire", "cable", 1),
        (["bottle", "cable"], None, "cable", 1),
        (["cable"], None, None, 0),
        (["cable"], None, "wire", 0),
        ([""], "wire", None, 0),
    ],
)
def test_references_are_found_by_category_then_by_class_name(known, category, class_name, expected):
    references = References()
    references.set({name: memory(features(1)) for name in known})
    assert references.index([category], class_name).tolist() == [expected]


@pytest.mark.parametrize(("category", "named"), [("wire", "'wire'"), (None, "unknown category")])
def test_references_of_another_category_are_an_error_that_names_both(category, named):
    references = References()
    references.set({name: memory(features(1)) for name in ("bottle", "cable")})
    with pytest.raises(ValueError, match=rf"{named}.*'bottle', 'cable'.*class_name"):
        references.index([category])
