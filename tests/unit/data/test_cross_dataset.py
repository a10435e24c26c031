# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""CrossDataset: who trains, who tests, and what travels with each image."""

import logging
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from anomalib import TaskType
from anomalib.cli import AnomalibCLI
from anomalib.data import AnomalibDataModule, ImageItem, MVTecAD
from anomalib.data.datasets import MVTecADDataset
from anomalib.data.utils import ValSplitMode
from helpers.data_trees import SIZE, every_layout, folder, kolektor, mpdd, mvtec_ad, visa
from omegaconf import DictConfig
from PIL import Image
from torchvision.transforms.v2 import Resize

from anomalib_genclip.components.class_names import NameRule
from anomalib_genclip.data import CategoryBatch, CrossDataset
from anomalib_genclip.data.cross_dataset import CrossDataset as CrossDatasetItself


def cross(source: object, target: object, **options: object) -> CrossDataset:
    datamodule = CrossDataset(source, target, **{"num_workers": 0, **options})
    datamodule.prepare_data()
    datamodule.setup()
    return datamodule


def counts(datamodule: CrossDataset, subset: str) -> dict[tuple[str, str, int], int]:
    samples = getattr(datamodule, f"{subset}_data").samples
    return samples.groupby(["dataset", "category", "label_index"]).size().to_dict()


def paths(datamodule: CrossDataset, subset: str) -> set[str]:
    return set(getattr(datamodule, f"{subset}_data").samples.image_path)


@pytest.fixture
def target(tmp_path) -> MVTecAD:
    return mvtec_ad(tmp_path / "target", ["cable"])


def test_every_layout_is_a_source_and_a_target(tmp_path):
    sources, targets = (list(every_layout(tmp_path / side).values()) for side in ("source", "target"))
    datamodule = cross(sources, targets)
    groups = {("MVTecAD", "bottle"), ("MPDD", "tubes"), ("BTech", "01"), ("Visa", "candle"), ("screws", "screws")}
    expected = {(*group, label): 4 for group in groups for label in (0, 1)}
    # Kolektor has no test folder: anomalib takes a fifth of its normal images.
    expected |= {("Kolektor", "Kolektor", 0): 2, ("Kolektor", "Kolektor", 1): 4}
    assert counts(datamodule, "test") == expected
    train, val = counts(datamodule, "train"), counts(datamodule, "val")
    assert {group: train[group] + val[group] for group in expected} == expected
    assert set(val.values()) == {1}
    for item in datamodule.test_data:
        white = item.image.mean(0) > 0.9
        # JPEG blurs the square's edge.
        assert (white != item.gt_mask).float().mean() < 0.05
        assert item.gt_mask.any() == item.gt_label


@pytest.mark.parametrize("name", ["Kolektor", "KolektorSDD2"])
def test_datamodule_without_categories_gives_its_name_as_class_name(tmp_path, name):
    target = kolektor(tmp_path / "target") if name == "Kolektor" else folder(tmp_path / "target", name)
    datamodule = cross(folder(tmp_path / "source"), target)
    (category,) = {category for batch in datamodule.test_dataloader() for category in batch.category}
    assert NameRule.of(None, None, 50).name_of(category) == name
    assert NameRule.of({name: "commutator"}, None, 50).name_of(category) == "commutator"


@pytest.mark.parametrize("mode", list(ValSplitMode))
def test_source_is_the_whole_test_split_whatever_its_val_split_mode(tmp_path, target, mode):
    source = folder(tmp_path / "source", normal=6, anomalous=10)
    source.val_split_mode = mode
    datamodule = cross(source, target)
    held_out, train = paths(datamodule, "val"), paths(datamodule, "train")
    assert not held_out & train
    assert all(str(tmp_path / "target") in path for path in paths(datamodule, "test"))
    assert datamodule.predict_dataloader().dataset is datamodule.test_data
    assert (datamodule.name, datamodule.category) == ("screws_to_MVTecAD", "")
    whole = {*map(str, (tmp_path / "source" / "bad").iterdir()), *map(str, (tmp_path / "source/good_test").iterdir())}
    assert held_out | train == whole


