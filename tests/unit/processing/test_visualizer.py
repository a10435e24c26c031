# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""CategoryVisualizer: one picture per image, where one expects it."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch, PredictDataset
from helpers.data_trees import folder, mpdd, mvtec_ad, write_normal
from helpers.runs import build, engine
from pandas import DataFrame
from PIL import Image
from torch.utils.data import DataLoader

from anomalib_genclip.data import CategoryBatch, CrossDataset
from anomalib_genclip.processing.visualizer import CategoryVisualizer


def pictures(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def files(root: Path, *names: str) -> list[str]:
    for name in names:
        write_normal(root / name)
    return [str(root / name) for name in names]


def batch_of(paths: Sequence[str] | None, count: int | None = None, **names: list[str]) -> ImageBatch:
    count = count or len(paths)
    return (CategoryBatch if names else ImageBatch)(
        image=torch.rand(count, 3, 8, 8),
        image_path=paths,
        anomaly_map=torch.rand(count, 8, 8),
        pred_mask=torch.ones(count, 8, 8, dtype=torch.bool),
        **names,
    )


def trainer_of(
    root: Path, paths: Sequence[str] | None = None, datamodule: object = None, **columns: list[str]
) -> object:
    samples = None if paths is None else DataFrame({"image_path": paths, **columns})
    loader = SimpleNamespace(dataset=SimpleNamespace(samples=samples))
    if datamodule is not None:
        datamodule.test_data = loader.dataset
    return SimpleNamespace(
        default_root_dir=str(root), datamodule=datamodule, test_dataloaders=loader, loggers=[], global_step=0
    )


def save(trainer: object, *batches: ImageBatch, visualizer: CategoryVisualizer | None = None) -> None:
    visualizer = visualizer or CategoryVisualizer(field_size=(8, 8))
    visualizer.on_test_start(trainer, None)
    for index, batch in enumerate(batches):
        visualizer.on_test_batch_end(trainer, None, None, batch, index)


def test_equal_folders_within_a_category_get_as_many_parents_as_needed(tmp_path: Path) -> None:
    paths = files(tmp_path, "left/a/crack/0.png", "right/a/crack/0.png", "right/a/good/0.png", "left/b/crack/0.png")
    names = {"category": ["gear", "gear", "gear", "plate"], "dataset": ["Folder"] * 4}
    trainer = trainer_of(tmp_path, paths, **names)
    # Known from the start: the first batch alone does not show the clash.
    save(trainer, batch_of(paths[:1], category=["gear"], dataset=["Folder"]))
    assert pictures(tmp_path / "images") == ["Folder/gear/left/a/crack/0.png"]
    save(trainer, batch_of(paths, **names))
    assert pictures(tmp_path / "images") == [
        "Folder/gear/left/a/crack/0.png",
        "Folder/gear/right/a/crack/0.png",
        "Folder/gear/right/a/good/0.png",
        "Folder/plate/crack/0.png",
    ]


@pytest.mark.parametrize(
    ("datamodule", "expected"),
    [
        (SimpleNamespace(name="MVTecAD", category="bottle"), "MVTecAD/bottle/crack/0.png"),
        (SimpleNamespace(name="screws", category=""), "screws/crack/0.png"),
        (None, "crack/0.png"),
    ],
)
def test_an_ordinary_batch_takes_the_names_of_the_datamodule(tmp_path: Path, datamodule: object, expected: str) -> None:
    paths = files(tmp_path, "d/bottle/test/crack/0.png")
    save(trainer_of(tmp_path, paths, datamodule), batch_of(paths))
    assert pictures(tmp_path / "images") == [expected]


def test_no_path_leads_out_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = files(tmp_path, "d/0.png")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    save(trainer_of(tmp_path / "run", ["../d/0.png", "/elsewhere" + path]), batch_of(["../d/0.png"]))
    assert pictures(tmp_path / "run" / "images") == [path.lstrip("/")]


@pytest.mark.parametrize("side", [128, 518])
def test_captions_fit_their_tiles(side: int) -> None:
    dark = torch.zeros(1, 3, 8, 8)
    batch = ImageBatch(image=dark, anomaly_map=torch.zeros(1, 8, 8), pred_mask=torch.zeros(1, 8, 8, dtype=torch.bool))
    visualizer = CategoryVisualizer(field_size=(side, side))
    picture = np.asarray(visualizer.visualize(batch))
    tiles = picture.reshape(picture.shape[0], -1, side, 3).swapaxes(0, 1)
    assert len(tiles) == 3  # image, map and mask
    for tile in tiles:
        assert tile[:, : side // 2].max() > 200  # the caption is there
        assert (tile[:, -3:] == tile[-1, -1]).all()


def test_images_without_a_path_are_numbered(tmp_path: Path) -> None:
    names = {"category": ["gear", "gear"], "dataset": ["arrays", "arrays"]}
    save(trainer_of(tmp_path), batch_of(None, 2), batch_of(None, 2, **names))
    assert pictures(tmp_path / "images") == ["0_0_0.png", "0_0_1.png", "arrays/gear/0_1_0.png", "arrays/gear/0_1_1.png"]


def test_each_run_writes_to_its_own_folder_or_to_the_given_one(tmp_path: Path) -> None:
    paths, visualizer = files(tmp_path, "d/e/0.png"), CategoryVisualizer(field_size=(8, 8))
    for run in ("v0", "v1"):
        save(trainer_of(tmp_path / run, paths), batch_of(paths), visualizer=visualizer)
        assert pictures(tmp_path / run) == ["images/e/0.png"]
    visualizer = CategoryVisualizer(field_size=(8, 8), output_dir=tmp_path / "mine")
    save(trainer_of(tmp_path / "run"), batch_of(paths), visualizer=visualizer)  # samples are not known here
    assert pictures(tmp_path / "mine") == ["e/0.png"]
    assert not (tmp_path / "run").exists()


def test_through_the_engine_every_test_image_has_its_picture(tmp_path: Path) -> None:
    targets = [mvtec_ad(tmp_path / "t", ["bottle", "cable"]), folder(tmp_path / "f", name="bottle")]
    datamodule = CrossDataset(
        mpdd(tmp_path / "s"), targets, target_categories=["bottle", "cable"], num_workers=0, eval_batch_size=5
    )
    engine(tmp_path / "results").test(build(visualizer=CategoryVisualizer(field_size=(8, 8))), datamodule=datamodule)
    root = tmp_path / "results" / "GenCLIP" / "MPDD_to_MVTecAD+bottle"
    (images,) = root.rglob("images")
    assert len(pictures(images)) == len(datamodule.test_data) == 24
    folders = {str(Path(path).parent) for path in pictures(images)}
    assert folders == {
        *(f"MVTecAD/{category}/{kind}" for category in ("bottle", "cable") for kind in ("good", "crack")),
        "bottle/bottle/good_test",
        "bottle/bottle/bad",
    }


def test_through_the_engine_predict_on_a_plain_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("left/0.png", "left/1.png", "right/0.png", "top.png"):
        write_normal(tmp_path / "input" / name)
    dataset = PredictDataset(tmp_path / "input")
    loader = DataLoader(dataset, batch_size=3, collate_fn=dataset.collate_fn)
    engine(tmp_path / "results").predict(build(visualizer=CategoryVisualizer(field_size=(8, 8))), dataloaders=loader)
    (images,) = (tmp_path / "results").rglob("images")
    assert pictures(images) == ["input/top.png", "left/0.png", "left/1.png", "right/0.png"]
    (told,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Result images: ")]
    assert Path(told.removeprefix("Result images: ")).resolve() == images.resolve()


def test_an_image_of_a_format_that_cannot_be_written_gets_a_png(tmp_path: Path) -> None:
    paths = files(tmp_path, "crack/0.png")
    renamed = [str(tmp_path / "crack" / name) for name in ("scan", "scan.raw", "scan.psd")]
    for path in renamed:
        Path(path).write_bytes(Path(paths[0]).read_bytes())
    save(trainer_of(tmp_path, renamed), batch_of(renamed))
    assert pictures(tmp_path / "images") == [f"crack/{Path(path).name}.png" for path in sorted(renamed)]


def test_names_that_can_be_no_folders_give_folders_of_their_own(tmp_path: Path) -> None:
    names = ["a/b", "a_b", "a\\b", "\0", "..", "../../elsewhere", "/elsewhere", "x" * 300, "螺" * 100]
    paths = files(tmp_path, *(f"{i}/crack/0.png" for i in range(len(names))))
    columns = {"category": names, "dataset": ["Folder"] * len(names)}
    save(trainer_of(tmp_path, paths, **columns), batch_of(paths, **columns))
    assert len(pictures(tmp_path / "images" / "Folder")) == len(names)
    assert len(list((tmp_path / "images").rglob("0.png"))) == len(names)


def test_a_folder_is_predicted_beside_the_pictures_of_an_earlier_test(tmp_path: Path) -> None:
    """Lightning keeps the datamodule of the test, to which the folder does not belong."""
    data = mvtec_ad(tmp_path / "data", ("bottle",), normal=2, anomalous=2)
    other = mvtec_ad(tmp_path / "other", ("wood",), normal=2, anomalous=2)
    model = build(visualizer=True)
    run = engine(tmp_path / "results")
    run.test(model, datamodule=data)
    before = {path: path.read_bytes() for path in (tmp_path / "results").rglob("*.png")}
    run.predict(model, data_path=Path(other.root) / "wood" / "test")
    assert all(path.read_bytes() == content for path, content in before.items())
    assert len([path for path in (tmp_path / "results").rglob("*.png") if path not in before]) == 4
    assert "wood" not in model.model.class_names.names
    assert model.model.class_names.names.count("bottle") == 1


def test_a_picture_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    write_normal(tmp_path / "images" / "a.png")

    def save(_, file, **__):
        file.write(b"half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Image.Image, "save", save)
    model = build(visualizer=CategoryVisualizer(field_size=(8, 8)))
    with pytest.raises(OSError, match="No space left"):
        engine(tmp_path / "results").predict(model, data_path=tmp_path / "images")
    assert not [path for path in (tmp_path / "results").rglob("*") if path.is_file()]


@pytest.mark.parametrize(("labels", "expected"), [([i % 2 for i in range(24)], range(1, 16, 2)), (None, range(8))])
def test_a_few_pictures_go_to_the_loggers_anomalous_ones_where_known(tmp_path, monkeypatch, labels, expected):
    logged = []
    monkeypatch.setattr("anomalib_genclip.processing.visualizer.log_picture", lambda *args: logged.append(args[1]))
    paths = files(tmp_path, *(f"d/e/{i}.png" for i in range(24)))
    batch = batch_of(paths)
    batch.gt_label = None if labels is None else torch.tensor(labels, dtype=torch.bool)
    visualizer = CategoryVisualizer(field_size=(8, 8))
    save(trainer_of(tmp_path, paths), batch, visualizer=visualizer)
    assert logged == [f"test/e/{i}" for i in expected]
    save(trainer_of(tmp_path, paths), batch, visualizer=visualizer)
    assert len(logged) == 16  # eight in each test
    trainer = trainer_of(tmp_path, paths)
    trainer.predict_dataloaders = trainer.test_dataloaders
    visualizer.on_predict_start(trainer, None)
    visualizer.on_predict_batch_end(trainer, None, None, batch_of(paths[:1]), 0)
    assert len(logged) == 16
