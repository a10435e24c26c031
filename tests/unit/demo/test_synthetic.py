# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The rendered data: every category and defect, its masks, its determinism and its folders."""

import json

import cv2
import numpy as np
import pytest
import torch
from anomalib.data import MVTecAD

from anomalib_genclip import CrossDataset
from anomalib_genclip.demo.synthetic import (
    CATEGORIES,
    DEFECTS_OF,
    SyntheticDefects,
    datamodule,
    render,
)
from anomalib_genclip.demo.synthetic.datamodule import scene
from anomalib_genclip.demo.synthetic.defects import DEFECTS, damage_window

SMALL = {"render_size": 48, "train_good": 2, "test_good": 2, "test_per_defect": 1, "num_workers": 0}


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_category_renders_with_each_of_its_defects(category):
    image, mask = render(category, None, 64, generator())
    assert image.shape == (64, 64, 3)
    assert image.dtype == mask.dtype == np.uint8
    assert image.std() > 3
    assert not mask.any()
    assert render(category, None, 300, generator())[0].shape == (300, 300, 3)  # more than the noise has
    for kind in DEFECTS_OF[category]:
        image, mask = render(category, kind, 64, generator(1))
        assert set(np.unique(mask)) == {0, 255}
        assert 0.001 < (mask > 0).mean() < 0.3, kind


def test_same_seed_same_image_and_torch_is_left_alone():
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    first, again, other = (render("gear", "crack", 48, generator(seed))[0] for seed in (7, 7, 8))
    assert torch.equal(torch.rand(1), expected)
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.5


@pytest.mark.parametrize(
    "make", [lambda: render("nonsense", None, 64, generator()), lambda: SyntheticDefects("nonsense", "nonsense")]
)
def test_unknown_category_lists_the_known(make):
    with pytest.raises(ValueError, match=r"no synthetic category 'nonsense'.*wood"):
        make()


@pytest.mark.parametrize("kind", DEFECTS)
def test_large_image_may_have_a_defect_of_a_small_one(kind):
    category = next(name for name in CATEGORIES if kind in DEFECTS_OF[name])
    canvas = scene(category, 256, generator(2))
    before, views = canvas.image.copy(), [under.copy() for _, under in canvas.parts]
    mask = damage_window(canvas, kind, 64)
    changed = (canvas.image != before).any(-1)
    assert mask.any()
    assert changed[mask > 0].mean() > 0.5
    for area in (mask, changed):
        assert max(map(np.ptp, np.nonzero(area))) < 64
    assert all(np.array_equal(old, new) for old, (_, new) in zip(views, canvas.parts, strict=True))


def test_size_of_defects_belongs_to_the_recipe(tmp_path):
    large, small = (SyntheticDefects(tmp_path, render_size=256, defect_size=size) for size in (None, 64))
    assert large.recipe.items() < small.recipe.items()
    with pytest.raises(ValueError, match=r"defect_size=300.*render_size is 256"):
        SyntheticDefects(tmp_path, render_size=256, defect_size=300)


def test_folder_is_mvtec_layout_and_read_by_anomalib(tmp_path):
    SyntheticDefects(tmp_path, "coin", **SMALL).prepare_data()
    assert [path.name for path in tmp_path.iterdir()] == ["coin"]
    host = MVTecAD(root=tmp_path, category="coin", num_workers=0)
    host.setup()
    assert len(host.train_data) == 2
    assert sorted(host.test_data.samples.label) == sorted(["good", "good", *DEFECTS_OF["coin"]])
    assert all(item.gt_mask.any() == item.gt_label for item in host.test_data)


def test_cross_dataset_renders_the_categories_that_it_is_asked_for(tmp_path):
    SyntheticDefects(tmp_path, "nut", **SMALL).prepare_data()
    data = SyntheticDefects(tmp_path, **SMALL)
    cross = CrossDataset(data, data, source_categories=["coin"], target_categories=["wood"], num_workers=0)
    cross.prepare_data()
    cross.setup()
    assert {path.name for path in tmp_path.iterdir()} == {"nut", "coin", "wood"}
    assert len(cross.test_data) == 2 + len(DEFECTS_OF["wood"])


def test_datamodule_renders_once_and_again_for_another_recipe(tmp_path):
    module, other = (SyntheticDefects(tmp_path, render_seed=seed, **SMALL) for seed in (0, 9))
    module.prepare_data()
    first = tmp_path / "wood" / "train" / "good" / "000.png"
    before, written = cv2.imread(str(first)), first.stat().st_mtime_ns
    module.prepare_data()
    assert first.stat().st_mtime_ns == written
    module.setup()
    assert next(iter(module.test_dataloader())).image.shape[1:] == (3, 48, 48)
    other.prepare_data()
    assert (cv2.imread(str(first)) != before).any()
    assert json.loads((tmp_path / "wood" / "recipe.json").read_text())["seed"] == 9
    other.setup()
    with pytest.raises(ValueError, match=r"wood has no images with these settings.*'seed': 0.*its own root"):
        module.setup()
    (tmp_path / "wood" / "recipe.json").unlink()
    with pytest.raises(FileExistsError, match="left alone"):
        module.prepare_data()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("render_size", ["64", None, 64.5, 8, 5000]),
        ("defect_size", ["64", 0, 8, 64.5]),
        ("train_good", [-1, 0, 1.5, "x"]),
        ("test_per_defect", [0, True]),
        ("render_seed", [-1, "a"]),
        ("train_batch_size", ["4"]),
    ],
)
def test_wrong_settings_are_refused_by_name(name, values):
    for value in values:
        with pytest.raises(ValueError, match=f"^{name}="):
            SyntheticDefects(**{name: value})


def test_a_failed_render_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(datamodule, "_write", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        SyntheticDefects(tmp_path, **SMALL).prepare_data()
    assert not list(tmp_path.iterdir())
