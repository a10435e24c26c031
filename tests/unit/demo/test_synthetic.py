# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The rendered data: every category and defect, its masks, its determinism and its folders."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from anomalib.data import MVTecAD
from sklearn.metrics import roc_auc_score

from anomalib_genclip.demo.synthetic import (
    CATEGORIES,
    DEFECTS,
    DEFECTS_OF,
    OBJECTS,
    SOURCE,
    TARGET,
    TEXTURES,
    TUNING,
    UNSEEN_BY_TINY,
    SyntheticDefects,
    datamodule,
    render,
)
from anomalib_genclip.demo.synthetic.anonymous import render_anonymous
from anomalib_genclip.demo.synthetic.defects import damage_window
from anomalib_genclip.demo.synthetic.render import scene

SMALL = {
    "version": datamodule.RENDER_VERSION,
    "seed": 3,
    "size": 48,
    "train_good": 2,
    "test_good": 2,
    "test_per_defect": 1,
}


def test_groups_split_the_categories() -> None:
    """Trained, tested and tuning categories do not overlap, and enough were never seen by the bundled CLIP."""
    assert sorted(SOURCE + TARGET + TUNING) == sorted(CATEGORIES)
    assert len(set(CATEGORIES)) == len(CATEGORIES) >= 22
    assert set(TEXTURES) | set(OBJECTS) == set(CATEGORIES)
    assert len(set(UNSEEN_BY_TINY) & set(TARGET)) >= 5
    assert len(set(UNSEEN_BY_TINY) & set(TUNING)) >= 2
    assert not set(UNSEEN_BY_TINY) & set(SOURCE)
    used = {kind for kinds in DEFECTS_OF.values() for kind in kinds}
    assert used == set(DEFECTS)
    assert len(used) >= 8


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_category_renders_with_each_of_its_defects(category: str) -> None:
    """Normal pictures have empty masks; a defect has a mask of sensible size."""
    image, mask = render(category, None, 64, np.random.default_rng(0))
    assert image.shape == (64, 64, 3)
    assert image.dtype == mask.dtype == np.uint8
    assert image.std() > 3
    assert not mask.any()
    for kind in DEFECTS_OF[category]:
        image, mask = render(category, kind, 64, np.random.default_rng(1))
        assert set(np.unique(mask)) == {0, 255}
        assert 0.001 < (mask > 0).mean() < 0.3, kind


def test_same_seed_same_picture_and_torch_is_left_alone() -> None:
    """A picture depends on its generator only, and rendering does not touch torch's global one."""
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    first, again, other = (render("gear", "crack", 48, np.random.default_rng(s))[0] for s in (7, 7, 8))
    assert torch.equal(torch.rand(1), expected)
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.5


def test_sizes_scale_and_unknown_names_are_refused() -> None:
    """Any size renders; a wrong name lists the right ones."""
    assert render("bolt", "missing", 300, np.random.default_rng(0))[0].shape == (300, 300, 3)
    with pytest.raises(ValueError, match=r"no synthetic category 'nonsense'.*wood"):
        render("nonsense", None, 64, np.random.default_rng(0))
    with pytest.raises(ValueError, match="no synthetic category"):
        SyntheticDefects(category="nonsense")
    with pytest.raises(ValueError, match="render_size"):
        SyntheticDefects(render_size=8)


@pytest.mark.parametrize("kind", DEFECTS)
def test_large_image_may_have_a_defect_of_a_small_one(kind: str) -> None:
    """A defect drawn for 64 pixels fits into as many, and nothing else of the large image is touched."""
    category = next(name for name in CATEGORIES if kind in DEFECTS_OF[name])
    rng = np.random.default_rng(2)
    canvas = scene(category, 256, rng)
    before, views = canvas.image.copy(), [under.copy() for _, under in canvas.parts]
    mask = damage_window(canvas, kind, 64)
    rows, cols = np.nonzero(mask)
    assert 0 < np.ptp(rows) < 64
    assert 0 < np.ptp(cols) < 64
    assert (canvas.image != before).any(-1)[mask > 0].mean() > 0.5
    rows, cols = np.nonzero((canvas.image != before).any(-1))
    assert max(np.ptp(rows), np.ptp(cols)) < 64
    assert all(np.array_equal(old, new) for old, (_, new) in zip(views, canvas.parts, strict=True))


def test_size_of_defects_belongs_to_the_recipe(tmp_path: Path) -> None:
    """Folders of large defects are not taken for folders of small ones."""
    large, small = (SyntheticDefects(tmp_path, render_size=256, defect_size=size) for size in (None, 64))
    assert large.recipe.items() < small.recipe.items()
    with pytest.raises(ValueError, match=r"defect_size=300.*render_size is 256"):
        SyntheticDefects(tmp_path, render_size=256, defect_size=300)


def test_difference_to_the_mean_picture_finds_nothing() -> None:
    """Light, pose and colour vary so much that comparing with the average normal picture is of little use."""
    scores = []
    for number, category in enumerate(CATEGORIES[::3]):
        rng = np.random.default_rng(number)
        mean = np.mean([render(category, None, 48, rng)[0] for _ in range(12)], 0)
        pairs = [render(category, kind, 48, rng) for kind in (*DEFECTS_OF[category], *[None] * 5)]
        change = np.stack([np.abs(image - mean).mean(-1) for image, _ in pairs])
        scores.append(roc_auc_score(np.stack([mask > 0 for _, mask in pairs]).ravel(), change.ravel()))
    assert np.mean(scores) < 0.75