def test_held_out_share_is_stratified_and_repeatable(tmp_path, target):
    source = mvtec_ad(tmp_path / "source", ["bottle", "carpet"], normal=20, anomalous=10)
    both = cross(source, target, source_categories=["bottle", "carpet"])
    bottle, carpet = ("MVTecAD", "bottle"), ("MVTecAD", "carpet")
    assert counts(both, "val") == {(*bottle, 0): 2, (*bottle, 1): 1, (*carpet, 0): 2, (*carpet, 1): 1}
    assert paths(cross(source, target, source_categories="all"), "val") == paths(both, "val")
    assert paths(cross(source, target), "val") == {path for path in paths(both, "val") if "bottle" in path}
    other_seed = cross(source, target, source_categories=["bottle", "carpet"], seed=1)
    assert paths(other_seed, "val") != paths(both, "val")


def test_sampled_test_images_are_repeatable_and_the_global_generator_is_left_alone(tmp_path):
    """A Folder without normal test images samples them; train and test runs must get the same."""
    target, source = folder(tmp_path / "target", normal=20, normal_test=False), mvtec_ad(tmp_path / "source")
    source.test_split_mode = type(source.test_split_mode).NONE  # under which anomalib would drop normal images
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, again = cross(source, target), cross(source, target)
    assert torch.rand(1) == expected
    assert counts(first, "test")["screws", "screws", 0] == 4
    assert counts(first, "train")["MVTecAD", "bottle", 0] == 3
    assert paths(first, "test") == paths(again, "test")


def test_items_match_their_rows_after_sorting_subsampling_and_in_workers(tmp_path):
    # The second source's paths sort before the first's.
    sources = [mpdd(tmp_path / "z"), folder(tmp_path / "a", name="screws"), mvtec_ad(tmp_path / "m")]
    datamodule = cross(sources, mvtec_ad(tmp_path / "target"), train_batch_size=5, num_workers=2)
    subset = datamodule.train_data.subsample([7, 0, 12, 3])
    for data in (datamodule.train_data, subset):
        for row, item in zip(data.samples.itertuples(), data, strict=True):
            assert (item.image_path, item.dataset, item.category) == (row.image_path, row.dataset, row.category)
            assert bool(item.gt_label) == bool(row.label_index)
            pixels = np.asarray(Image.open(row.image_path).convert("RGB")).transpose(2, 0, 1) / 255
            assert np.allclose(item.image.numpy(), pixels, atol=1e-6)
    rows = datamodule.train_data.samples.set_index("image_path")
    seen = []
    for batch in datamodule.train_dataloader():
        assert isinstance(batch, CategoryBatch)
        assert batch.image.shape[1:] == (3, SIZE, SIZE)
        assert batch.gt_mask.shape == (len(batch.image), SIZE, SIZE)
        assert list(rows.loc[batch.image_path].category) == batch.category
        assert list(rows.loc[batch.image_path].dataset) == batch.dataset
        assert list(rows.loc[batch.image_path].label_index == 1) == batch.gt_label.tolist()
        seen += batch.image_path
    assert sorted(seen) == sorted(rows.index)


def test_augmentations_reach_the_images_of_their_own_subset(tmp_path, target, caplog):
    source = mpdd(tmp_path / "s")
    source.train_augmentations = Resize((9, 9))
    with caplog.at_level(logging.WARNING):
        datamodule = cross(source, target, train_augmentations=Resize((16, 16)), augmentations=Resize((8, 8)))
    assert "Augmentations of MPDD are not used" in caplog.text
    for data, side in ((datamodule.train_data, 16), (datamodule.val_data, 8), (datamodule.test_data, 8)):
        assert data[0].image.shape == (3, side, side)
        assert data[0].gt_mask.shape == (side, side)
    # The engine puts the model's resize here.
    datamodule.test_data.augmentations = Resize((4, 4))
    assert datamodule.test_data[0].image.shape == (3, 4, 4)
    assert datamodule.val_data[0].image.shape == (3, 8, 8)


