# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Images and masks of every kind: the right result, or one error that names the file and the way out."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch, PredictDataset
from anomalib.engine import Engine
from helpers import data_trees
from PIL import Image
from torch.utils.data import DataLoader

from anomalib_genclip import CrossDataset, GenCLIP
from anomalib_genclip.components.loss import GenCLIPLoss

ROOT = Path(__file__).parents[2]
SETTINGS = {"backbone": "ViT-S-32-alt", "pretrained": None, "image_size": 64}
QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}


def engine(folder, **settings) -> Engine:
    """Build a quiet engine on the CPU."""
    return Engine(default_root_dir=folder, accelerator="cpu", devices=1, **QUIET, **settings)


@pytest.fixture(scope="module")
def model() -> GenCLIP:
    """A model without pictures."""
    torch.manual_seed(0)
    return GenCLIP(**SETTINGS, visualizer=False)


@pytest.fixture(scope="module")
def drawing() -> GenCLIP:
    """A model that writes pictures."""
    return GenCLIP(**SETTINGS)


@pytest.fixture
def picture() -> Image.Image:
    """A grey picture, so that grey formats hold it without loss."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40), dtype=np.uint8)
    return Image.fromarray(pixels).convert("RGB")


def cross(source, target, **settings) -> CrossDataset:
    """Train on one, test on the other."""
    loading = {"train_batch_size": 2, "eval_batch_size": 4, "num_workers": 0}
    return CrossDataset(source=source, target=target, **loading, **settings)


# Formats


def test_every_format_gives_the_score_of_its_pixels(model, picture, tmp_path):
    rotated = Image.Exif()
    rotated[0x0112] = 6
    pictures = {
        "rgb.png": picture,
        "grey.png": picture.convert("L"),
        "alpha.png": picture.convert("RGBA"),
        "grey_alpha.png": picture.convert("LA"),
        "palette.png": picture.convert("L").convert("P"),
        "cmyk.tif": picture.convert("CMYK"),
        "bitmap.bmp": picture,
        "lossless.webp": picture,
        "UPPER.PNG": picture,
    }
    for name, image in pictures.items():
        image.save(tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
    # anomalib reads the pixels as they are stored: map and picture lie on those.
    picture.save(tmp_path / "exif.png", exif=rotated)
    batches = engine(tmp_path / "results").predict(model, data_path=tmp_path)
    scores = {Path(batch.image_path[0]).name: float(batch.pred_score) for batch in batches}
    assert scores.keys() == pictures.keys() | {"exif.png"}
    assert scores == pytest.approx(dict.fromkeys(scores, scores["rgb.png"]), abs=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (20_000, 50), (50, 20_000)])
def test_every_shape_gets_a_score_and_a_picture(drawing, tmp_path, size):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(
        tmp_path / "a.png"
    )
    run = engine(tmp_path / "results")
    (batch,) = run.predict(drawing, data_path=tmp_path / "a.png")
    assert batch.anomaly_map.shape[-2:] == (64, 64)
    assert 0 <= float(batch.pred_score) <= 1
    assert len(list(Path(run.trainer.default_root_dir).rglob("a.png"))) == 1


def test_the_longest_name_gets_a_picture(drawing, tmp_path):
    data_trees.write_normal(tmp_path / "images" / ("x" * 251 + ".png"))
    run = engine(tmp_path / "results")
    run.predict(drawing, data_path=tmp_path / "images")
    assert len(list(Path(run.trainer.default_root_dir).rglob("xxx*.png"))) == 1


def test_a_file_of_several_pages_says_so_once(model, tmp_path, caplog):
    pages = [Image.new("L", (32, 32), shade) for shade in (0, 255)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "phone.jpg", format="MPO", save_all=True, append_images=pages[1:])  # with a preview
    images = [PredictDataset(tmp_path)[i] for i in (0, 1)] * 4
    loader = DataLoader(images, batch_size=1, collate_fn=PredictDataset(tmp_path).collate_fn)
    with caplog.at_level(logging.WARNING):
        engine(tmp_path / "results").predict(model, dataloaders=loader)
    assert caplog.text.count("pages.tif has several pages or frames: only the first is used") == 1
    assert "phone.jpg has" not in caplog.text


def test_more_than_8_bits_are_found_whatever_the_ending(model, tmp_path):
    Image.fromarray(np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)).save(tmp_path / "deep.png")
    (tmp_path / "deep.png").rename(tmp_path / "deep.jpg")
    with pytest.raises(ValueError, match=r"deep\.jpg has more than 8 bits"):
        engine(tmp_path / "results").predict(model, data_path=tmp_path)


def test_more_than_8_bits_of_colour_are_read_and_of_grey_refused(model, tmp_path):
    grey = np.linspace(0, 65535, 32 * 32).reshape(32, 32)
    for name, pixels in {
        "i.png": grey.astype(np.uint16),
        "i.tif": grey.astype(np.int32),
        "f.tiff": grey.astype("f"),
    }.items():
        Image.fromarray(pixels).save(tmp_path / name)
        with pytest.raises(ValueError, match=rf"{name} has more than 8 bits.*Convert it to 8 bits"):
            engine(tmp_path / "results").predict(model, data_path=tmp_path / name)


# Broken files


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-300])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


BREAKS = {
    "truncated": _cut,
    "flipped": _flip,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no picture"),
}


@pytest.mark.parametrize("broken", BREAKS)
def test_a_bad_file_late_in_a_prediction_is_named_and_all_before_it_is_on_disk(drawing, tmp_path, broken):
    folder = tmp_path / "images"
    for i in range(5):
        data_trees.write_normal(folder / f"{i}.png", seed=i)
    BREAKS[broken](folder / "3.png")
    run = engine(tmp_path / "results")
    with pytest.raises(Exception, match=r"images/3\.png cannot be read: .+ Repair the file or remove it") as caught:
        run.predict(drawing, data_path=folder, return_predictions=False)
    assert "4.png" not in str(caught.value)
    written = sorted(path.name for path in Path(run.trainer.default_root_dir).rglob("*.png"))
    assert written == ["0.png", "1.png", "2.png"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_folder_with_the_name_of_an_image_is_named(model, tmp_path, workers):
    data_trees.write_normal(tmp_path / "0.png")
    (tmp_path / "1.png").mkdir()
    loader = DataLoader(PredictDataset(tmp_path), num_workers=workers, collate_fn=PredictDataset(tmp_path).collate_fn)
    with pytest.raises(Exception, match=r"^\S+/1\.png cannot be read: .+ Repair the file or remove it"):
        engine(tmp_path / "results").predict(model, dataloaders=loader)


def test_a_picture_too_large_to_be_true_is_named(model, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    data_trees.write_normal(tmp_path / "bomb.png")
    with pytest.raises(Image.DecompressionBombError, match=r"bomb\.png cannot be read"):
        engine(tmp_path / "results").predict(model, data_path=tmp_path)


def test_an_error_of_the_loader_itself_stays_as_it_is(model, tmp_path):
    data_trees.write_normal(tmp_path / "images" / "0.png")

    class Broken(DataLoader):
        def __iter__(self):
            msg = "the loader's own"
            raise RuntimeError(msg)

    data = Broken([0], batch_size=1)
    with pytest.raises(RuntimeError, match=r"^the loader's own$"):
        engine(tmp_path / "results").predict(model, dataloaders=data)


@pytest.mark.parametrize("kind", ["image", "mask"])
@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
def test_a_bad_image_or_mask_of_a_data_set_is_named(model, tmp_path, kind, stage):
    source = data_trees.mvtec_ad(tmp_path / "source", normal=1, anomalous=4)
    target = data_trees.mvtec_ad(tmp_path / "target", ("wood",), normal=1, anomalous=4)
    data = cross(source, target, val_split_ratio=0.5)
    data.setup()
    samples = {"fit": data.train_data, "validate": data.val_data, "test": data.test_data}[stage].samples
    victim = samples[samples.label_index == 1].iloc[-1][f"{kind}_path"]
    _cut(Path(victim)) if kind == "image" else Path(victim).write_bytes(b"")
    run = engine(tmp_path / "results", max_epochs=1)
    with pytest.raises(Exception, match=f"^{victim} cannot be read"):
        getattr(run, stage)(model=model, datamodule=data)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("call", ["predict", "test"])
def test_pixels_that_are_no_numbers_are_an_error(model, tmp_path, value, call):
    images = torch.rand(3, 3, 64, 64)
    images[1, 0, 5, 5] = value
    batch = ImageBatch(image=images, image_path=["a.png", "b.png", "c.png"], gt_label=torch.tensor([0, 1, 0]))
    loader = DataLoader([batch], batch_size=None)
    with pytest.raises(ValueError, match=r"NaN or infinite pixels in b\.png\."):
        getattr(engine(tmp_path), call)(model, dataloaders=loader)


# Folders


def test_an_empty_folder_is_an_error(model, tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(ValueError, match=r"Found 0 images in .*images"):
        engine(tmp_path / "results").predict(model, data_path=tmp_path / "images")


def test_a_folder_that_is_not_there_is_an_error(model, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Path does not exist: .*nowhere"):
        engine(tmp_path / "results").predict(model, data_path=tmp_path / "nowhere")


def test_files_that_anomalib_passes_over_are_named(model, tmp_path, caplog):
    for i in range(2):
        data_trees.write_normal(tmp_path / "images" / f"{i}.png")
    (tmp_path / "images" / "photo.heic").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        engine(tmp_path / "results").predict(model, data_path=tmp_path / "images")
    assert "1 file(s) are left out" in caplog.text
    assert "photo.heic" in caplog.text


# Masks and labels


def _rewrite(mask: Path, how: str) -> None:
    pixels = np.asarray(Image.open(mask))
    pictures = {
        "0 and 1": Image.fromarray((pixels > 0).astype(np.uint8)),
        "RGB": Image.fromarray(pixels).convert("RGB"),
        "1 bit": Image.fromarray(pixels > 0),
        "16 bit": Image.fromarray((pixels > 0).astype(np.uint16)),
        "larger": Image.fromarray(pixels.repeat(2, axis=0).repeat(2, axis=1)),
    }
    pictures[how].save(mask)


@pytest.mark.parametrize("how", ["0 and 1", "RGB", "1 bit", "16 bit", "larger"])
def test_masks_of_every_kind_are_the_same_mask(model, tmp_path, how):
    def masks(folder: Path) -> torch.Tensor:
        data = data_trees.mvtec_ad(folder, normal=1, anomalous=2)
        if folder.name == "other":
            for mask in folder.rglob("*_mask.png"):
                _rewrite(mask, how)
        both = cross(data, data, augmentations=model.pre_processor.transform.transforms[0])
        both.setup()
        return torch.stack([item.gt_mask for item in both.test_data])

    assert torch.equal(masks(tmp_path / "plain"), masks(tmp_path / "other"))


def test_a_mask_of_another_shape_is_an_error(model, tmp_path):
    data = data_trees.mvtec_ad(tmp_path / "data", normal=1, anomalous=2)
    mask = next((tmp_path / "data").rglob("001_mask.png"))
    Image.new("L", (32, 20), 255).save(mask)
    with pytest.raises(ValueError, match=rf"The mask {mask} \(32 x 20 pixels\) does not have the shape of its image"):
        engine(tmp_path / "results").test(model, datamodule=cross(data, data))


def test_a_missing_mask_is_an_error_that_names_data_set_and_reason(tmp_path):
    data = data_trees.mvtec_ad(tmp_path / "data", normal=1, anomalous=2)
    next((tmp_path / "data").rglob("001_mask.png")).unlink()
    with pytest.raises(RuntimeError, match=r"setup\(\) of the source MVTecAD category 'bottle'.*needs a mask file"):
        cross(data, data).setup()


def test_an_anomalous_image_with_an_empty_mask_stays_anomalous():
    loss = GenCLIPLoss(image_weight=1.0)
    maps, empty = torch.zeros(1, 1, 2, 4, 4), torch.zeros(1, 8, 8)
    says_normal, says_abnormal = torch.tensor([[9.0, -9.0]]), torch.tensor([[-9.0, 9.0]])
    label = torch.tensor([1])
    assert loss(maps, says_abnormal, empty, label) < loss(maps, says_normal, empty, label)


def test_a_target_of_one_class_is_tested_and_says_what_is_undefined(model, tmp_path, caplog):
    source = data_trees.mvtec_ad(tmp_path / "source", normal=2, anomalous=2)
    target = data_trees.mvtec_ad(tmp_path / "target", ("wood", "tile"), normal=2, anomalous=2)
    for folder in ("test/crack", "ground_truth/crack"):
        for file in (tmp_path / "target" / "tile" / folder).iterdir():
            file.unlink()
    data = cross(source, target, target_categories=["wood", "tile"])
    with caplog.at_level(logging.WARNING):
        results = engine(tmp_path / "results").test(model, datamodule=data)[0]
    assert "tile: image metrics undefined" in caplog.text
    assert results["image_AUROC"] == pytest.approx(results["wood/image_AUROC"])


def test_a_source_of_one_class_is_an_error(tmp_path):
    source = data_trees.folder(tmp_path / "source", anomalous=0)
    target = data_trees.mvtec_ad(tmp_path / "target")
    with pytest.raises(ValueError, match=r"No anomalous images in the test split of the source .*screws"):
        cross(source, target).setup()
