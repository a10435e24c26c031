# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""GenCLIP inside anomalib: engine, class names, thresholds, checkpoints, prompts files."""

import json
import logging
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import anomalib.models
import numpy as np
import pytest
import torch
from anomalib import LearningType
from anomalib.data import Folder, ImageBatch, MVTecAD, PredictDataset
from anomalib.metrics import AUROC, Evaluator
from anomalib.pipelines.tiled_ensemble import EvalTiledEnsemble, TrainTiledEnsemble
from anomalib.post_processing import PostProcessor
from helpers import data_trees
from helpers.prompts_files import rewritten
from helpers.runs import SETTINGS, build, engine
from lightning.pytorch import Callback
from safetensors.torch import save_file
from torch.utils.data import DataLoader, Subset
from torchvision.transforms.v2 import Resize

from anomalib_genclip import CrossDataset, GenCLIP
from anomalib_genclip.data import CategoryBatch
from anomalib_genclip.processing.post_processor import RawScorePostProcessor


def save_checkpoint(model: GenCLIP, path: Path) -> None:
    """Write a checkpoint without training."""
    run = engine(path.parent)
    run._setup_trainer(model)
    run.trainer.strategy.connect(model)
    run.trainer.save_checkpoint(path)


@pytest.fixture
def cross(tmp_path) -> CrossDataset:
    """Two source and two target categories."""
    source = data_trees.mvtec_ad(tmp_path / "source", ("cable", "tile"), normal=6, anomalous=6)
    target = data_trees.mvtec_ad(tmp_path / "target", ("bottle", "wood"))
    return CrossDataset(
        source=source,
        source_categories=["cable", "tile"],
        target=target,
        target_categories=["bottle", "wood"],
        train_batch_size=4,
        eval_batch_size=4,
        num_workers=0,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """One short training run: the engine, its model and its files."""
    folder = tmp_path_factory.mktemp("trained")
    source = data_trees.mvtec_ad(folder / "source", ("cable",), normal=6, anomalous=6)
    target = data_trees.mvtec_ad(folder / "target", ("bottle",))
    data = CrossDataset(source=source, target=target, train_batch_size=4, eval_batch_size=4, num_workers=0)
    model = build()
    run = engine(folder / "results", max_epochs=1)
    run.fit(model, datamodule=data)
    prompts = model.save_weights(folder / "prompts.safetensors")
    return SimpleNamespace(engine=run, model=model, data=data, prompts=prompts, checkpoint=run.best_model_path)


def learned(model: GenCLIP) -> dict[str, torch.Tensor]:
    """Copy the learned tensors."""
    return {k: v.clone() for k, v in model.model.state_dict().items() if not k.startswith("clip.")}


# Class names


def trainer_that_tests(datamodule) -> SimpleNamespace:
    """Make what the model sees of a trainer that tests a datamodule."""
    datamodule.test_data = SimpleNamespace()
    stages = dict.fromkeys(("training", "validating", "sanity_checking"), False)
    loader = SimpleNamespace(dataset=datamodule.test_data)
    return SimpleNamespace(**stages, testing=True, test_dataloaders=loader, datamodule=datamodule)


@pytest.mark.parametrize(
    ("settings", "category", "datamodule", "expected"),
    [
        ({"class_name": "bolt"}, ["cable", "tile"], {"category": "wood"}, ["bolt", "bolt"]),
        ({}, ["cable", "metal_nut"], {"category": "wood"}, ["cable", "metal nut"]),
        ({}, ["cable", ""], {"category": "wood"}, ["cable", "wood"]),
        ({}, None, {"category": "metal_nut"}, ["metal nut", "metal nut"]),
        ({}, None, {"category": ""}, ["object", "object"]),
        ({"class_names": {"01": "cable"}}, ["01", "02"], None, ["cable", "02"]),
        ({"class_names": {"01": "cable"}}, None, {"category": "01"}, ["cable", "cable"]),
        ({}, None, None, ["object", "object"]),
    ],
)
def test_class_name_comes_from_argument_batch_datamodule_or_is_object(settings, category, datamodule, expected):
    model = build(**settings)
    if datamodule is not None:
        model._trainer = trainer_that_tests(SimpleNamespace(**datamodule))
    batch = ImageBatch(image=torch.zeros(2, 3, 8, 8))
    if category is not None:
        batch = CategoryBatch(image=torch.zeros(2, 3, 8, 8), category=category)
    names = [model.model.class_names.names[i] for i in model._class_index(batch)]
    assert names == expected


def test_folder_gives_its_name(tmp_path):
    model = build()
    model._trainer = trainer_that_tests(Folder(name="steel_screw", normal_dir=tmp_path))
    index = model._class_index(ImageBatch(image=torch.zeros(1, 3, 8, 8)))
    assert model.model.class_names.names[int(index)] == "steel screw"


def test_several_loaders_give_their_own_names(tmp_path):
    loaders = []
    for category in ("metal_nut", "wood"):
        data = data_trees.mvtec_ad(tmp_path / category, (category,), normal=2, anomalous=2)
        data.setup()
        loaders += [data.test_dataloader()]
    model = build()
    results = engine(tmp_path / "results").test(model, dataloaders=loaders)
    assert model.model.class_names.names == ["object", "metal nut", "wood"]
    assert "metal_nut/image_AUROC" in {key for result in results for key in result}
    prompts = model.save_weights(tmp_path / "prompts.safetensors")
    model = build(weights=prompts)  # validated before the test
    engine(tmp_path / "results").test(model, dataloaders=loaders)
    assert model.model.class_names.names == ["object", "metal nut", "wood"]


def test_loaders_of_a_datamodules_own_making_keep_its_category(tmp_path):
    class Half(MVTecAD):
        def test_dataloader(self):
            data = Subset(self.test_data, range(2))
            return DataLoader(data, batch_size=2, collate_fn=self.test_data.collate_fn)

    data_trees.mvtec_ad(tmp_path / "data", ("wood",), normal=2, anomalous=2)
    model = build()
    engine(tmp_path / "results").test(model, datamodule=Half(tmp_path / "data", "wood", num_workers=0))
    assert model.model.class_names.names == ["object", "wood"]


def test_class_names_that_fit_no_category_are_named(tmp_path, caplog):
    data = data_trees.mvtec_ad(tmp_path, ("bottle",), normal=2, anomalous=2)
    for names, warned in (({"botle": "flask"}, True), ({"bottle": "flask", "wood": "plank"}, False)):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            engine(tmp_path / "results").test(build(class_names=names), datamodule=data)
        assert ("class_names has none of the categories of the dataset (bottle): botle" in caplog.text) == warned


def test_class_name_is_the_default_of_an_exported_model():
    for settings, name in (({}, "bolt"), ({"class_names": {"bolt": "hex bolt"}}, "hex bolt")):
        model = build(class_name="bolt", **settings)
        assert model.model.class_names.names[int(model.model.default_class)] == name


# Training through the engine


def test_cross_dataset_trains_and_tests_per_category(cross, tmp_path):
    model = build()
    before = learned(model)
    frozen = model.model.clip.model.visual.proj.clone()
    results = engine(tmp_path / "results", max_epochs=1).train(model=model, datamodule=cross)[0]
    changed = {key for key, value in learned(model).items() if not torch.equal(value, before[key])}
    assert changed >= {"prompts.normal", "prompts.abnormal", "prompts.query", "projections.0"}
    assert torch.equal(model.model.clip.model.visual.proj, frozen)
    assert {"image_AUROC", "pixel_AUROC", "bottle/pixel_AUPRO", "wood/image_F1Max"} <= results.keys()
    assert model.trained_on == "MVTecAD_to_MVTecAD"


def test_one_class_datamodule_trains_on_synthetic_anomalies(tmp_path, caplog):
    data = data_trees.mvtec_ad(tmp_path / "data", normal=4)
    model = build()
    before = learned(model)
    with caplog.at_level(logging.WARNING):
        engine(tmp_path / "results", max_epochs=1).fit(model, datamodule=data)
    assert "CrossDataset" in caplog.text
    assert not torch.equal(before["prompts.abnormal"], learned(model)["prompts.abnormal"])


def test_labels_without_an_anomalous_image_are_an_error(tmp_path):
    data = data_trees.mvtec_ad(tmp_path / "data")
    with pytest.raises(ValueError, match=r"MVTecAD has no anomalous training image.*CrossDataset"):
        engine(tmp_path / "results", max_epochs=1).fit(build(anomaly_source="labels"), datamodule=data)


def test_synthetic_anomalies_are_put_into_normal_images_alone(cross, tmp_path, caplog):
    class Watch(Callback):
        """Stands before the model's own callbacks."""

        def on_train_batch_start(self, *args):
            batch = args[2]
            batch.gt_mask[batch.gt_label.bool().nonzero()[:1]] = False  # of a tiny defect nothing may be left
            before.append((batch.gt_mask.clone(), batch.gt_label.clone()))

    before, after = [], []
    model = build(anomaly_source="synthetic", pre_processor=False)
    model.loss.register_forward_pre_hook(lambda _, args: after.append(args[2:]))
    cross.train_augmentations = Resize((64, 64))
    with caplog.at_level(logging.WARNING):
        run = engine(tmp_path / "results", max_epochs=2, limit_val_batches=0, callbacks=[Watch()])
        run.fit(model, datamodule=cross)
    assert "only normal" not in caplog.text
    made = 0
    for (mask, label), (new_mask, new_label) in zip(before, after, strict=True):
        real = label.bool()
        assert torch.equal(new_mask[real].bool(), mask[real].bool())
        assert new_label[real].all()
        made += int(new_label[~real].sum())
    assert made > 0


@pytest.mark.parametrize(
    ("limits", "epochs"), [({}, 2), ({"max_epochs": 1}, 1), ({"max_steps": 3}, None), ({"max_epochs": 3}, 3)]
)
def test_epochs_are_the_models_unless_the_trainer_has_a_limit(cross, tmp_path, limits, epochs):
    run = engine(tmp_path / "results", limit_train_batches=1, limit_val_batches=0, **limits)
    run.fit(build(epochs=2), datamodule=cross)
    if epochs is None:
        assert run.trainer.global_step == limits["max_steps"]
    else:
        assert run.trainer.current_epoch == epochs


# Honest scores


def test_shifted_target_scores_keep_their_order():
    """Anomalib's default clamps to the range seen in validation, and ties follow."""
    raw, labels = torch.linspace(0.55, 0.95, 40), torch.arange(40) % 3 == 0
    raw = raw + labels * 0.1
    for processor, same in ((RawScorePostProcessor(), True), (PostProcessor(), False)):
        validation = ImageBatch(
            image=torch.zeros(4, 3, 4, 4),
            pred_score=torch.tensor([0.1, 0.2, 0.3, 0.4]),
            gt_label=torch.tensor([0, 0, 1, 1]),
            anomaly_map=torch.rand(4, 4, 4) * 0.4,
            gt_mask=torch.zeros(4, 4, 4),
        )
        processor.on_validation_batch_end(None, None, validation)
        processor.on_validation_epoch_end(None, None)
        batch = ImageBatch(image=torch.zeros(40, 3, 4, 4), pred_score=raw.clone(), gt_label=labels)
        batch.anomaly_map = torch.rand(40, 4, 4)
        processor.on_test_batch_end(None, None, batch)
        metrics = []
        for scores in (raw, batch.pred_score):
            metric = AUROC(fields=["pred_score", "gt_label"])
            metric.update(ImageBatch(image=torch.zeros(40, 3, 4, 4), pred_score=scores, gt_label=labels))
            metrics.append(metric.compute())
        assert (metrics[0] == metrics[1]) == same


def test_labels_use_the_threshold_that_validation_found():
    processor = RawScorePostProcessor()
    processor.set_thresholds(torch.tensor(0.3), torch.tensor(0.2))
    batch = ImageBatch(image=torch.zeros(2, 3, 4, 4), pred_score=torch.tensor([0.25, 0.35]))
    batch.anomaly_map = torch.tensor([0.15, 0.25]).view(2, 1, 1).expand(2, 4, 4)
    processor.on_test_batch_end(None, None, batch)
    assert batch.pred_label.tolist() == [False, True]
    assert batch.pred_mask.flatten(1).any(dim=1).tolist() == [False, True]
    assert batch.pred_score.tolist() == pytest.approx([0.25, 0.35])


@pytest.mark.parametrize(("sensitivity", "threshold"), [(0.5, 0.3), (0.6, 0.2), (0.4, 0.4)])
def test_sensitivity_moves_the_threshold(sensitivity, threshold):
    processor = RawScorePostProcessor(image_sensitivity=sensitivity)
    processor.set_thresholds(torch.tensor(0.3), torch.tensor(float("nan")))
    assert processor.normalized_image_threshold == pytest.approx(threshold)
    assert processor.normalized_pixel_threshold == pytest.approx(0.3)  # matched


def test_scores_without_any_threshold_are_labelled_at_one_half():
    assert RawScorePostProcessor().normalized_image_threshold == 0.5


def test_thresholds_come_from_the_source(trained):
    own = trained.model.post_processor.raw_thresholds()
    assert all(torch.isfinite(value) for value in own.values())
    before = {key: value.clone() for key, value in own.items()}
    trained.engine.test(trained.model, datamodule=trained.data)
    assert trained.model.post_processor.raw_thresholds() == before


# Checkpoints


def test_checkpoint_holds_no_clip_and_loads_with_weights_only(trained):
    checkpoint = torch.load(trained.checkpoint, weights_only=True)
    assert not [key for key in checkpoint["state_dict"] if ".clip." in key]
    assert "model.prompts.query" in checkpoint["state_dict"]
    loaded = GenCLIP.load_from_checkpoint(trained.checkpoint)
    expected = learned(trained.model)
    assert all(torch.equal(value, expected[key]) for key, value in learned(loaded).items())
    assert loaded.post_processor.raw_thresholds() == trained.model.post_processor.raw_thresholds()


@pytest.mark.parametrize("call", ["fit", "validate", "test", "predict"])
def test_every_call_takes_the_checkpoint(trained, tmp_path, call):
    model = build(epochs=2)
    run = engine(tmp_path, limit_train_batches=1)
    getattr(run, call)(model=model, datamodule=trained.data, ckpt_path=trained.checkpoint)
    if call != "fit":
        expected = learned(trained.model)
        assert all(torch.equal(value, expected[key]) for key, value in learned(model).items())


def test_missing_learned_tensor_is_an_error():
    model = build()
    state = model.state_dict()
    model.load_state_dict({key: value for key, value in state.items() if ".clip." not in key})
    with pytest.raises(RuntimeError, match=r"model\.prompts\.query"):
        model.load_state_dict({key: value for key, value in state.items() if key != "model.prompts.query"})
    with pytest.raises(RuntimeError, match="stray"):
        model.load_state_dict({**state, "stray": torch.zeros(1)})


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"backbone": "ViT-S-16-alt"}, ["'ViT-S-32-alt'", "'ViT-S-16-alt'"]),
        ({"layers": [6, 12]}, [r"\[3, 6, 9, 12\]", r"\[6, 12\]"]),
        ({"state_length": 2}, ["state_length 4", "this model has 2"]),
        ({"backbone": "ViT-S-32-alt-quickgelu"}, ["'ViT-S-32-alt'", "'ViT-S-32-alt-quickgelu'"]),
    ],
)
def test_checkpoint_of_another_model_is_refused_by_name(trained, tmp_path, settings, named):
    with pytest.raises(ValueError, match=".*".join(named)):
        engine(tmp_path).test(model=build(**settings), datamodule=trained.data, ckpt_path=trained.checkpoint)


