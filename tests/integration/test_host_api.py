# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""What anomalib checks of every model it ships: each call of the engine, each export, each subcommand.

anomalib's own test (``tests/integration/model/test_models.py``) fits a model on a small data set of MVTec AD's layout
with one category called "dummy", and then makes every other call from the checkpoint which that wrote, each with new
objects. The same is done here, and once more through the command line. What the exported files compute is compared in
``test_export.py``.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from anomalib.cli import AnomalibCLI
from anomalib.data import AnomalibDataModule, MVTecAD
from anomalib.deploy import CompressionType, ExportType
from anomalib.engine import Engine
from anomalib.models import get_model
from helpers import data_trees
from helpers.runs import engine
from PIL import Image

from anomalib_genclip import GenCLIP

CATEGORY = "dummy"
FILES = {ExportType.TORCH: "model.pt", ExportType.ONNX: "model.onnx", ExportType.OPENVINO: "model.xml"}
NEEDS = {ExportType.TORCH: (), ExportType.ONNX: ("onnx", "onnxscript"), ExportType.OPENVINO: ("onnxscript", "openvino")}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("datasets") / "mvtecad"
    data_trees.mvtec_ad(root, (CATEGORY,), normal=5, anomalous=5)
    return root


def data(root: Path) -> MVTecAD:
    return MVTecAD(root=root, category=CATEGORY, train_batch_size=2, eval_batch_size=5, num_workers=0)


def objects(root: Path, folder: Path, epochs: int = 1) -> tuple[GenCLIP, AnomalibDataModule, Engine]:
    return get_model("genclip", backbone="tiny"), data(root), engine(folder, max_epochs=epochs)


@pytest.fixture(scope="module")
def fitted(root, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    model, datamodule, run = objects(root, folder)
    run.fit(model=model, datamodule=datamodule)
    return folder / model.name / datamodule.name / CATEGORY / "v0/weights/lightning/model.ckpt"


# The graphs of ONNX and OpenVINO take tens of seconds each; `test_export.py` has them in the fast tests once.
KINDS = [kind if kind == ExportType.TORCH else pytest.param(kind, marks=pytest.mark.slow) for kind in ExportType]


def need(kind: ExportType) -> None:
    for package in NEEDS[kind]:
        pytest.importorskip(package)


def weights_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]


def is_as_fitted(model: GenCLIP, checkpoint: Path) -> bool:
    return torch.equal(model.model.prompts.normal, weights_of(checkpoint)["model.prompts.normal"])


def has_thresholds(model: GenCLIP) -> bool:
    return all(bool(value.isfinite()) for value in model.post_processor.raw_thresholds().values())


def test_training_from_the_checkpoint_writes_another_and_gives_metrics(root, fitted, tmp_path):
    model, datamodule, run = objects(root, tmp_path, epochs=2)
    (figures,) = run.train(model=model, datamodule=datamodule, ckpt_path=fitted)
    assert all(0 <= figures[name] <= 1 for name in ("image_AUROC", "image_F1Max", "pixel_AUROC", "pixel_F1Max"))
    # Training goes on where it was; anomalib then tests the checkpoint that it was given.
    assert is_as_fitted(model, fitted)
    assert [is_as_fitted(model, path) for path in tmp_path.rglob("*.ckpt")] == [False]


@pytest.mark.slow
@pytest.mark.parametrize("compression", [CompressionType.FP16, CompressionType.INT8])
def test_compressed_export_writes_a_file(root, fitted, tmp_path, compression):
    pytest.importorskip("nncf")
    model, _, run = objects(root, tmp_path)
    kind = ExportType.OPENVINO
    path = run.export(
        model=model, export_type=kind, export_root=tmp_path, ckpt_path=str(fitted), compression_type=compression
    )
    assert path.with_suffix(".bin").stat().st_size < 8e6  # float32 takes 10


# The command line


MODEL = ["--model", "GenCLIP", "--model.backbone", "tiny"]
TRAINER = [
    *("--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.max_epochs", "1"),
    *("--trainer.logger", "false", "--trainer.enable_progress_bar", "false"),
]


def command(name: str, folder: Path, *arguments: str) -> AnomalibCLI:
    return AnomalibCLI([name, *MODEL, *TRAINER, "--default_root_dir", str(folder), *arguments])


def data_arguments(root: Path, category: str = CATEGORY) -> list[str]:
    settings = {"root": root, "category": category, "train_batch_size": 2, "eval_batch_size": 5, "num_workers": 0}
    return ["--data", "MVTecAD", *(text for name, value in settings.items() for text in (f"--data.{name}", str(value)))]


