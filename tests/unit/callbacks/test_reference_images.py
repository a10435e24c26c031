# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Which reference images are drawn, what is remembered of them, and what that changes."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib import LearningType
from anomalib.data import PredictDataset
from helpers import data_trees
from helpers.runs import build, engine
from lightning.pytorch.strategies import SingleDeviceStrategy
from PIL import Image
from torchvision.transforms.v2 import Resize

from anomalib_genclip import GenCLIP, Inferencer
from anomalib_genclip.callbacks.reference_images import draw_references, preprocessed
from anomalib_genclip.data.images import FileFaults, read_image
from anomalib_genclip.data.normal_images import NormalImages, images_of_datamodule, images_of_folder
from anomalib_genclip.demo.synthetic import render
from anomalib_genclip.persistence.learned_state import reference_notes
from anomalib_genclip.processing.post_processor import RawScorePostProcessor
from anomalib_genclip.torch_model import tile_grid
from anomalib_genclip.utils.files import file_hash

TILES = {"size": 20, "stride": 12}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return data_trees.mvtec_ad(tmp_path_factory.mktemp("data"), normal=12)


@pytest.fixture(scope="module")
def good(data):
    return data.root / "bottle" / "train" / "good"


@pytest.fixture(scope="module")
def normal(good) -> dict[str, NormalImages]:
    return {"bottle": images_of_folder(str(good), "folder")}


def drawn(model: GenCLIP) -> dict[str, list[str]]:
    return {note.category: note.images for note in reference_notes(model.model)}


def hashes(folder) -> set[str]:
    return {file_hash(file) for file in folder.glob("*")}


def test_datamodule_gives_normal_training_images(data, good, tmp_path):
    k_shot = 3
    model = build(k_shot=k_shot)
    engine(tmp_path).test(model, datamodule=data)
    assert list(drawn(model)) == ["bottle"]
    assert len(set(drawn(model)["bottle"])) == k_shot
    assert set(drawn(model)["bottle"]) <= hashes(good)
    memory = model.model.references.memories[0]
    assert memory.patches.shape == (4, k_shot * 4, 384)
    assert memory.cls.shape == (1, k_shot, 384)
    assert 0 < memory.usual_patch_distance < 2


def test_cross_dataset_gives_the_targets_images_and_training_starts_without_them(cross, tmp_path):
    model, run = build(k_shot=2), engine(tmp_path, max_epochs=1)
    run.test(model, datamodule=cross)
    assert list(drawn(model)) == ["bottle", "wood"]
    for category, images in drawn(model).items():
        assert set(images) <= hashes(tmp_path / "target" / category / "train" / "good")
    assert all(value.isnan() for value in model.post_processor.raw_thresholds().values())
    run.fit(model, datamodule=cross)
    assert not drawn(model)
    assert all(value.isfinite() for value in model.post_processor.raw_thresholds().values())


def test_folder_gives_images_of_which_those_that_are_tested_too_are_named(data, tmp_path, caplog):
    folder = data.root / "bottle" / "test" / "good"
    model = build(k_shot=1, few_shot_source=folder)
    engine(tmp_path).predict(model, dataset=PredictDataset(data.root / "bottle" / "test" / "crack"))
    assert drawn(model).keys() == {""}
    assert set(drawn(model)[""]) <= hashes(folder)
    engine(tmp_path).test(build(k_shot=1, few_shot_source=folder), datamodule=data)
    assert "Reference images that are also test images: 1." in caplog.text
    assert str(folder) in caplog.text


def test_draw_and_coreset_depend_on_the_seed_alone(normal, caplog):
    caplog.set_level(logging.INFO)
    memories = []
    for seed in (1, 1, 2):
        model = build(k_shot=4, seed=seed, max_reference_patches=5)
        torch.rand(len(memories))  # whatever else has been drawn
        np.random.rand(len(memories))  # noqa: NPY002  # likewise
        draw_references(model, normal, seed=5 + len(memories))
        memories.append((drawn(model), model.model.references.memories[0].patches))
    assert memories[0][0] == memories[1][0] != memories[2][0]
    assert torch.equal(memories[0][1], memories[1][1])
    assert memories[0][1].shape == (4, 5, 384)
    assert "Coreset of 5 out of 16 patches" in caplog.text
    assert "References of bottle: images: 4, patches: 5" in caplog.text


def test_without_a_seed_every_process_draws_as_the_first(data, tmp_path, monkeypatch):
    monkeypatch.setattr(SingleDeviceStrategy, "broadcast", lambda _, own, **__: 7 if isinstance(own, int) else own)
    draws = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = build(k_shot=3)
        engine(tmp_path, limit_test_batches=1).test(model, datamodule=data)
        draws.append(drawn(model))
    assert draws[0] == draws[1]