def test_foreign_checkpoint_is_refused():
    with pytest.raises(ValueError, match="no valid entry for backbone"):
        build().on_load_checkpoint({"state_dict": {}})


# Prompts files


def test_prompts_file_restores_model_and_settings(trained):
    model = GenCLIP(weights=trained.prompts)
    assert model.model.spec.name == "ViT-S-32-alt"
    assert model.model.image_size == (64, 64)
    images = torch.randn(2, 3, 64, 64)
    expected = trained.model.eval().model(images)
    torch.testing.assert_close(model.eval().model(images).anomaly_map, expected.anomaly_map)
    assert model.post_processor.raw_thresholds() == trained.model.post_processor.raw_thresholds()
    assert model.learning_type == LearningType.ZERO_SHOT
    assert model.trained_on == "MVTecAD_to_MVTecAD"


@pytest.mark.parametrize("call", ["fit", "train", "validate", "test", "predict"])
def test_zero_shot_model_is_used_and_not_trained(trained, tmp_path, call):
    model = GenCLIP(weights=trained.prompts, visualizer=False)
    before = {**learned(model), **model.post_processor.raw_thresholds()}
    getattr(engine(tmp_path), call)(model=model, datamodule=trained.data)
    after = {**learned(model), **model.post_processor.raw_thresholds()}
    assert all(torch.equal(value, before[key]) for key, value in after.items())