@pytest.mark.parametrize("name", ["fit", "train"])
def test_training_subcommand_writes_a_checkpoint(root, tmp_path, name):
    cli = command(name, tmp_path, *data_arguments(root))
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    assert "model.prompts.normal" in weights_of(checkpoint)
    assert (len(list(tmp_path.rglob("metrics.md"))) == 1) == (name == "train")
    assert cli.model.trained_on == "MVTecAD dummy"


@pytest.mark.parametrize("name", ["validate", "test"])
def test_evaluating_subcommand_takes_the_checkpoint(root, fitted, tmp_path, name):
    cli = command(name, tmp_path, *data_arguments(root), "--ckpt_path", str(fitted))
    assert has_thresholds(cli.model)
    assert is_as_fitted(cli.model, fitted)
    assert ("pixel_AUROC" in cli.engine.trainer.callback_metrics) == (name == "test")


def test_calibrated_prompts_are_looked_up_by_the_category_of_the_data(tmp_path, caplog):
    data_trees.mvtec_ad(tmp_path / "data", ("metal_nut", "cable"), normal=2, anomalous=2)
    calibrated = GenCLIP(weights="tiny-demo", class_name="metal_nut")
    note = {"class_name": "metal nut", "false_alarm_rate": 0.1, "normal_images": 9}
    calibrated.post_processor.set_thresholds(0.4, 0.45, note)
    file = calibrated.save_weights(tmp_path / "nut.safetensors")
    for category in ("metal_nut", "cable"):
        caplog.clear()
        given = ["test", "--model", "GenCLIP", "--model.weights", str(file), *TRAINER, "--default_root_dir"]
        cli = AnomalibCLI([*given, str(tmp_path / category), *data_arguments(tmp_path / "data", category)])
        assert cli.model.model.class_names.names == ["object", "metal nut", "cable"][: 2 + (category == "cable")]
        assert ("calibrated for 'metal nut' and may not hold for 'cable'" in caplog.text) == (category == "cable")
        assert cli.model.post_processor.calibration == note
        assert float(cli.model.post_processor.image_threshold) == pytest.approx(0.4)


@pytest.mark.parametrize("kind", ["file", "folder", "datamodule"])
def test_predict_subcommand_writes_a_picture_per_image(root, fitted, tmp_path, kind):
    bad = root / CATEGORY / "test" / "crack"
    given = {
        "file": ["--data", str(bad / "000.png")],
        "folder": ["--data", str(bad)],
        "datamodule": data_arguments(root),
    }
    command("predict", tmp_path, *given[kind], "--ckpt_path", str(fitted))
    pictures = list(tmp_path.rglob("*.png"))
    assert len(pictures) == {"file": 1, "folder": 5, "datamodule": 10}[kind]
    assert np.asarray(Image.open(pictures[0])).std() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_export_subcommand_takes_the_checkpoint(fitted, tmp_path, kind):
    need(kind)
    into = ["--export_type", kind.value, "--export_root", str(tmp_path), "--ckpt_path", str(fitted)]
    command("export", tmp_path, *into)
    assert (tmp_path / "weights" / kind.value / FILES[kind]).stat().st_size > 0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--model.bakbone", "tiny"], "bakbone"),
        (["--model.layers", "[a]"], "layers"),
        (["--model.image_size", "large"], "image_size"),
        (["--model.prompt_length", "many"], "prompt_length"),
        (["--model.training.epochs", "many"], "training"),
        (["--model.fine_tune", "perhaps"], "fine_tune"),
    ],
)
def test_wrong_argument_ends_the_command_before_a_model_is_built(root, monkeypatch, capsys, arguments, named):
    monkeypatch.setattr("anomalib_genclip.lightning_model.load_clip", lambda *_: pytest.fail("CLIP was loaded"))
    with pytest.raises(SystemExit) as ended:
        AnomalibCLI(["train", *MODEL, *arguments, *data_arguments(root)])
    assert ended.value.code == 2
    assert named in capsys.readouterr().err


def test_config_of_a_run_repeats_it(root, tmp_path, capsys):
    arguments = ["train", *MODEL, "--model.class_name", "bolt", *TRAINER, *data_arguments(root)]
    with pytest.raises(SystemExit):
        AnomalibCLI([*arguments, "--default_root_dir", str(tmp_path), "--print_config"])
    config = tmp_path / "config.yaml"
    config.write_text(capsys.readouterr().out)
    again = AnomalibCLI(["train", "--config", str(config)], run=False)
    init_args = yaml.safe_load(config.read_text())["model"]["init_args"]
    assert init_args["class_name"] == again.model.names.given == "bolt"
    assert json.dumps(init_args)  # plain values only