class Halved(MVTecADDataset):
    """Darkens its images and always gives masks."""

    def __getitem__(self, index: int) -> ImageItem:
        """Read one image."""
        item = super().__getitem__(index)
        return ImageItem(
            image=item.image / 2,
            gt_label=item.gt_label,
            gt_mask=torch.zeros(item.image.shape[-2:]) if item.gt_mask is None else item.gt_mask,
            image_path=item.image_path,
        )


class HalvedModule(MVTecAD):
    """Datamodule of :class:`Halved`."""

    def _setup(self, _stage: str | None = None) -> None:
        super()._setup(_stage)
        self.test_data = Halved(root=self.root, category=self.category, split="test")


def test_data_sets_with_their_own_reading_are_read_their_way(tmp_path, target):
    """MVTec LOCO, for one, overrides __getitem__."""
    mvtec_ad(tmp_path / "s")
    datamodule = cross(HalvedModule(root=tmp_path / "s"), target)
    assert all(item.image.max() <= 0.5 for item in datamodule.train_data)
    assert datamodule.test_data[0].image.max() > 0.9
    # Masks that a data set gives of its own accord do not fit into a batch with images that have none.
    plain = folder(tmp_path / "plain", name="plain", masks=False)
    mixed = cross(mpdd(tmp_path / "m"), [HalvedModule(root=tmp_path / "s"), plain])
    assert all(item.gt_mask is None for item in mixed.test_data)


def test_all_means_the_known_categories_on_disk(tmp_path, target, caplog):
    """VisA's split tree has empty folders for categories that are not there; they do not count."""
    source = visa(tmp_path / "visa", ["capsules", "pcb1"])
    with caplog.at_level(logging.WARNING):
        datamodule = cross(source, target, source_categories="all")
    assert set(datamodule.train_data.samples.category) == {"capsules", "pcb1"}
    assert (tmp_path / "visa" / "visa_pytorch" / "candle").is_dir()
    (warning,) = [message for message in caplog.messages if "left out" in message]
    assert "10 of 12" in warning
    assert "candle" in warning
    assert "capsules" not in warning
    assert source.category == "capsules"
    assert not hasattr(source, "test_data")


@pytest.mark.parametrize("missing", ["cabel", "carpet"])
@pytest.mark.parametrize("there", ["bottle", "gear"])
def test_a_listed_category_that_is_missing_is_named(tmp_path, target, there, missing):
    """Misspelt or merely absent, and without starting a download of the whole data set."""
    source = mvtec_ad(tmp_path / "s", [there, "hinge"])
    with pytest.raises(ValueError, match=rf"not found: {missing}\..* has {there}, hinge"):
        cross(source, target, source_categories=[there, missing])


def test_listed_categories_need_not_be_known_and_are_shared_out_among_datamodules(tmp_path, target):
    gears = mvtec_ad(tmp_path / "a", ["gear", "plate"])
    with pytest.raises(ValueError, match=r"found none.*gear, plate.*List the categories"):
        cross(gears, target, source_categories="all")
    sources = [gears, visa(tmp_path / "b"), folder(tmp_path / "c")]
    gears.setup()
    gears._is_setup = True  # as a trainer leaves it: its subsets are not those of other categories
    datamodule = cross(sources, target, source_categories=["plate", "candle", "screws"])
    groups = {key[:2] for key in counts(datamodule, "train")}
    assert groups == {("MVTecAD", "plate"), ("Visa", "candle"), ("screws", "screws")}
    assert not [path for path in paths(datamodule, "train") if str(tmp_path / "a" / "gear") in path]
    with pytest.raises(ValueError, match="none of them is of Visa"):
        cross(sources, target, source_categories=["gear", "screws"])