def test_positional_datamodule_works_as_in_anomalibs_benchmark(trained, tmp_path):
    model = GenCLIP(weights=trained.prompts, visualizer=False)
    run = engine(tmp_path)
    run.fit(model, trained.data)
    assert "image_AUROC" in run.test(model, trained.data)[0]


def test_zero_shot_prediction_needs_a_folder_only(trained, tmp_path):
    folder = tmp_path / "images"
    for i in range(3):
        data_trees.write_normal(folder / f"{i}.png", seed=i)
    model = GenCLIP(weights=trained.prompts, visualizer=False)
    by_path = engine(tmp_path / "a").predict(model=model, data_path=folder)
    by_dataset = engine(tmp_path / "b").predict(model=model, dataset=PredictDataset(folder))
    assert sum(len(batch) for batch in by_path) == 3
    torch.testing.assert_close(by_path[0].pred_score, by_dataset[0].pred_score)
    assert by_path[0].pred_label is not None


def test_fine_tuning_starts_from_the_prompts_and_trains(trained, tmp_path):
    model = GenCLIP(weights=trained.prompts, fine_tune=True, visualizer=False)
    before = learned(model)
    assert all(torch.equal(value, before[key]) for key, value in learned(trained.model).items())
    run = engine(tmp_path, max_epochs=1)
    run.fit(model, datamodule=trained.data)
    assert not torch.equal(before["prompts.query"], learned(model)["prompts.query"])
    trained.prompts.rename(trained.prompts.with_suffix(".moved"))
    try:
        GenCLIP.load_from_checkpoint(run.best_model_path)  # stands for itself
    finally:
        trained.prompts.with_suffix(".moved").rename(trained.prompts)


