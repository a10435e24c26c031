# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The files in configs/: anomalib can read each, and each protocol runs on a tiny tree of its data sets' layout."""

import runpy
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from anomalib.cli import AnomalibCLI
from helpers import data_trees

from anomalib_genclip.clip.backbone import backbone_spec, resolve_image_size
from anomalib_genclip.demo.synthetic import SOURCE, TARGET, TUNING
from anomalib_genclip.persistence.prompts_file import load_weights
from anomalib_genclip.pipelines.comparison import Comparison, target_parts, validated
from anomalib_genclip.utils.files import find_config

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
DATA = sorted(path.stem for path in (CONFIGS / "data").glob("*.yaml"))
MODELS = sorted(path.stem for path in (CONFIGS / "model").glob("*.yaml"))
SMALL = ["--model.backbone", "ViT-S-32-alt", "--model.pretrained", "random", "--model.image_size", "64"]
QUICK = [
    *("--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.max_epochs", "1"),
    *("--trainer.limit_train_batches", "1", "--trainer.enable_progress_bar", "false", "--trainer.logger", "false"),
]


def write_folders(root: Path, normal: str, anomalous: str, mask: str, ending: str = "") -> None:
    for i in range(3):
        data_trees.write_normal(root / normal / f"{i:03}.png", seed=i)
        data_trees.write_anomalous(root / anomalous / f"{i:03}.png", root / mask / f"{i:03}{ending}.png", seed=i)


def write_dagm(root: Path) -> None:
    for texture in (f"Class{k}" for k in range(1, 11)):
        for i in range(3):
            data_trees.write_normal(root / texture / "Test" / f"{i:04}.PNG", seed=i)
            image = root / texture / "Test" / f"{i + 3:04}.PNG"
            data_trees.write_anomalous(image, image.parent / "Label" / f"{image.stem}_label.PNG", seed=i)
    script, arguments = ROOT / "examples" / "sort_dagm.py", sys.argv
    sys.argv = [str(script), str(root)]
    try:
        runpy.run_path(str(script), run_name="__main__")
    finally:
        sys.argv = arguments


def write_dtd(root: Path) -> None:
    names = "Blotchy_099 Fibrous_183 Marbled_078 Matted_069 Mesh_114 Perforated_037 Stratified_154 Woven_001 Woven_068"
    for name in (*names.split(), "Woven_104", "Woven_125", "Woven_127"):
        write_folders(root / name, "test/good", "test/bad", "ground_truth/bad", ending="_mask")
        shutil.copytree(root / name / "test" / "good", root / name / "train" / "good")


TREES = {
    "MVTecAD": lambda root: data_trees.mvtec_ad(root, ("bottle", "cable")),
    "visa": lambda root: data_trees.visa(root, ("candle", "cashew")),
    "MPDD": lambda root: data_trees.mpdd(root, ("tubes",)),
    "BTech": lambda root: data_trees.btech(root, ("01", "03")),
    "kolektor": data_trees.kolektor,
    "DAGM": write_dagm,
    "DTD-Synthetic": write_dtd,
    "metal_nut": lambda root: write_folders(root, "good", "scratched", "masks"),
    "leather": lambda root: write_folders(root, "good", "torn", "unused"),
}
NEEDS = {
    "folder_to_folder": ("metal_nut", "leather"),
    "visa_to_mvtec": ("visa", "MVTecAD"),
    "mvtec_to_visa": ("MVTecAD", "visa"),
    "mvtec_to_mpdd": ("MVTecAD", "MPDD"),
    "mvtec_to_btech": ("MVTecAD", "BTech"),
    "mvtec_to_kolektor": ("MVTecAD", "kolektor"),
    "mvtec_to_dagm": ("MVTecAD", "DAGM"),
    "mvtec_to_dtd_synthetic": ("MVTecAD", "DTD-Synthetic"),
}
# How many images the tiny target has: the whole test split, whatever anomalib would do with it.
TESTED = {
    "folder_to_folder": 6,
    "visa_to_mvtec": 16,
    "mvtec_to_visa": 16,
    "mvtec_to_mpdd": 8,
    "mvtec_to_btech": 16,
    "mvtec_to_dagm": 60,
    "mvtec_to_dtd_synthetic": 72,
}


@pytest.mark.parametrize("name", MODELS)
def test_model_config_is_parsed(name, capsys):
    data = str(CONFIGS / "data" / "visa_to_mvtec.yaml")
    command = ["train", "--model", str(CONFIGS / "model" / f"{name}.yaml"), "--data", data, "--print_config"]
    with pytest.raises(SystemExit) as ended:
        AnomalibCLI(command)
    assert ended.value.code == 0
    assert yaml.safe_load(capsys.readouterr().out)["model"]["class_path"].endswith("GenCLIP")


