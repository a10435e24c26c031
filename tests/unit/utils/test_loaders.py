# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Loaders of a trainer, and where a loader's images are from."""

from types import SimpleNamespace

import pytest
from anomalib.data import PredictDataset
from helpers import data_trees
from torch.utils.data import DataLoader, Subset

from anomalib_genclip.utils.loaders import Origin, datamodule_of, origin_of, running_loaders

STAGES = ("training", "validating", "sanity_checking", "testing", "predicting")


def trainer(stage: str = "testing", **attributes) -> SimpleNamespace:
    return SimpleNamespace(**{**dict.fromkeys(STAGES, False), stage: True, "datamodule": None, **attributes})


@pytest.mark.parametrize("stage", STAGES)
def test_loaders_are_those_of_the_stage(stage):
    loaders = {"train_dataloader": "train", "val_dataloaders": ["val"], "test_dataloaders": "test"}
    own = {"training": "train", "validating": "val", "sanity_checking": "val", "testing": "test"}
    expected = [own.get(stage, "predict")]
    assert running_loaders(trainer(stage, **loaders, predict_dataloaders=["predict"])) == expected


def test_before_training_the_datamodule_is_asked():
    datamodule = SimpleNamespace(train_dataloader=lambda: "train", val_dataloader=lambda: "val")
    assert running_loaders(trainer("training", train_dataloader=None, datamodule=datamodule)) == ["train", "val"]


@pytest.fixture
def wood(tmp_path) -> data_trees.MVTecAD:
    data = data_trees.mvtec_ad(tmp_path / "mvtec", ("wood",), normal=2, anomalous=2)
    data.setup()
    return data


def test_images_are_from_the_datamodule_that_has_their_data_set(wood, tmp_path):
    run = trainer(datamodule=wood)
    own = wood.test_dataloader()
    part = DataLoader(Subset(Subset(wood.test_data, [0, 1]), [0]), collate_fn=wood.test_data.collate_fn)
    for loader in (own, part):
        assert datamodule_of(run, loader) is wood
        assert origin_of(run, loader) == Origin("MVTecAD", "wood")
    other = data_trees.folder(tmp_path / "folder", normal=2, anomalous=2)
    other.setup()
    folder = DataLoader(PredictDataset(tmp_path / "folder" / "good"))
    for loader in (other.test_dataloader(), folder):  # Lightning keeps the datamodule of an earlier call
        assert datamodule_of(run, loader) is None
    assert origin_of(run, folder) == Origin(None, None)


def test_a_folder_is_a_category_of_its_name(tmp_path):
    screws = data_trees.folder(tmp_path, normal=2, anomalous=2)
    screws.setup()
    assert origin_of(trainer(datamodule=screws), screws.test_dataloader()) == Origin("screws", "screws")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({}, Origin(None, None)),
        ({"name": "set", "category": "nut"}, Origin("set", "nut")),
        ({"name": "", "category": 5}, Origin(None, None)),
    ],
)
def test_without_a_datamodule_the_data_set_says_it(names, expected):
    assert origin_of(trainer(), SimpleNamespace(dataset=SimpleNamespace(**names))) == expected