def test_fine_tuning_needs_weights():
    with pytest.raises(ValueError, match="give their file as weights"):
        build(fine_tune=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("prompts.query"), "prompts.query.*the file has none"),
        (lambda t: t.update({"prompts.query": torch.zeros(3, 7)}), r"prompts\.query.*\(3, 7\).*\(4, 256\)"),
        (lambda t: t["prompts.query"].fill_(float("nan")), r"prompts\.query' does not consist of finite"),
        (lambda t: t.update({"prompts.query": t["prompts.query"].long()}), "finite floating-point"),
        (lambda t: t.update({"stray": torch.zeros(1)}), "stray.*the model none"),
        (lambda t: t.pop("threshold.image"), "has no entry 'image'"),
    ],
)
def test_wrong_tensors_in_a_prompts_file_are_refused_by_name(trained, tmp_path, change, message):
    path = rewritten(trained.prompts, tmp_path / "wrong.safetensors", tensors=change)
    with pytest.raises(ValueError, match=rf"wrong\.safetensors.*{message}"):
        GenCLIP(weights=path)


@pytest.mark.parametrize("cut", [0, 7, 1000, -1])
def test_truncated_prompts_files_are_refused(trained, tmp_path, cut):
    path = tmp_path / "cut.safetensors"
    path.write_bytes(trained.prompts.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"cut\.safetensors is not a readable prompts file"):
        GenCLIP(weights=path)


