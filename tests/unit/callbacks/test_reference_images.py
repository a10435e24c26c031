# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Which reference images are drawn, what is remembered of them, and what that changes."""

import logging

import numpy as np
import pytest
import torch
from anomalib import LearningType
from anomalib.data import PredictDataset
from helpers import data_trees
from helpers.runs import build, engine
from PIL import Image

from anomalib_genclip import CrossDataset, GenCLIP
from anomalib_genclip.callbacks.reference_images import ReferenceImages
from anomalib_genclip.data.normal_images import file_hash
from anomalib_genclip.demo.synthetic import render
from anomalib_genclip.model_settings import ProductSettings
from anomalib_genclip.torch_model import tile_grid


@pytest.fixture
def data(tmp_path):
    """One category with four normal training images."""
    return data_trees.mvtec_ad(tmp_path / "data")


def drawn(model: GenCLIP) -> dict[str, list[str]]:
    """Return the hashes of the references of each category."""
    return {entry["category"]: entry["images"] for entry in model.model.references.describe()}


def hashes(folder) -> set[str]:
    return {file_hash(file) for file in folder.glob("*")}


def test_datamodule_gives_normal_training_images(data, tmp_path):
    model = build(k_shot=3)
    engine(tmp_path).test(model, datamodule=data)
    assert list(drawn(model)) == ["bottle"]
    assert len(set(drawn(model)["bottle"])) == 3
    assert set(drawn(model)["bottle"]) <= hashes(data.root / "bottle" / "train" / "good")
    memory = model.model.references.memories[0]
    assert memory.patches.shape == (4, 3 * 4, 384)
    assert memory.cls.shape == (1, 3, 384)
    assert 0 < memory.usual_patch_distance < 2


def test_cross_dataset_gives_the_targets_training_images_and_training_starts_without(tmp_path):
    source = data_trees.mvtec_ad(tmp_path / "source", ("cable",), normal=6, anomalous=6)
    target = data_trees.mvtec_ad(tmp_path / "target", ("bottle", "tile"))
    data = CrossDataset(source, target, target_categories=["bottle", "tile"], num_workers=0)
    model = build(k_shot=2)
    model.model.references.index = forbid_in_training(model)
    engine(tmp_path, max_epochs=1).train(model, datamodule=data)
    assert list(drawn(model)) == ["bottle", "tile"]
    for category, images in drawn(model).items():
        assert set(images) <= hashes(tmp_path / "target" / category / "train" / "good")


def forbid_in_training(model):
    """Look references up, and fail where a training or its validation has some."""
    index = type(model.model.references).index.__get__(model.model.references)

    def look_up(*args):
        if model.trainer.state.fn == "fit":
            assert not model.model.references.memories
        return index(*args)

    return look_up


def test_folder_gives_images_for_a_prediction(data, tmp_path):
    folder = data.root / "bottle" / "train" / "good"
    model = build(k_shot=2, few_shot_source=folder)
    images = PredictDataset(data.root / "bottle" / "test" / "crack")
    results = engine(tmp_path).predict(model, dataset=images)
    assert drawn(model).keys() == {""}
    assert set(drawn(model)[""]) <= hashes(folder)
    with_references = torch.cat([batch.pred_score for batch in results])
    model.model.references.set({})
    zero_shot = engine(tmp_path).predict(build(), dataset=images)
    assert not torch.equal(with_references, torch.cat([batch.pred_score for batch in zero_shot]))


def test_draw_depends_on_the_seed_alone(tmp_path):
    data = data_trees.mvtec_ad(tmp_path / "data", normal=12)
    draws = []
    for seed in (1, 1, 2):
        model = build(k_shot=4, seed=seed)
        engine(tmp_path).test(model, datamodule=data)
        draws.append(drawn(model))
    assert draws[0] == draws[1] != draws[2]


def test_validation_and_test_compute_the_same_references_once(data, tmp_path, monkeypatch):
    model, calls = build(k_shot=2), []
    remember = ReferenceImages._remember
    monkeypatch.setattr(ReferenceImages, "_remember", lambda *args: calls.append(1) or remember(*args))
    run = engine(tmp_path)
    run.validate(model, datamodule=data)
    run.test(model, datamodule=data)
    assert len(calls) == 1


def test_another_category_gets_references_of_its_own(tmp_path):
    data_trees.mvtec_ad(tmp_path / "data", ("bottle", "cable"))
    model = build(k_shot=2)
    for category in ("bottle", "cable"):
        engine(tmp_path).test(model, datamodule=data_trees.MVTecAD(tmp_path / "data", category, num_workers=0))
        assert list(drawn(model)) == [category]


def test_memory_is_bounded_and_its_size_announced(data, tmp_path, caplog):
    model = build(k_shot=4, max_reference_patches=5)
    with caplog.at_level(logging.INFO):
        engine(tmp_path).test(model, datamodule=data)
    assert model.model.references.memories[0].patches.shape == (4, 5, 384)
    assert "Coreset of 5 out of 16 patches" in caplog.text
    assert "References of bottle: 4 image(s), 5 patches" in caplog.text