def test_each_category_is_prepared_and_a_failed_download_is_explained(tmp_path, target, monkeypatch):
    asked = []

    def download(self: MVTecAD) -> None:
        asked.append(self.category)
        if self.category != "bottle":
            message = "no route to host"
            raise URLError(message)
        mvtec_ad(Path(self.root))

    source = MVTecAD(root=tmp_path / "absent")
    monkeypatch.setattr(MVTecAD, "prepare_data", download)
    with pytest.raises(RuntimeError, match=r"(?s)source MVTecAD category 'cable'.*absent.*no route to host.*bottle"):
        CrossDataset(source, target, source_categories="all").prepare_data()
    assert asked == ["bottle", "cable"]


def test_target_without_masks_has_image_labels_only(tmp_path, target, caplog):
    plain = folder(tmp_path / "plain", name="plain", masks=False)
    with caplog.at_level(logging.WARNING):
        datamodule = cross(mpdd(tmp_path / "s"), [target, plain])
    assert "target plain/plain have no masks" in caplog.text
    assert datamodule.test_data.task == TaskType.CLASSIFICATION
    assert datamodule.train_data.task == datamodule.val_data.task == TaskType.SEGMENTATION
    for batch in datamodule.test_dataloader():
        assert batch.gt_mask is None
        assert batch.gt_label is not None


def test_a_mask_file_that_is_gone_is_no_mask(tmp_path):
    """BTech makes mask paths up from image names."""
    source, target = every_layout(tmp_path / "s")["BTech"], every_layout(tmp_path / "t")["BTech"]
    (tmp_path / "t/BTech/01/ground_truth/crack/002.png").unlink()
    test_data = cross(source, target).test_data
    assert test_data.task == TaskType.CLASSIFICATION
    assert all(item.gt_mask is None for item in test_data)
    (tmp_path / "s/BTech/01/ground_truth/crack/001.png").unlink()
    with pytest.raises(ValueError, match=r"Without a mask in the source BTech/01: 1 anomalous image: \S*001\.png\. "):
        cross(source, target)


def test_source_must_have_masks_and_anomalies_and_should_have_normal_images(tmp_path, target, caplog):
    with pytest.raises(ValueError, match="Without a mask in the source plain/plain: 4 anomalous images: "):
        cross([mpdd(tmp_path / "s"), folder(tmp_path / "plain", name="plain", masks=False)], target)
    clean = mvtec_ad(tmp_path / "clean", ["carpet"], anomalous=0)
    with pytest.raises(ValueError, match=r"No anomalous images .* source MVTecAD/carpet"):
        cross([mpdd(tmp_path / "s"), clean], target)
    with caplog.at_level(logging.WARNING):
        cross(mvtec_ad(tmp_path / "bad", normal=0, anomalous=3), target)
    assert "No normal images in the test split of the source MVTecAD/bottle" in caplog.text


def test_the_same_files_in_source_and_target_are_named(tmp_path, caplog):
    source, linked, copy = mpdd(tmp_path / "s"), mpdd(tmp_path / "linked"), mpdd(tmp_path / "copy")
    for image in (tmp_path / "linked" / "tubes" / "test").rglob("*.png"):
        image.unlink()
        image.symlink_to(tmp_path / "s" / image.relative_to(tmp_path / "linked"))
    with caplog.at_level(logging.WARNING):
        cross(source, linked)
        assert "In both the source and the target, so this is not a zero-shot test: 8 images: " in caplog.text
        assert str(tmp_path / "s" / "tubes" / "test" / "crack" / "000.png") in caplog.text
        assert "and 3 more" in caplog.text
        caplog.clear()
        cross(source, copy)
        assert not caplog.text


