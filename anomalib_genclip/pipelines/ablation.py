# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Ablation: a trained model without some of its parts, and with one layer at a time."""

from pathlib import Path

from anomalib_genclip.evaluation.report import NOTE, ResultTable
from anomalib_genclip.evaluation.scores import METRIC_NAMES
from anomalib_genclip.inferencer import load_trained

from .comparison_tables import with_note
from .job_actions import Settings
from .jobs import Job, run_jobs

REMARKS = [
    "Metrics in percent. One trained model, without retraining.",
    "layers: those whose maps are averaged. The image score also uses the last layer's CLS token.",
]
SHOWN = ["branches", "CNF", "layers", *METRIC_NAMES, "images_per_second"]


def ablate(
    weights: str,
    data: Settings,
    results_dir: str | Path = "results/ablation",
    accelerator: str = "auto",
    seed: int = 42,
    isolate: bool = True,
    pretrained: str | None = None,
) -> ResultTable:
    """Test a trained model without some of its parts, and print and write the table."""
    common = {"weights": weights, "pretrained": pretrained, "data": data, "seed": seed, "accelerator": accelerator}
    jobs = []
    for variant in variants(load_trained(weights, pretrained).model.layers):
        labels = {
            "branches": variant["branches"],
            "CNF": "on" if variant["class_name_filter"] else "off",
            "layers": " ".join(map(str, variant["map_layers"])),
        }
        jobs.append(Job("ablate", {**common, "variant": variant}, labels))
    rows = [with_note(row) for row in run_jobs("ablation", jobs, Path(results_dir), isolate)]
    columns = [*SHOWN, "images", NOTE]
    table = ResultTable("Ablation", [{name: row[name] for name in columns if name in row} for row in rows], REMARKS)
    table.print(SHOWN)
    table.write(results_dir, "ablation")
    return table


def variants(layers: list[int]) -> list[Settings]:
    """List the variants, as attributes of the torch model: branches, with and without CNF, then single layers.

    CNF has no effect on the query-only branch, which has no class name.
    """
    branches = [("both", True), ("both", False), ("vision", True), ("vision", False), ("query", False)]
    parts = [(name, cnf, layers) for name, cnf in branches] + [("both", True, [layer]) for layer in layers]
    return [dict(zip(("branches", "class_name_filter", "map_layers"), part, strict=True)) for part in parts]