def test_folder_is_mvtec_layout_and_read_by_anomalib(tmp_path: Path) -> None:
    """Anomalib's own MVTec AD data module reads a rendered category."""
    datamodule.render_category(tmp_path, "coin", SMALL)
    assert sorted(p.name for p in (tmp_path / "coin" / "test").iterdir()) == sorted(("good", *DEFECTS_OF["coin"]))
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
    host = MVTecAD(root=tmp_path, category="coin", num_workers=0)
    host.setup()
    assert len(host.train_data) == 2
    assert len(host.test_data) == 2 + len(DEFECTS_OF["coin"])
    masked = [item for item in host.test_data if item.gt_label]
    assert len(masked) == len(DEFECTS_OF["coin"])
    assert all(item.gt_mask.any() for item in masked)


def test_script_without_a_guard_may_render(tmp_path: Path) -> None:
    """Many scripts lack ``if __name__ == "__main__"``, and the processes that render must not run them again."""
    script = tmp_path / "script.py"
    script.write_text(
        "from anomalib_genclip.demo.synthetic.datamodule import render_dataset\n"
        f"render_dataset({str(tmp_path / 'data')!r}, ('coin', 'wood'), {SMALL!r})\n"
        "print('once')\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout.count("once") == 1
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"coin", "wood"}


def test_datamodule_renders_once_and_again_for_another_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second call does nothing; another seed renders anew; a user's folder is never overwritten."""
    monkeypatch.setattr(datamodule, "CATEGORIES", ("wood",))
    make = {
        "root": tmp_path,
        "render_size": 48,
        "train_good": 2,
        "test_good": 2,
        "test_per_defect": 1,
        "num_workers": 0,
    }
    module = SyntheticDefects(**make)
    module.prepare_data()
    first = tmp_path / "wood" / "train" / "good" / "000.png"
    before, written = cv2.imread(str(first)), first.stat().st_mtime_ns
    module.prepare_data()
    assert first.stat().st_mtime_ns == written
    module.setup()
    batch = next(iter(module.test_dataloader()))
    assert batch.image.shape[1:] == (3, 48, 48)
    SyntheticDefects(**make, render_seed=9).prepare_data()
    assert (cv2.imread(str(first)) != before).any()
    assert json.loads((tmp_path / "wood" / "recipe.json").read_text())["seed"] == 9
    (tmp_path / "wood" / "recipe.json").unlink()
    with pytest.raises(FileExistsError, match="left alone"):
        module.prepare_data()


def test_pictures_of_another_recipe_are_not_taken_for_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two recipes under one root draw over each other."""
    monkeypatch.setattr(datamodule, "CATEGORIES", ("wood",))
    small = {"root": tmp_path, "render_size": 48, "train_good": 1, "test_good": 1, "test_per_defect": 1}
    one, other = (SyntheticDefects(render_seed=seed, **small) for seed in (0, 1))
    for module in (one, other):
        module.prepare_data()
    other.setup()
    with pytest.raises(ValueError, match=r"wood has no images with these settings.*'seed': 0.*its own root"):
        one.setup()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("render_size", ["64", None, 64.5, 8, 5000]),
        ("defect_size", ["64", 0, 8, 64.5]),
        ("train_good", [-1, 0, 1.5, "x"]),
        ("test_good", [0, None]),
        ("test_per_defect", [0, True]),
        ("render_seed", [-1, "a"]),
        ("eval_batch_size", [0, None]),
        ("train_batch_size", ["4"]),
        ("num_workers", [-1]),
    ],
)
def test_wrong_settings_are_refused_by_name(name: str, values: list) -> None:
    for value in values:
        with pytest.raises(ValueError, match=f"^{name}="):
            SyntheticDefects(**{name: value})


def test_a_failed_render_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder is written atomically."""
    monkeypatch.setattr(datamodule, "_write", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        datamodule.render_category(tmp_path, "wood", SMALL)
    assert not list(tmp_path.iterdir())


def test_contact_sheet_shows_categories(tmp_path: Path) -> None:
    """The image in the docs can be made again."""
    contact_sheet = runpy.run_path(str(Path(__file__).parents[3] / "examples" / "contact_sheet.py"))["contact_sheet"]
    target = contact_sheet(tmp_path / "sheet.png", ("wood", "gear"), size=32)
    assert cv2.imread(str(target)).shape[1] > 32 * 4


# The nameless things that the demonstration CLIP was trained on


@pytest.mark.parametrize("damaged", [False, True])
def test_nameless_renders_have_a_mask_when_they_are_damaged(damaged):
    rng = np.random.default_rng(0)
    renders = [render_anonymous(damaged, 48, rng) for _ in range(40)]
    masked = [bool(mask.any()) for _, mask, _, _ in renders]
    assert all(np.isin(mask, (0, 255)).all() for _, mask, _, _ in renders)
    assert all(kind is None or kind in DEFECTS for *_, kind in renders)
    assert np.mean(masked) > 0.8 if damaged else not any(masked)
    assert {surface for *_, surface, _ in renders} == {False, True}


def test_nameless_renders_follow_their_generator():
    first, second, third = (
        render_anonymous(damaged=True, size=48, rng=np.random.default_rng(seed))[0] for seed in (1, 1, 2)
    )
    assert np.array_equal(first, second)
    assert not np.array_equal(first, third)
