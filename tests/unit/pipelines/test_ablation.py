# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""A trained model without some of its parts."""

import json

import pytest
import yaml
from anomalib.engine import Engine
from helpers.comparisons import mvtec, rows_of

from anomalib_genclip import GenCLIP, cli
from anomalib_genclip.evaluation import METRIC_NAMES


def test_ablation_from_a_checkpoint_without_training(compared, comparison_data, tmp_path, monkeypatch):
    (checkpoint,) = (compared.folder / "checkpoints").glob("*.ckpt")
    config = tmp_path / "data.yaml"
    config.write_text(yaml.safe_dump(mvtec(comparison_data / "target", category="wood")))
    monkeypatch.setattr(Engine, "fit", lambda *_args, **_kwargs: pytest.fail("trained"))
    command = ["--weights", str(checkpoint), "--data", str(config), "--results_dir", str(tmp_path / "results")]
    assert cli.main(["ablation", *command, "--accelerator", "cpu", "--isolate", "false"]) == 0
    rows = json.loads((tmp_path / "results" / "ablation.json").read_text())["rows"]
    layers = GenCLIP.load_from_checkpoint(checkpoint).model.layers
    full = " ".join(map(str, layers))
    assert [(row["branches"], row["CNF"], row["layers"]) for row in rows] == [
        ("both", "on", full),
        ("both", "off", full),
        ("vision", "on", full),
        ("vision", "off", full),
        ("query", "off", full),
        *(("both", "on", str(layer)) for layer in layers),
    ]
    # The first row is the model as it is.
    expected = rows_of(compared.tables, "GenCLIP")[1]
    assert {name: rows[0][name] for name in METRIC_NAMES} == pytest.approx(
        {name: expected[name] for name in METRIC_NAMES}, abs=1e-6
    )
    assert len({tuple(row[name] for name in METRIC_NAMES) for row in rows}) > 3  # the parts make a difference
