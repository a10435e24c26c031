# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""GenCLIP inside anomalib: class names, training, zero-shot use, components."""

import json
from types import SimpleNamespace

import anomalib.models
import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.metrics import AUROC, Evaluator
from anomalib.pipelines.tiled_ensemble import EvalTiledEnsemble, TrainTiledEnsemble
from helpers import data_trees
from helpers.runs import SETTINGS, build, engine, learned
from lightning.pytorch import Callback

from anomalib_genclip import GenCLIP
from anomalib_genclip.data import CategoryBatch
from anomalib_genclip.utils.loaders import categories_of

# Class names


def trainer_that_tests(datamodule) -> SimpleNamespace:
    datamodule.test_data = SimpleNamespace()
    stages = dict.fromkeys(("training", "validating", "sanity_checking"), False)
    loader = SimpleNamespace(dataset=datamodule.test_data)
    return SimpleNamespace(**stages, testing=True, test_dataloaders=loader, datamodule=datamodule)


@pytest.mark.parametrize(
    ("settings", "category", "datamodule", "expected"),
    [
        ({"class_name": "bolt"}, ["cable", "tile"], {"category": "wood"}, ["bolt", "bolt"]),
        ({}, ["cable", ""], {"category": "wood"}, ["cable", "wood"]),
        ({}, None, {"category": "metal_nut"}, ["metal nut", "metal nut"]),
        ({"class_name": {"01": "cable"}}, ["01", "02"], None, ["cable", "02"]),
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
    categories = categories_of(batch, model._trainer, 0)
    names = [model.model.class_names.names[i] for i in model.look_up(categories)[0]]
    assert names == expected


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


@pytest.mark.parametrize("call", ["train", "validate", "predict"])
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
    data_trees.write_normal(tmp_path / "images" / "0.png")
    model = GenCLIP(weights=trained.prompts, visualizer=False)
    (batch,) = engine(tmp_path / "results").predict(model=model, data_path=tmp_path / "images")
    assert batch.pred_label is not None


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


def test_learning_rates_fall_to_zero_in_a_line(cross, tmp_path):
    class Rates(Callback):
        def on_train_batch_start(self, trainer, *args):  # noqa: ARG002
            seen.append([group["lr"] for group in trainer.optimizers[0].param_groups])

    seen = []
    run = engine(tmp_path / "results", max_epochs=2, callbacks=[Rates()])
    run.fit(build(training={"learning_rate": 0.5, "projection_learning_rate": 0.25}), datamodule=cross)
    shares = [1 - step / len(seen) for step in range(len(seen))]
    assert len(seen) >= 4
    torch.testing.assert_close(torch.tensor(seen), torch.tensor([[0.5 * share, 0.25 * share] for share in shares]))


def test_components_can_be_replaced_or_left_out():
    evaluator = Evaluator(test_metrics=[AUROC(fields=["pred_score", "gt_label"])])
    model = build(evaluator=evaluator, post_processor=False, pre_processor=False)
    assert model.evaluator is evaluator
    assert model.post_processor is None
    assert model.pre_processor is None


class SmallGenCLIP(GenCLIP):
    """The tiled ensemble takes no init arguments: OmegaConf refuses the pre-processor that it adds to them."""

    def __init__(self, **components) -> None:
        super().__init__(**SETTINGS, **components)


@pytest.mark.slow
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


def test_training_that_diverges_is_an_error_and_writes_nothing_that_is_not_finite(cross, tmp_path):
    model = build(training={"learning_rate": 1e30, "projection_learning_rate": 1e30})
    with pytest.raises(ValueError, match=r"The loss is \w+ at step \d+.*lower learning_rate"):
        engine(tmp_path / "results", max_epochs=5).fit(model, datamodule=cross)
    for path in (tmp_path / "results").rglob("*.ckpt"):
        assert GenCLIP.load_from_checkpoint(path).model.prompts.normal.isfinite().all()
    model.model.prompts.normal.data.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"prompts\.safetensors is not written: tensor 'prompts\.normal'"):
        model.save_weights(tmp_path / "prompts.safetensors")
    assert not (tmp_path / "prompts.safetensors").exists()


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


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("learning_rate", "training.learning_rate"),
        ("epochs", "training.epochs"),
        ("feature_cache", "training.feature_cache"),
        ("state_length", "prompt_length"),
        ("class_names", "class_name"),
        ("tile_size", "tiles.size"),
        ("image_threshold", "post_processor.image_threshold"),
    ],
)
def test_the_error_for_an_old_argument_says_the_new_one(old, new):
    with pytest.raises(TypeError, match=rf"no argument {old}: it is {new} now"):
        GenCLIP(**{old: 1})