def test_prompts_of_another_backbone_are_refused(trained):
    with pytest.raises(ValueError, match=r"'ViT-S-32-alt'.*'ViT-S-16-alt'"):
        GenCLIP(weights=trained.prompts, backbone="ViT-S-16-alt", pretrained=None)


def test_other_files_are_no_prompts_files(trained, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.safetensors.*tiny-demo"):
        GenCLIP(weights="nowhere.safetensors")
    with pytest.raises(ValueError, match="ckpt_path"):
        GenCLIP(weights=trained.checkpoint)
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="not one of GenCLIP's"):
        GenCLIP(weights=tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"\*\.safetensors"):
        trained.model.save_weights(tmp_path / "prompts.pt")


def test_prompts_file_is_small_at_real_size():
    """Counted, not built: ViT-L/14 with the default settings stays under 20 MB."""
    from anomalib_genclip.clip.backbone import backbone_spec
    from anomalib_genclip.components.prompt_learner import PromptLearner

    spec = backbone_spec("ViT-L-14-336")
    prompts = PromptLearner(spec.vision_width, spec.text_width, 4, 4, 4)
    numbers = sum(p.numel() for p in prompts.parameters()) + 4 * spec.vision_width * spec.embed_dim
    assert numbers * 4 < 20e6


# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"branches": "text"}, "both, vision, query"),
        ({"anomaly_source": "none"}, "auto, labels, synthetic"),
        ({"query_only_prob": 1.5}, "<=1"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0"),
        ({"projection_learning_rate": float("nan")}, "projection_learning_rate=nan"),
        ({"image_loss_weight": -1}, "image_loss_weight"),
        ({"smoothing_sigma": -1}, "smoothing_sigma"),
        ({"epochs": 0}, "epochs=0"),
        ({"class_name": " "}, "is empty"),
        ({"class_name": "screw " * 300}, "300 tokens"),
        ({"class_names": {"01": ""}}, "is empty"),
        ({"layers": [13]}, "between 1 and 12"),
        ({"image_size": 65}, "patch size 32"),
        ({"state_length": 0}, "at least 1"),
    ],
)
def test_wrong_settings_are_refused_before_clip_is_built(monkeypatch, settings, message):
    monkeypatch.setattr("anomalib_genclip.lightning_model.load_clip", lambda *_: pytest.fail("CLIP was loaded"))
    with pytest.raises(ValueError, match=message):
        build(**settings)


