# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The command ``genclip``."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from hatchling.builders.wheel import WheelBuilder
from helpers.comparisons import ROOT, settings_for
from helpers.predictions import Brightness, use_model, write_images

from anomalib_genclip import cli
from anomalib_genclip.utils.files import list_configs


def run_benchmark(data: Path, folder: Path, **settings) -> int:
    config = folder / "comparison.yaml"
    config.write_text(yaml.safe_dump(settings_for(data, folder / "results") | settings))
    return cli.main(["benchmark", "--config", str(config)])


def test_benchmark_runs_jobs_in_processes_of_their_own(comparison_data, tmp_path):
    model = settings_for(comparison_data, tmp_path)["models"][0]["model"]
    models = [{"name": "GenCLIP", "protocol": "zero_shot", "model": model}]
    assert run_benchmark(comparison_data, tmp_path, models=models, isolate=True, target_categories=["bottle"]) == 0
    (row,) = json.loads((tmp_path / "results" / "comparison.json").read_text())["rows"]
    assert row["categories"] == "1 of 1"
    assert row["images_per_second"] > 0


def test_benchmark_fails_if_no_job_gave_a_result(comparison_data, tmp_path):
    assert run_benchmark(comparison_data, tmp_path, models=settings_for(comparison_data, tmp_path)["models"][-1:]) == 1


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_each_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([command, "--help"])
    text = capsys.readouterr().out
    assert stopped.value.code == 0
    assert text.startswith("usage: genclip")
    assert " ".join(text.split()).count((cli.COMMANDS[command].__doc__ or "").partition("\n")[0].rstrip(".:")) == 1


def test_without_a_command_it_explains_itself(capsys):
    assert cli.main([]) == 0
    text = capsys.readouterr().out
    assert all(f"    {command} " in text for command in cli.COMMANDS)


def test_configs_are_found_by_name_or_path_or_all_are_listed(capsys):
    assert cli.main(["config", "data/visa_to_mvtec"]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert yaml.safe_load(path.read_text())["class_path"] == "CrossDataset"
    assert cli.main(["config"]) == 0
    assert "quickstart" in capsys.readouterr().out.split()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("config quickstrat", "'quickstrat'. Give a path, or one of: "),
        ("explain --weights none.safetensors --image x.png", "There are no weights none.safetensors"),
        ("explain --weights tiny-demo --image none.png", "none.png"),
        ("benchmark --config none.yaml", "none.yaml"),
        ("explain --weights tiny-demo --image x.png --output y.png", "--output"),
        ("explain --weights tiny-demo", "image"),
        ("calibrate --weights tiny-demo --normal x --out y --k_shot many", "k_shot"),
        ("calibrate --weights tiny-demo --normal x --out y --tiles.size many", "many"),
        ("app --port -1", "port"),
        ("predict --weights tiny-demo --data x --out y --on_error never", "on_error"),
        ("predict --weights tiny-demo --data x --out y --regions maybe", "regions"),
        ("explian", "explian"),
    ],
)
def test_wrong_input_is_one_line(arguments, named, capsys):
    assert cli.main(arguments.split()) == 2
    captured = capsys.readouterr()
    error, *hint = captured.err.splitlines()
    assert not captured.out
    assert ": error: " in error
    assert named in error
    assert all(line.startswith("See: genclip") for line in hint)
    assert len(hint) <= 1


def test_a_reader_that_has_seen_enough_is_no_error():
    command = [sys.executable, "-m", "anomalib_genclip.cli", "config"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        run.stdout.close()
        assert not run.stderr.read()
    assert run.returncode == 0


def predict(root, *options):
    given = ["--weights", "tiny-demo", "--data", str(root / "images"), "--out", str(root / "out"), "--num_workers", "0"]
    return cli.main(["predict", *given, *options])


def test_predict_says_what_it_found_and_how_many_images_failed(tmp_path, capsys, monkeypatch):
    use_model(monkeypatch, Brightness())
    write_images(tmp_path / "images", 20, broken=(3, 11))
    assert predict(tmp_path, "--regions") == 2
    assert "1/00011" not in (error := capsys.readouterr().err)
    assert "0/00003.png cannot be read" in error
    (tmp_path / "images" / "notes.txt").touch()
    assert predict(tmp_path, "--regions", "--on_error", "record") == 12
    assert "20 images, 9 anomalous, 2 with errors: " in (text := capsys.readouterr().out)
    assert "/out/scores.csv\nSkipped, as no images: 1 .txt\nThe alarm level is that of the data" in text
    assert (tmp_path / "out" / "regions.csv").is_file()
    assert predict(tmp_path, "--regions", "--on_error", "record") == 0
    assert "nothing left to do" in capsys.readouterr().out
    assert predict(tmp_path, "--regions", "false") == 2
    assert "regions True (now False)" in capsys.readouterr().err
    assert predict(tmp_path, "--overwrite", "--shard", "1/1", "--on_error", "record") == 12


def test_predict_leaves_the_statuses_of_signals_alone(tmp_path, monkeypatch):
    use_model(monkeypatch, Brightness())
    write_images(tmp_path / "images", 130, broken=tuple(range(130)))
    assert predict(tmp_path, "--on_error", "record") == 125
    use_model(monkeypatch, Brightness(calls=0))
    write_images(tmp_path / "images", 1)
    assert predict(tmp_path, "--overwrite") == 130


def test_predict_counts_one_image_as_one(tmp_path, capsys, monkeypatch):
    use_model(monkeypatch, Brightness())
    write_images(tmp_path / "images", 1)
    assert predict(tmp_path, "--tiles.size", "64") == 0
    assert capsys.readouterr().out.startswith("1 image, 0 anomalous")
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["settings"]["tiles"]["size"] == 64


def test_help_needs_neither_torch_nor_anomalib():
    script = (
        "import sys, anomalib_genclip.cli as c; c.get_parser(); print(sorted({'torch', 'anomalib'} & {*sys.modules}))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_wheel_brings_the_configs(tmp_path):
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {f"anomalib_genclip/configs/{name}.yaml" for name in list_configs()} <= names
    assert "anomalib_genclip/demo/assets/tiny_clip.safetensors" in names
