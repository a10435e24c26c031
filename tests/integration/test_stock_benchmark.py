# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""anomalib's own benchmark."""

import csv
import subprocess
import sys

import yaml
from helpers.comparisons import ROOT

from anomalib_genclip import GenCLIP
from anomalib_genclip.evaluation import METRIC_NAMES


def test_stock_benchmark_runs_both_configs(compared, comparison_data, tmp_path):
    prompts = tmp_path / "prompts.safetensors"
    (checkpoint,) = (compared.folder / "checkpoints").glob("*.ckpt")
    GenCLIP.load_from_checkpoint(checkpoint).save_weights(prompts)
    changes = {
        "benchmark_genclip": {"weights": str(prompts)},
        "benchmark_patchcore": {"backbone": "resnet18", "pre_trained": False},
    }
    for name, init_args in changes.items():
        content = yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text())
        content["accelerator"] = "cpu"
        content["benchmark"]["model"]["init_args"] |= init_args
        content["benchmark"]["data"]["init_args"] |= {"root": str(comparison_data / "target"), "num_workers": 0}
        content["benchmark"]["data"]["init_args"]["category"] = {"grid": ["bottle", "wood"]}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
    script = "import sys; from anomalib.cli import AnomalibCLI\n"
    script += "for file in sys.argv[1:]: AnomalibCLI(['benchmark', '--config', file])"
    files = [f"{name}.yaml" for name in changes]
    subprocess.run([sys.executable, "-c", script, *files], cwd=tmp_path, check=True)
    tables = [list(csv.DictReader(path.open())) for path in tmp_path.glob("runs/benchmark/*/results.csv")]
    columns = {row["model.class_path"]: row.keys() for table in tables for row in table}
    assert set(METRIC_NAMES) <= columns["GenCLIP"]
    assert "image_AUROC" in columns["Patchcore"]
    assert [len(table) for table in tables] == [2, 2]
