# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Ablation: a trained model without some of its parts, and with one layer at a time."""

from dataclasses import asdict
from pathlib import Path

from anomalib_genclip.evaluation.tables import NOTE, ResultTable, Row

from .ablated import tapped_layers, variants
from .jobs import Job, run_jobs
from .task import Settings

REMARKS = [
    "Metrics in percent. One trained model, without retraining.",
    "layers: those whose maps are averaged. The image score also uses the last layer's CLS token.",
]
HIDDEN = {"error", "notes", "fit_seconds", "device", "peak_memory_mib"}


def ablate(
    weights: str,
    data: Settings,
    results_dir: str | Path = "results/ablation",
    accelerator: str = "auto",
    seed: int = 42,
    isolate: bool = True,
    pretrained: str | None = None,
) -> ResultTable:
    """Test a trained model without some of its parts, and print and write the table.

    Args:
        weights (str): As in :func:`anomalib_genclip.inferencer.load_trained`, like ``pretrained``.
        data (Settings): The datamodule, ``{"class_path": name, "init_args": {...}}``.
        results_dir (str | Path): Folder for the results.
        accelerator (str): As in Lightning.
        seed (int): Seed of the tests.
        isolate (bool): Run each test in a process of its own.
        pretrained (str | None): CLIP weights.

    Returns:
        ResultTable: One row per variant.

    Raises:
        ValueError: If ``weights`` is not a file of GenCLIP.
    """
    jobs = []
    for variant in variants(tapped_layers(weights)):
        settings = {
            "action": "ablate",
            "weights": weights,
            "pretrained": pretrained,
            "data": data,
            "variant": asdict(variant),
            "seed": seed,
            "accelerator": accelerator,
        }
        labels = {
            "branches": variant.branches,
            "CNF": "on" if variant.class_name_filter else "off",
            "layers": " ".join(map(str, variant.layers)),
        }
        jobs.append(Job(settings, labels))
    folder = Path(results_dir)
    rows = run_jobs("ablation", jobs, folder, isolate)
    table = ResultTable("Ablation", [_with_note(row) for row in rows], REMARKS)
    table.print()
    table.write(folder, "ablation")
    return table


def _with_note(row: Row) -> Row:
    """Replace a job's error and notes by the row's note."""
    note = f"failed: {row['error']}" if "error" in row else "; ".join(row["notes"])
    return {**{name: value for name, value in row.items() if name not in HIDDEN}, NOTE: note}