def test_learning_rates_go_to_their_parameters():
    model = build(learning_rate=0.5, projection_learning_rate=0.25)
    groups = {group["lr"]: group["params"] for group in model.configure_optimizers()["optimizer"].param_groups}
    assert len(groups[0.5]) == len(list(model.model.prompts.parameters()))
    assert len(groups[0.25]) == len(model.model.projections)


def test_learning_rates_fall_to_zero_in_a_line(cross, tmp_path):
    class Rates(Callback):
        def on_train_batch_start(self, trainer, *args):  # noqa: ARG002
            seen.append([group["lr"] for group in trainer.optimizers[0].param_groups])

    seen = []
    run = engine(tmp_path / "results", max_epochs=2, callbacks=[Rates()])
    run.fit(build(learning_rate=0.5, projection_learning_rate=0.25), datamodule=cross)
    shares = [1 - step / len(seen) for step in range(len(seen))]
    assert len(seen) >= 4
    torch.testing.assert_close(torch.tensor(seen), torch.tensor([[0.5 * share, 0.25 * share] for share in shares]))


def test_components_can_be_replaced_or_left_out():
    evaluator = Evaluator(test_metrics=[AUROC(fields=["pred_score", "gt_label"])])
    model = build(evaluator=evaluator, post_processor=False, pre_processor=False)
    assert model.evaluator is evaluator
    assert model.post_processor is None
    assert model.pre_processor is None


# anomalib's tiled ensemble


class SmallGenCLIP(GenCLIP):
    """The tiled ensemble takes no init arguments: OmegaConf refuses the pre-processor that it adds to them."""

    def __init__(self, **components) -> None:
        super().__init__(**SETTINGS, **components)


def test_tiled_ensemble_trains_one_model_per_tile_and_tests_them_together(tmp_path, monkeypatch):
    monkeypatch.setattr(anomalib.models, "SmallGenCLIP", SmallGenCLIP, raising=False)
    monkeypatch.chdir(tmp_path)
    data_trees.mvtec_ad(tmp_path / "data")
    data = {"root": str(tmp_path / "data"), "category": "bottle", "train_batch_size": 4, "eval_batch_size": 4}
    splits = {"num_workers": 0, "val_split_mode": "same_as_test", "test_split_mode": "from_dir"}
    config = {
        "seed": 0,
        "accelerator": "cpu",
        "default_root_dir": "results",
        "tiling": {"tile_size": [64, 64], "stride": 64, "image_size": [64, 128]},
        "normalization_stage": "image",
        "thresholding_stage": "image",
        "data": {"class_path": "MVTecAD", "init_args": {**data, **splits}},
        "SeamSmoothing": {"apply": True, "sigma": 2, "width": 0.1},
        "TrainModels": {"model": {"class_path": "SmallGenCLIP"}, "trainer": {"max_epochs": 1}},
    }
    (tmp_path / "ensemble.json").write_text(json.dumps(config))
    args = SimpleNamespace(config="ensemble.json")
    TrainTiledEnsemble().run(args)
    folder = tmp_path / "results" / "SmallGenCLIP" / "MVTecAD" / "bottle" / "v0"
    EvalTiledEnsemble(folder).run(args)
    assert len(list(folder.glob("weights/lightning/*.ckpt"))) == 2
    header = (folder / "metric_results.csv").read_text().splitlines()[0]
    assert {"image_AUROC", "pixel_AUROC"} <= set(header.split(","))


# Training that fails