def test_the_same_references_are_computed_once_and_anew_for_other_tiles_or_products(normal, tmp_path):
    model = build(k_shot=2, seed=0)
    draw_references(model, normal)
    (first,) = model.model.references.memories
    draw_references(model, normal)
    assert list(model.model.references.memories) == [first]
    path = model.save_weights(tmp_path / "references.safetensors", references=True)
    tiled = build(weights=path, k_shot=2, seed=0, tiles=TILES)
    draw_references(tiled, normal)
    assert drawn(tiled) == drawn(model)
    assert tiled.model.references.memories[0].patches.shape[1] == 5 * first.patches.shape[1]
    draw_references(model, {"cable": NormalImages(normal["bottle"].files[:2], normal["bottle"].read_row)})
    assert list(drawn(model)) == ["cable"]
    assert list(model.model.references.memories) != [first]


@pytest.mark.parametrize("learning_type", [LearningType.ONE_CLASS, LearningType.FEW_SHOT])
def test_thresholds_without_references_are_dropped_and_given_ones_kept(normal, tmp_path, learning_type):
    weights = None
    if learning_type == LearningType.FEW_SHOT:
        trained = build()
        trained.post_processor.set_thresholds(0.2, 0.3)
        weights = trained.save_weights(tmp_path / "prompts.safetensors")
    model = build(weights=weights, k_shot=2, post_processor=RawScorePostProcessor(image_threshold=0.7))
    assert model.learning_type == learning_type
    draw_references(model, normal)
    assert float(model.post_processor.raw_thresholds()["image"]) == pytest.approx(0.7)
    assert model.post_processor.raw_thresholds()["pixel"].isnan()


def test_too_few_images_or_none_are_an_error(data, normal, tmp_path):
    with pytest.raises(ValueError, match=r"k_shot=13, but .* only 12 normal images of 'bottle'.*few_shot_source"):
        draw_references(build(k_shot=13), normal)
    images = PredictDataset(data.root / "bottle" / "test" / "crack")
    with pytest.raises(ValueError, match=r"k_shot=2 has nothing to draw from.*few_shot_source"):
        engine(tmp_path).predict(build(k_shot=2), dataset=images)


def test_folder_without_readable_images_is_an_error_that_names_it(data, tmp_path):
    folder = tmp_path / "references"
    model = build(k_shot=1, few_shot_source=folder)
    with pytest.raises(ValueError, match=r"few_shot_source=.*references has no images"):
        engine(tmp_path).test(model, datamodule=data)
    folder.mkdir()
    (folder / "broken.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"broken\.png cannot be read"):
        draw_references(model, {"": images_of_folder(str(folder), "few_shot_source")})


def test_one_folder_for_several_categories_is_an_error(cross, good, tmp_path):
    with pytest.raises(ValueError, match=r"few_shot_source=.* is one folder, .* 2 categories"):
        engine(tmp_path).test(build(k_shot=1, few_shot_source=good), datamodule=cross)


def test_a_defect_that_all_references_show_is_no_longer_found(tmp_path):
    rng, highest = np.random.default_rng(1), {}
    for kind in ("good", "hole"):
        (tmp_path / kind).mkdir()
        for number in range(2):
            pixels, _ = render("leather", None if kind == "good" else kind, 112, rng)
            Image.fromarray(pixels).save(tmp_path / kind / f"{number}.png")
    for kind in ("good", "hole"):
        model = GenCLIP(weights="tiny-demo", visualizer=False, k_shot=2)
        draw_references(model, {"": images_of_folder(str(tmp_path / kind), "folder")})
        records = Inferencer(model).predict(sorted((tmp_path / "hole").glob("*")))
        highest[kind] = [record.anomaly_map.max() for record in records]
    assert min(highest["good"]) > 0.5
    assert max(highest["hole"]) < 0.1


def test_references_are_cut_into_tiles_too(good, normal):
    """A tile of a reference is found among them, one of another image is not."""
    model = build(k_shot=2, tiles=TILES)
    draw_references(model, normal)
    assert model.model.references.memories[0].patches.shape == (4, 2 * (1 + 4) * 4, 384)
    known = {file_hash(file): file for file in good.glob("*")}
    same = [str(known.pop(image)) for image in drawn(model)["bottle"]]
    distances = []
    for file in (same[0], str(known.popitem()[1])):
        image = preprocessed(read_image(file) / 255, model)
        tiles, _ = next(tile_grid(image, model.model.tiler).cut(image, model.model.image_size, 16))
        distances.append(model.model.references(model.model.clip.encode_image(tiles)).patches)
    assert distances[0].max() < distances[1].min()


def test_a_datamodule_gives_its_normal_training_images_as_they_are_on_disk(tmp_path):
    data = data_trees.mvtec_ad(tmp_path, normal=3, anomalous=2)
    data.setup()
    data.train_data.augmentations = Resize((8, 8))
    data.train_data.samples.loc[1, "label_index"] = 1
    ((category, images),) = images_of_datamodule(data)
    assert category == "bottle"
    assert [Path(file).name for file in images.files] == ["000.png", "002.png"]
    data.train_data.augmentations = None
    assert torch.equal(images.read(1, FileFaults()), data.train_data[2].image)
