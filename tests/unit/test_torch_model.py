# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The method: DESIGN and paper against what the torch model computes."""

import copy

import numpy as np
import pytest
import torch
from anomalib.data.utils.tiler import Tiler
from helpers.models import BACKBONE, SIZE, torch_model
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch.nn import functional as F  # noqa: N812
from torchmetrics.functional.classification import binary_auroc
from torchvision.transforms.v2 import Normalize

from anomalib_genclip import GenCLIP
from anomalib_genclip.components.anomaly_map import abnormal_probability, top_mean, upsample
from anomalib_genclip.components.loss import GenCLIPLoss
from anomalib_genclip.components.references import ReferenceMemory
from anomalib_genclip.demo.synthetic import render
from anomalib_genclip.torch_model import GenCLIPModel, gaussian_blur


@pytest.fixture(scope="module")
def renders() -> tuple[GenCLIPModel, torch.Tensor]:
    model = GenCLIP(weights="tiny-demo", class_name="leather").eval()
    rng = np.random.default_rng(0)
    pictures = np.stack([render("leather", kind, 112, rng)[0] for kind in (None, "scratch", "stain", "hole")])
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    return model.model, Normalize(OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)(images)


def test_vision_enhanced_features_depend_on_the_image_and_query_features_do_not(noisy, images):
    image = noisy.clip.encode_image(images)
    text = noisy._branch_text(image, noisy.class_index(["cap"] * 3))
    assert text["vision"].shape == (4, 3, 2, 256)
    assert not torch.allclose(text["vision"][:, 0], text["vision"][:, 1], atol=1e-4)
    assert all(layer is noisy.query_features for layer in text["query"])
    torch.testing.assert_close(noisy.query_features, noisy.compute_query_features(noisy.encode_prefix()))


def test_text_features_and_gradients_are_those_of_open_clips_own_blocks(noisy, images):
    """The beginning of the prompts runs once, the rest goes on from its keys and values: nothing changes by that."""
    image = noisy.clip.encode_image(images)
    index = noisy.class_index(["cap", "printed circuit board", "object"])
    result, expected = noisy._vision_text(image, index, noisy.text_prefix, None, 0), _whole_prompts(noisy, image, index)
    torch.testing.assert_close(result, expected, atol=1e-6, rtol=1e-5)
    direction, parameters = torch.randn(256), list(noisy.train().prompts.parameters())
    result = noisy._vision_text(image, index, noisy.encode_prefix(), None, 0)
    gradients, wanted = (torch.autograd.grad((text @ direction).sum(), parameters) for text in (result, expected))
    torch.testing.assert_close(gradients, wanted, atol=1e-5, rtol=1e-4)


def _whole_prompts(model, image, index):
    clip, prefix = model.clip.model, model.prompts.prefix(model.sos)
    blocks = clip.transformer.resblocks
    batch = 0 if blocks[0].attn.batch_first else 1
    vision = model.prompts.vision_prompts(image.cls)
    features = []
    for layer in range(len(model.layers)):
        for position, name in enumerate(index):
            query = model.prompts.query + vision[position, layer]
            for state in (0, 1):
                suffix = model.class_names.suffix[name, state, : model.class_names.eos[name, state] + 1]
                tokens = torch.cat([prefix[state], query, suffix])
                length = len(tokens)
                tokens = (tokens + clip.positional_embedding[:length]).unsqueeze(batch)
                for block in blocks:
                    tokens = block(tokens, attn_mask=clip.attn_mask[:length, :length])
                features.append(clip.ln_final(tokens.squeeze(batch)[-1]) @ clip.text_projection)
    shape = (len(model.layers), len(index), 2)
    return F.normalize(torch.stack(features), dim=-1).unflatten(0, shape)


@pytest.mark.parametrize("how", ["training", "loading"])
def test_query_features_follow_the_prompts(noisy, images, how):
    before = noisy(images).pred_score
    if how == "training":
        noisy.train()
        with torch.no_grad():
            noisy.prompts.abnormal.normal_()
        noisy.eval()
    else:
        changed = torch.randn_like(noisy.prompts.abnormal)
        noisy.load_state_dict({**noisy.state_dict(), "prompts.abnormal": changed})
    after = noisy(images).pred_score
    assert not torch.allclose(before, after)
    torch.testing.assert_close(noisy.query_features, noisy.compute_query_features(noisy.encode_prefix()))