# The largest trees, read by the same datamodule as the others.
LARGE = {"mvtec_to_dagm", "mvtec_to_dtd_synthetic"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in DATA]
)
def test_protocol_runs_on_a_tiny_tree(name, tmp_path, monkeypatch):
    for folder in NEEDS[name]:
        TREES[folder](tmp_path / "datasets" / folder)
    monkeypatch.chdir(tmp_path)
    model = CONFIGS / "model" / ("genclip_class_names.yaml" if name.startswith("mvtec_to_") else "genclip.yaml")
    data = CONFIGS / "data" / f"{name}.yaml"
    command = ["--model", str(model), *SMALL, "--model.visualizer", "false", "--data", str(data), *QUICK]
    loading = ["--data.num_workers", "0", "--data.train_batch_size", "4"]
    cli = AnomalibCLI(["train", *command, *loading, "--default_root_dir", "results"])
    if name in TESTED:
        assert len(cli.datamodule.test_data) == TESTED[name]
    metrics = cli.engine.trainer.callback_metrics
    assert 0 <= metrics["image_AUROC"] <= 1
    assert ("pixel_AUROC" in metrics) == (name != "folder_to_folder")  # its target has no masks
    assert next(Path("results").rglob("metrics.md"))


@pytest.mark.parametrize("backbone", ["ViT-B-16", "ViT-L-14-336"])
def test_rendered_images_have_the_size_of_the_model(backbone):
    settings = yaml.safe_load((CONFIGS / "rendered.yaml").read_text())
    data, size = settings["data"]["init_args"], settings["model"]["init_args"]["image_size"]
    assert data["source"]["init_args"]["render_size"] == size
    assert resolve_image_size(backbone_spec(backbone), size) == (size, size)
    assert data["target"] == data["source"]
    assert {*data["source_categories"]} == {*SOURCE, *TARGET}
    assert data["target_categories"] == [*TUNING]


def monitoring(callback: str, **settings) -> list[str]:
    """Return the arguments that add a callback to the trainer."""
    options = {"monitor": "pixel_AUPRO", "mode": "max", **settings}
    own = [text for name, value in options.items() for text in (f"--trainer.callbacks.{name}", str(value))]
    return [f"--trainer.callbacks+={callback}", *own]


def test_rendered_training_stops_early_and_leaves_prompts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = {"render_size": 32, "test_good": 3, "test_per_defect": 1}
    data = [text for name in few for side in ("source", "target") for text in (f"--data.{side}.{name}", str(few[name]))]
    data += ["--data.source_categories", "[wood, tile]", "--data.target_categories", "[nut]"]
    model = ["--model.backbone", "tiny", "--model.image_size", "32", "--model.visualizer", "false"]
    trainer = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.logger", "false"]
    trainer += monitoring("lightning.pytorch.callbacks.EarlyStopping", patience=1, min_delta=1)
    trainer += monitoring("anomalib.callbacks.ModelCheckpoint")
    cli = AnomalibCLI(["train", "--config", str(CONFIGS / "rendered.yaml"), *model, *data, *trainer])
    assert cli.engine.trainer.current_epoch == 2
    latest = Path("results/GenCLIP/SyntheticDefects_to_SyntheticDefects/latest")
    written = load_weights(latest / "weights" / "prompts.safetensors")
    assert written.signature.backbone == "tiny"
    assert written.tensors["prompts.normal"].equal(cli.model.model.prompts.normal)
    assert len(list(Path("features").rglob("*.safetensors"))) == 16
    assert (latest / "metrics.md").is_file()


def test_class_names_are_for_categories_that_the_protocols_have():
    names = yaml.safe_load((CONFIGS / "model" / "genclip_class_names.yaml").read_text())["init_args"]["class_name"]
    categories = {"Kolektor", "01", "02", "03"}
    for name in ("mvtec_to_dagm", "mvtec_to_dtd_synthetic"):
        target = yaml.safe_load((CONFIGS / "data" / f"{name}.yaml").read_text())["init_args"]["target"]
        categories |= {part["init_args"]["name"] for part in target}
    assert names.keys() == categories


def test_comparison_is_complete(tmp_path, monkeypatch):
    TREES["MVTecAD"](tmp_path / "datasets" / "MVTecAD")
    monkeypatch.chdir(tmp_path)
    settings = validated(Comparison, yaml.safe_load((CONFIGS / "comparison.yaml").read_text()))
    assert [label for label, *_ in target_parts(settings)] == ["bottle", "cable"]
    assert {entry.protocol for entry in settings.models} == {"cross_dataset", "zero_shot", "one_class"}
    known = [entry.model.class_path for entry in settings.models]
    module = sys.modules["anomalib.models"]
    assert all(hasattr(module, name) for name in known)


def test_reproduction_names_files_that_are_there():
    settings = yaml.safe_load((CONFIGS / "reproduce.yaml").read_text())
    files = [*(file for own in settings["models"].values() for file in own), *settings["protocols"]]
    assert all(find_config(file).is_relative_to(CONFIGS) for file in files)
    assert {Path(file).stem for file in settings["protocols"]} == NEEDS.keys() - {"folder_to_folder"}