def test_training_that_diverges_is_an_error_and_writes_nothing_that_is_not_finite(cross, tmp_path):
    model = build(learning_rate=1e30, projection_learning_rate=1e30)
    with pytest.raises(ValueError, match=r"The loss is \w+ at step \d+.*lower learning_rate"):
        engine(tmp_path / "results", max_epochs=5).fit(model, datamodule=cross)
    for path in (tmp_path / "results").rglob("*.ckpt"):
        assert GenCLIP.load_from_checkpoint(path).model.prompts.normal.isfinite().all()
    model.model.prompts.normal.data.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"prompts\.safetensors is not written: tensor 'prompts\.normal'"):
        model.save_weights(tmp_path / "prompts.safetensors")
    assert not (tmp_path / "prompts.safetensors").exists()


def test_checkpoint_with_weights_that_are_not_finite_is_not_written(tmp_path):
    model = build()
    model.model.prompts.normal.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="The checkpoint is not written"):
        save_checkpoint(model, tmp_path / "model.ckpt")
    assert not (tmp_path / "model.ckpt").exists()


def test_checkpoint_is_read_from_an_open_file_and_with_the_types_of_a_subclass(trained, tmp_path):
    with Path(trained.checkpoint).open("rb") as file:
        assert torch.equal(GenCLIP.load_from_checkpoint(file).model.prompts.normal, trained.model.model.prompts.normal)

    class Own(GenCLIP):
        @classmethod
        def checkpoint_safe_globals(cls):
            return (timedelta,)  # not an enum: some patch releases of Python pickle those through getattr

    checkpoint = torch.load(trained.checkpoint, weights_only=True)
    checkpoint["hyper_parameters"]["unknown"] = timedelta(hours=1)
    torch.save(checkpoint, tmp_path / "own.ckpt")
    assert isinstance(Own.load_from_checkpoint(tmp_path / "own.ckpt"), Own)


def test_settings_of_numpy_and_hidden_ones_stay_out_of_the_checkpoint(tmp_path):
    model = build(learning_rate=np.float32(0.5), epochs=np.int64(3), query_only_prob=np.float64(0.5))
    model.hparams["_instantiator"] = "lightning.pytorch.cli.instantiate_module"  # as LightningCLI does
    save_checkpoint(model, tmp_path / "model.ckpt")
    again = GenCLIP.load_from_checkpoint(tmp_path / "model.ckpt")
    assert again.training_settings == model.training_settings
    assert again.training_settings.epochs == 3


def test_validation_step_needs_no_trainer():
    batch = ImageBatch(image=torch.rand(2, 3, 64, 64), gt_label=torch.tensor([0, 1]))
    assert build().eval().validation_step(batch).pred_score.shape == (2,)


# Prompts of a CLIP with another activation


def test_prompts_know_that_their_clip_had_quickgelu(tmp_path):
    model = build(backbone="ViT-S-32-alt-quickgelu")
    model.save_weights(tmp_path / "prompts.safetensors")
    again = GenCLIP(weights=tmp_path / "prompts.safetensors", visualizer=False)
    assert again.model.fingerprint == model.model.fingerprint
    assert again.signature.backbone == "ViT-S-32-alt-quickgelu"


# Zero-shot


def test_zero_shot_test_runs_the_tower_once_per_image(trained, tmp_path, monkeypatch):
    model = GenCLIP(weights=trained.prompts, visualizer=False)
    data = data_trees.mvtec_ad(tmp_path / "data", normal=3, anomalous=4)
    data.num_workers = 0
    seen = []
    tower = model.model.clip.encode_image
    monkeypatch.setattr(model.model.clip, "encode_image", lambda images: seen.append(len(images)) or tower(images))
    engine(tmp_path / "results").test(model, datamodule=data)
    assert sum(seen) == 7


def test_seed_repeats_a_training_and_leaves_other_random_numbers_alone(cross, tmp_path):
    """Prompts and training follow from it, whatever was drawn before."""
    learned = []
    for number, before in enumerate((1, 2)):
        torch.manual_seed(before)
        expected = torch.rand(1)
        torch.manual_seed(before)
        model = build(seed=3)
        assert torch.rand(1) == expected
        engine(tmp_path / str(number), max_epochs=1).fit(model=model, datamodule=cross)
        learned.append(model.model.prompts.state_dict())
    torch.testing.assert_close(*learned, rtol=0, atol=0)
    assert not torch.equal(build(seed=4).model.prompts.query, build(seed=3).model.prompts.query)
