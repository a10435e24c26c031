# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The paper's protocols: GenCLIP trained on one dataset and tested on others, beside published results."""

from pathlib import Path
from typing import Any

from anomalib_genclip.evaluation.result import METRIC_NAMES
from anomalib_genclip.evaluation.tables import NOTE, ResultTable, Row
from anomalib_genclip.utils.configs import find_config
from anomalib_genclip.utils.loaders import as_list

from .comparison import check_names, compare, read_settings
from .published import PUBLISHED
from .task import Settings, reason

REQUIRED = {"model", "protocols"}
OPTIONAL = {"results_dir", "accelerator", "isolate", "seed", "trainer"}
REMARKS = [
    "Metrics in percent, as the mean over categories.",
    "Published results were measured by others, with their own code, image sizes and AUPRO.",
]


def reproduce(settings: Settings) -> ResultTable:
    """Run the protocols, and write and print one table; see ``configs/reproduce.yaml``.

    Protocols with the same source share one training run. A protocol that fails is a row with the reason.

    Args:
        settings (Settings): ``model``, settings file of the model; ``protocols``, settings files of
            :class:`CrossDataset`; and optionally ``results_dir``, ``accelerator``, ``isolate``, ``seed`` and
            ``trainer``.

    Returns:
        ResultTable: Published and measured results.

    Raises:
        ValueError: If a setting is missing, unknown or invalid.
    """
    check_names(settings, REQUIRED, OPTIONAL, "The reproduction")
    folder = Path(settings.get("results_dir", "results/reproduce"))
    protocols = settings["protocols"]
    if not isinstance(protocols, list) or not protocols:
        msg = f"protocols must be a list of at least one settings file, got {protocols!r}."
        raise ValueError(msg)
    rows: list[Row] = []
    for protocol in protocols:
        rows += run_protocol(protocol, settings, folder)
        table = ResultTable("The paper's protocols", rows, REMARKS)
        table.write(folder, "reproduce")  # after each, because they take hours
    table.print()
    print(f"Table: {folder}/reproduce.*; by category: {folder}/*/comparison_by_category.*")  # the command's result
    return table


def run_protocol(protocol: str, settings: Settings, folder: Path) -> list[Row]:
    """Run one protocol.

    Args:
        protocol (str): Settings file of a CrossDataset, or the name of one that comes with the package.
        settings (Settings): As in :func:`reproduce`.
        folder (Path): Folder of all results.

    Returns:
        list[Row]: Published and measured results.
    """
    label, published = Path(protocol).stem, []
    measured: dict[str, Any]
    try:
        data = read_settings(find_config(protocol))["init_args"]
        label = " + ".join(_names(data["source"])) + " to " + " + ".join(_names(data["target"]))
        published = [
            _row(label, known.model, known.source, known.metrics)
            for name in _names(data["target"])
            for known in PUBLISHED.get(name, ())
        ]
        tables = compare(comparison_settings(data, settings, folder, Path(protocol).stem))
        measured = tables.models.rows[0]
    except Exception as error:  # noqa: BLE001  # the other protocols still run
        measured = {NOTE: f"failed: {reason(error)}"}
    return [*published, _row(label, "GenCLIP", "measured", measured)]


def comparison_settings(data: Settings, settings: Settings, folder: Path, stem: str) -> Settings:
    """Convert the arguments of a CrossDataset to the settings of a comparison with one model.

    The target gets batch size and number of workers of the CrossDataset.
    """
    loading = {key: data[key] for key in ("eval_batch_size", "num_workers") if key in data}
    sides = {"source", "source_categories", "target", "target_categories"}
    targets = [
        {**target, "init_args": {**(target.get("init_args") or {}), **loading}} for target in as_list(data["target"])
    ]
    entry = {
        "name": "GenCLIP",
        "protocol": "cross_dataset",
        "model": read_settings(find_config(settings["model"])),
        "trainer": settings.get("trainer") or {},
        "source": data["source"],
        "source_categories": data.get("source_categories"),
        "data": {key: value for key, value in data.items() if key not in sides},
    }
    common: Settings = {key: settings[key] for key in ("accelerator", "isolate", "seed") if key in settings}
    return {
        **common,
        "results_dir": folder / stem,
        "jobs_dir": folder,
        "target": targets,
        "target_categories": data.get("target_categories"),
        "models": [entry],
    }


def _row(label: str, model: str, source: str, values: dict[str, Any]) -> Row:
    metrics = {name: values.get(name) for name in METRIC_NAMES}
    return {"data": label, "model": model, "source": source, **metrics, NOTE: values.get(NOTE, "")}


def _names(datamodules: Settings | list[Settings]) -> list[str]:
    """List the class names of datamodules without repetitions; a Folder is named after the parent of its root."""
    names = []
    for datamodule in as_list(datamodules):
        name = datamodule["class_path"].split(".")[-1]
        names.append(Path(datamodule["init_args"]["root"]).parent.name if name == "Folder" else name)
    return list(dict.fromkeys(names))