def test_filtered_name_gives_the_map_of_object(noisy, images):
    names = ["zxqv wkjh"] * 3
    generic = noisy(images, noisy.class_index(["object"] * 3)).anomaly_map
    index = noisy.class_index(names)
    embedding = noisy.clip.encode_image(images).embedding
    noisy.class_names.features[index[0]] = -embedding.mean(dim=0)  # a name that fits no image
    torch.testing.assert_close(noisy(images, index).anomaly_map, generic)
    noisy.class_name_filter = False
    assert not torch.allclose(noisy(images, index).anomaly_map, generic, atol=1e-4)


def test_class_names_of_one_batch_do_not_mix_and_the_longest_fits(noisy, images):
    noisy.class_name_filter = False
    index = noisy.class_index(["cable", "screw " * 66, "object"])
    together = noisy(images, index)
    for i in range(3):
        alone = noisy(images[i : i + 1], index[i : i + 1])
        torch.testing.assert_close(together.anomaly_map[i], alone.anomaly_map[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(together.pred_score[i], alone.pred_score[0], atol=1e-5, rtol=1e-4)


def test_two_branch_map_is_the_mean_of_both(noisy, images):
    results = {}
    for branches in ("both", "vision", "query"):
        noisy.branches = branches
        results[branches] = noisy.score_parts(images, noisy.class_index(["cable"] * 3))
        assert results[branches].anomaly_map.shape == (3, 1, SIZE, SIZE)
    mean = (results["vision"].anomaly_map + results["query"].anomaly_map) / 2
    torch.testing.assert_close(results["both"].anomaly_map, mean)
    assert not torch.allclose(results["vision"].anomaly_map, results["query"].anomaly_map, atol=1e-4)


def test_map_is_the_mean_of_the_layers(noisy, images):
    noisy.branches = "query"
    image = noisy.clip.encode_image(images)
    text = noisy.compute_query_features(noisy.encode_prefix())
    maps = []
    for patches, psi in zip(image.patches, noisy.projections, strict=True):
        features = F.normalize(patches @ psi, dim=-1)
        maps.append(abnormal_probability(features @ text.T / 0.07).view(3, 1, 3, 3))
    expected = F.interpolate(torch.stack(maps).mean(dim=0), (SIZE, SIZE), mode="bilinear", align_corners=False)
    torch.testing.assert_close(noisy(images).anomaly_map, expected)


def test_image_score_joins_top_of_the_map_and_cls(noisy, images):
    """Without references bit for bit, also after some have been removed."""
    parts, result = noisy.score_parts(images), noisy(images)
    grid = torch.stack(list(parts.branches.maps.values())).mean(dim=0)
    torch.testing.assert_close(result.anomaly_map, upsample(grid, noisy.image_size).clamp(0, 1), rtol=0, atol=0)
    score = torch.lerp(top_mean(result.anomaly_map), parts.branches.cls, 0.5)
    torch.testing.assert_close(result.pred_score, score, rtol=0, atol=0)
    tokens = noisy.clip.encode_image(images[:1])
    known = (F.normalize(torch.stack(part), dim=-1) for part in ([x[0] for x in tokens.patches], [tokens.pooled]))
    noisy.references.set({"cap": ReferenceMemory(*known, torch.tensor(0.5), torch.tensor(0.5), ["hash"])})
    assert not torch.equal(noisy(images).anomaly_map, result.anomaly_map)
    noisy.references.set({})
    torch.testing.assert_close(noisy(images).pred_score, score, rtol=0, atol=0)
    noisy.score_weight = 0.0
    torch.testing.assert_close(noisy(images).pred_score, parts.top, rtol=0, atol=0)


def assert_in_unit_interval(result):
    for value in (result.anomaly_map, result.pred_score):
        assert value.isfinite().all()
        assert 0 <= value.min() <= value.max() <= 1


def test_outputs_are_in_the_unit_interval_however_extreme_the_features(noisy, images):
    assert_in_unit_interval(noisy(images * 1e4))


def test_smoothing_keeps_the_mean_and_lowers_the_spread(noisy, images):
    sharp, noisy.smoothing = noisy(images).anomaly_map, gaussian_blur(4.0)
    smooth = noisy(images).anomaly_map
    assert smooth.std() < sharp.std()
    torch.testing.assert_close(smooth.mean(), sharp.mean(), atol=0.02, rtol=0)


def test_image_size_may_be_oblong():
    model = torch_model(BACKBONE, image_size=(64, 128)).eval()
    assert model(torch.randn(1, 3, 64, 128)).anomaly_map.shape == (1, 1, 64, 128)
    assert model.clip.grid_size == (2, 4)


@pytest.mark.parametrize("patch_attention", ["clip", "value"])
def test_compiles_without_a_graph_break(noisy, images, patch_attention):
    noisy.clip.patch_attention = patch_attention
    index = noisy.class_index(["cable"] * 3)
    compiled = torch.compile(noisy, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(images, index).anomaly_map, noisy(images, index).anomaly_map)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_changes_little(renders, dtype):
    model, images = renders
    expected = model(images)
    with torch.autocast("cpu", dtype):
        result = model(images)
    # bfloat16 has 8 bits: at steep edges of the map the vision tower itself moves single pixels by 0.02.
    allowed = 1.0 if dtype == torch.float16 else 0.97
    within = (result.anomaly_map - expected.anomaly_map).abs() <= 1e-2
    assert within.float().mean() >= allowed
    torch.testing.assert_close(result.pred_score, expected.pred_score, atol=2e-2, rtol=0)


def _train(model, images, mask, steps, lr=1e-3):
    model.train()
    loss = GenCLIPLoss(image_weight=0.5)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss(*model.training_logits(images, None), mask)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    model.eval()
    return losses


def test_query_only_images_train_on_the_query_prompt(noisy, images):
    index = noisy.class_index(["cable"] * 3)
    maps, _ = noisy.training_logits(images, index, torch.tensor([True, False, False]))
    text = noisy.compute_query_features(noisy.encode_prefix())
    patches = noisy.clip.encode_image(images).patches[0]
    expected = F.normalize(patches @ noisy.projections[0], dim=-1) @ text.T / 0.07
    expected = expected.transpose(1, 2).unflatten(-1, (3, 3))
    torch.testing.assert_close(maps[0, 0], expected[0], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(maps[0, 1], expected[1], atol=1e-2)


def test_vision_prompts_are_dropped_image_by_image_and_the_others_scaled_up(noisy, images):
    index = noisy.class_index(["cable"] * 3)

    def of(scale: float) -> torch.Tensor:
        scaled = copy.deepcopy(noisy)
        for phi in scaled.prompts.vision:
            phi.register_forward_hook(lambda _module, _images, vision: scale * vision)
        return scaled.training_logits(images, index)[0]

    torch.testing.assert_close(noisy.training_logits(images, index, vision_dropout=1.0)[0], of(0))
    dropped, kept = of(0), of(2)
    assert not torch.allclose(dropped, kept, atol=1e-3)
    maps = noisy.training_logits(images, index, vision_dropout=0.5)[0]
    choices = {
        (torch.allclose(m, d, atol=1e-4), torch.allclose(m, k, atol=1e-4))
        for layer in zip(maps, dropped, kept, strict=True)
        for m, d, k in zip(*layer, strict=True)
    }
    assert choices == {(True, False), (False, True)}


def test_planted_defects_can_be_overfitted(model):
    torch.manual_seed(0)
    images = torch.randn(4, 3, SIZE, SIZE) * 0.1
    mask = torch.zeros(4, SIZE, SIZE)
    images[0, :, :32, 32:64] += 2
    mask[0, :32, 32:64] = 1
    images[2, :, 64:, :32] += 2
    mask[2, 64:, :32] = 1
    untrained = model(images)
    losses = _train(model, images, mask, steps=25, lr=5e-3)
    trained = model(images)
    assert losses[-1] < 0.5 * losses[0]
    before, after = (binary_auroc(maps.anomaly_map.squeeze(1), mask.int()) for maps in (untrained, trained))
    assert after > max(0.97, before)


def test_cls_token_is_compared_with_the_learned_prompts(noisy, images):
    """As in training, mean of both branches."""
    noisy.class_name_filter = False
    index = noisy.class_index(["coin"] * 3)
    found = noisy.branch_maps(images, index)
    pooled = F.normalize(noisy.clip.encode_image(images).pooled @ noisy.projections[-1], dim=-1)
    expected = [
        ((text[-1] @ pooled.unsqueeze(-1)).squeeze(-1) / 0.07).softmax(-1)[:, 1] for text in found.text.values()
    ]
    assert len(expected) == 2
    torch.testing.assert_close(found.cls, torch.stack(expected).mean(0))
    _, logits = noisy.training_logits(images, index)
    torch.testing.assert_close(logits.softmax(-1)[:, 1], expected[0])


@pytest.fixture
def tiled(noisy):
    noisy.tiler, noisy.tile_batch_size = Tiler(128, 96), 5
    return noisy


def test_image_of_one_tile_is_seen_as_without_tiles(noisy, images):
    plain = noisy(images)
    noisy.tiler = Tiler(SIZE, SIZE)
    tiled = noisy(images)
    torch.testing.assert_close(tiled.anomaly_map, plain.anomaly_map, atol=1e-5, rtol=0)
    torch.testing.assert_close(tiled.pred_score, plain.pred_score, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(300, 230), (128, 128), (50, 40), (1, 1500), (129, 128)])
def test_map_has_the_size_of_the_image(tiled, size):
    result = tiled(torch.randn(2, 3, *size))
    assert result.anomaly_map.shape == (2, 1, *size)
    assert_in_unit_interval(result)


def test_memory_is_bounded_and_images_do_not_depend_on_their_batch(tiled, monkeypatch):
    images, seen, encode = torch.randn(3, 3, 200, 300), [], tiled.clip.encode_image
    monkeypatch.setattr(tiled.clip, "encode_image", lambda batch: seen.append(len(batch)) or encode(batch))
    together = tiled(images)
    assert seen == [3, 5, 5, 5, 3]  # the whole images, then six tiles each
    alone = torch.cat([tiled(image[None]).anomaly_map for image in images])
    torch.testing.assert_close(together.anomaly_map, alone, atol=1e-5, rtol=0)


def test_tiles_are_compared_with_the_prompts_of_their_whole_image(tiled, monkeypatch):
    """CNF and MVP see whole images alone."""
    index, seen = tiled.class_index(["cap", "nut"]), []
    monkeypatch.setattr(tiled.class_names, "filter", lambda _, index: index * torch.tensor([1, 0]))
    compute, compare = tiled._branch_text, tiled.branch_maps
    monkeypatch.setattr(tiled, "_branch_text", lambda *given: seen.append(compute(*given)) or seen[-1])
    monkeypatch.setattr(tiled, "branch_maps", lambda *given: seen.append(given[2:]) or compare(*given))
    parts = tiled.score_parts(torch.randn(2, 3, 128, 200), index)
    assert parts.branches.class_index.tolist() == [int(index[0]), 0]
    _, whole, (of_tiles,) = seen
    for layer, of_tile in zip(whole["vision"], of_tiles["vision"], strict=True):
        torch.testing.assert_close(of_tile, layer[[0, 0, 1, 1]], atol=0, rtol=0)


def test_merged_map_of_a_repeated_texture_has_no_seams(noisy):
    noisy.tiler = Tiler(96, 48)
    merged = noisy(torch.randn(1, 3, 48, 48).repeat(1, 1, 8, 8)).anomaly_map[0, 0]
    for jumps in (merged.diff(dim=0).abs().amax(dim=1), merged.diff(dim=1).abs().amax(dim=0)):
        borders = torch.arange(48, 384, 48) - 1
        inside = torch.ones(383, dtype=torch.bool).index_fill(0, borders, value=False)
        assert jumps[borders].max() <= jumps[inside].max()
        assert jumps[borders].mean() <= 1.1 * jumps[inside].mean()


@pytest.mark.parametrize(("side", "count"), [(1, 1), (10, 1), (11, 2), (40, 16)])
def test_score_is_the_mean_of_the_highest_hundredth(side, count):
    maps = torch.arange(2 * side**2).float()[torch.randperm(2 * side**2)].view(2, 1, side, side)
    expected = maps.flatten(1).sort(dim=1, descending=True).values[:, :count].mean(dim=1)
    torch.testing.assert_close(top_mean(maps), expected)