@pytest.mark.parametrize("weights", [None, "prompts"])
def test_thresholds_without_references_are_dropped_and_given_ones_kept(data, tmp_path, weights):
    prompts = None
    if weights:
        trained = build()
        trained.post_processor.set_thresholds(0.2, 0.3)
        prompts = trained.save_weights(tmp_path / "prompts.safetensors")
    model = build(weights=prompts, k_shot=2, image_threshold=0.7)
    assert model.learning_type == (LearningType.FEW_SHOT if weights else LearningType.ONE_CLASS)
    engine(tmp_path).test(model, datamodule=data)
    assert float(model.post_processor.raw_thresholds()["image"]) == pytest.approx(0.7)
    assert model.post_processor.raw_thresholds()["pixel"].isnan()


# Bad input


def test_fewer_images_than_k_are_an_error(data, tmp_path):
    with pytest.raises(ValueError, match=r"k_shot=5, but .* only 4 normal images of 'bottle'.*few_shot_source"):
        engine(tmp_path).test(build(k_shot=5), datamodule=data)


def test_prediction_without_a_folder_of_references_is_an_error(data, tmp_path):
    images = PredictDataset(data.root / "bottle" / "test" / "crack")
    with pytest.raises(ValueError, match=r"k_shot=2 has nothing to draw from.*few_shot_source"):
        engine(tmp_path).predict(build(k_shot=2), dataset=images)


@pytest.mark.parametrize("content", [None, b"no image"])
def test_folder_without_readable_images_is_an_error_that_names_it(data, tmp_path, content):
    folder = tmp_path / "references"
    if content:
        folder.mkdir()
        (folder / "broken.png").write_bytes(content)
    named = r"broken\.png cannot be read" if content else "few_shot_source=.*references has no images"
    with pytest.raises(ValueError, match=named):
        engine(tmp_path).test(build(k_shot=1, few_shot_source=folder), datamodule=data)


def test_one_folder_for_several_categories_is_an_error(tmp_path):
    source = data_trees.mvtec_ad(tmp_path / "source", ("cable",), normal=6, anomalous=6)
    target = data_trees.mvtec_ad(tmp_path / "target", ("bottle", "tile"))
    data = CrossDataset(source, target, target_categories=["bottle", "tile"], num_workers=0)
    folder = tmp_path / "target" / "bottle" / "train" / "good"
    with pytest.raises(ValueError, match=r"few_shot_source=.* is one folder, .* 2 categories"):
        engine(tmp_path).test(build(k_shot=1, few_shot_source=folder), datamodule=data)


def test_a_test_image_among_the_references_is_named(data, tmp_path, caplog):
    folder = data.root / "bottle" / "test" / "good"
    engine(tmp_path).test(build(k_shot=1, few_shot_source=folder), datamodule=data)
    assert "1 reference image(s) are also test images" in caplog.text
    assert str(folder) in caplog.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k_shot": -1}, "k_shot"),
        ({"k_shot": 1, "max_reference_patches": 0}, "max_reference_patches"),
        ({"few_shot_source": "folder"}, "few_shot_source needs k_shot"),
        ({"image_threshold": 1.5}, "image_threshold"),
        ({"pixel_threshold": -0.5}, "pixel_threshold"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    defaults = {
        "k_shot": 0,
        "few_shot_source": None,
        "max_reference_patches": 10,
        "image_threshold": None,
        "pixel_threshold": None,
    }
    with pytest.raises(ValueError, match=message):
        ProductSettings(**{**defaults, **settings})


# What it is good for


def test_a_defect_that_all_references_show_is_no_longer_found(tmp_path):
    rng = np.random.default_rng(0)
    for kind, count in (("good", 2), ("hole", 2)):
        (tmp_path / kind).mkdir()
        for number in range(count):
            pixels, _ = render("leather", None if kind == "good" else kind, 112, rng)
            Image.fromarray(pixels).save(tmp_path / kind / f"{number}.png")
    highest = {}
    for kind in ("good", "hole"):
        model = GenCLIP(weights="tiny-demo", visualizer=False, k_shot=2, few_shot_source=tmp_path / kind)
        results = engine(tmp_path).predict(model, dataset=PredictDataset(tmp_path / "hole"))
        highest[kind] = torch.stack([batch.anomaly_map.max() for batch in results])
    assert (highest["good"] > 0.5).all()
    assert (highest["hole"] < 0.1).all()


def test_references_are_cut_into_tiles_too(data, tmp_path):
    """The memory has the patches of image and tiles, and a model that is shown a reference sees no difference."""
    model = build(k_shot=2, tile_size=20, tile_stride=12)
    engine(tmp_path).test(model, datamodule=data)
    memory = model.model.references.memories[0]
    assert memory.patches.shape == (4, 2 * (1 + 4) * 4, 384)
    other = np.random.default_rng(77).integers(60, 120, (32, 32, 3), dtype=np.uint8)
    drawn_file = next(f for f in (data.root / "bottle/train/good").glob("*") if file_hash(f) in drawn(model)["bottle"])
    known = np.asarray(Image.open(drawn_file))
    distances = []
    for pixels in (known, other):
        image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
        grid = tile_grid(image, model.model.tiler)
        tiles, _ = next(grid.cut(model.pre_processor.transform(image), model.model.image_size, 16))
        distances.append(model.model.references(model.model.clip.encode_image(tiles)).patches)
    assert distances[0].max() < distances[1].min()