def test_whole_categories_are_held_out(tmp_path, target):
    source = mvtec_ad(tmp_path / "source", ["bottle", "cable", "tile", "wood"])
    options = {"source_categories": "all", "held_out": "categories", "val_split_ratio": 0.5}
    datamodule = cross(source, target, **options)
    train, val = ({category for _, category, _ in counts(datamodule, subset)} for subset in ("train", "val"))
    assert len(train) == len(val) == 2
    assert train | val == {"bottle", "cable", "tile", "wood"}
    assert paths(cross(source, target, **options), "val") == paths(datamodule, "val")
    others = (cross(source, target, **options, seed=seed) for seed in range(1, 6))
    assert any(paths(other, "val") != paths(datamodule, "val") for other in others)
    with pytest.raises(ValueError, match=r"two or more source categories, there is MVTecAD/tile\. .*held_out='images'"):
        cross(source, target, **{**options, "source_categories": ["tile"]})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("val_split_ratio", ratio) for ratio in ("0.1", 0, 1, -0.1)),
        ("held_out", "from_test"),
        ("val_split_ratio", None),
        ("train_batch_size", 0),
        ("train_batch_size", None),
        ("eval_batch_size", "4"),
        ("num_workers", -1),
        ("seed", "x"),
        ("seed", 1.5),
    ],
)
def test_wrong_settings_are_refused_by_name(target, name, value):
    with pytest.raises(ValueError, match=f"^{name}"):
        CrossDataset(target, target, **{name: value})


@pytest.mark.parametrize("source", [[], "Visa", [None]])
def test_a_source_is_one_or_more_datamodules(target, source):
    with pytest.raises((TypeError, ValueError), match="source must"):
        CrossDataset(source, target)


def from_command_line(*arguments: str) -> AnomalibDataModule:
    return AnomalibCLI(["train", "--model", "Padim", "--model.pre_trained=false", *arguments], run=False).datamodule


CLASS = f"{CrossDatasetItself.__module__}.{CrossDatasetItself.__name__}"


def test_from_nested_flags(tmp_path):
    mpdd(tmp_path / "s")
    mvtec_ad(tmp_path / "t", ["cable", "gear"])
    datamodule = from_command_line(
        *("--data", CLASS, "--data.num_workers", "0", "--data.seed", "3"),
        *("--data.source", "MPDD", "--data.source.root", str(tmp_path / "s"), "--data.source.category", "tubes"),
        *("--data.target", "MVTecAD", "--data.target.root", str(tmp_path / "t")),
        *("--data.target_categories", "[cable,gear]"),
    )
    datamodule.prepare_data()
    datamodule.setup()
    assert datamodule.seed == 3
    assert {key[:2] for key in counts(datamodule, "train")} == {("MPDD", "tubes")}
    assert {key[:2] for key in counts(datamodule, "test")} == {("MVTecAD", "cable"), ("MVTecAD", "gear")}


def test_from_the_settings_that_a_benchmark_hands_over(tmp_path):
    """get_datamodule leaves nested settings in OmegaConf's containers."""
    folder(tmp_path / "f")
    mvtec_ad(tmp_path / "t", ["cable", "gear"])
    folders = {"normal_dir": "good", "normal_test_dir": "good_test", "abnormal_dir": ["bad"], "mask_dir": ["mask"]}
    source = {"class_path": "Folder", "init_args": {"name": "screws", "root": str(tmp_path / "f"), **folders}}
    target = {"class_path": "anomalib.data.MVTecAD", "init_args": {"root": str(tmp_path / "t")}}
    settings = {"source": [source], "target": target, "target_categories": ["cable", "gear"], "num_workers": 0}
    datamodule = cross(**DictConfig(settings))
    assert counts(datamodule, "train")["screws", "screws", 1] == 3
    assert {key[:2] for key in counts(datamodule, "test")} == {("MVTecAD", "cable"), ("MVTecAD", "gear")}
    with pytest.raises(TypeError, match=r"\['cable'\]"):
        cross(source, target, target_categories="cable")
