# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The paper's protocols: GenCLIP trained on one dataset and tested on others, beside published results."""

from pathlib import Path

from pydantic import Field

from anomalib_genclip.evaluation.report import NOTE, ResultTable, Row
from anomalib_genclip.evaluation.scores import METRIC_NAMES
from anomalib_genclip.utils.files import find_config
from anomalib_genclip.utils.loaders import as_list

from .comparison import Strict, compare, read_settings, validated
from .jobs import Settings, reason

REMARKS = [
    "Metrics in percent, as the mean over categories.",
    "Published results were measured by others, with their own code, image sizes and AUPRO.",
]
# Zero-shot results by the target's datamodule: model, source, and means over categories.
_WINCLIP = ("WinCLIP", "published (abstract, arXiv 2303.14814)")
_ANOMALY_CLIP = ("AnomalyCLIP", "published (logs in its repository)")
PUBLISHED: dict[str, list[tuple[str, str, dict[str, float]]]] = {
    "MVTecAD": [
        (*_WINCLIP, {"image_AUROC": 0.918, "pixel_AUROC": 0.851}),
        (*_ANOMALY_CLIP, {"image_AUROC": 0.916, "image_AP": 0.964, "pixel_AUROC": 0.911, "pixel_AUPRO": 0.814}),
    ],
    "Visa": [
        (*_WINCLIP, {"image_AUROC": 0.781, "pixel_AUROC": 0.796}),
        (*_ANOMALY_CLIP, {"image_AUROC": 0.820, "image_AP": 0.853, "pixel_AUROC": 0.955, "pixel_AUPRO": 0.867}),
    ],
}


class Reproduction(Strict):
    """Settings of a reproduction; the last four are those of a comparison."""

    model: str  # settings file
    protocols: list[str] = Field(min_length=1)  # settings files of CrossDataset
    results_dir: Path = Path("results/reproduce")
    trainer: Settings = Field(default={})
    accelerator: str = "auto"
    isolate: bool = True
    seed: int = 42


def reproduce(settings: Settings) -> ResultTable:
    """Run the protocols, and write and print one table; see ``configs/reproduce.yaml``.

    Protocols with the same source share one training run. A protocol that fails is a row with the reason.

    Raises:
        ValueError: If a setting is missing, unknown or invalid.
    """
    checked = validated(Reproduction, settings)
    table, folder = ResultTable("The paper's protocols", [], REMARKS), checked.results_dir
    for protocol in checked.protocols:
        table.rows += run_protocol(protocol, checked)
        table.write(folder, "reproduce")  # after each, because they take hours
    table.print(["data", "model", "source", *METRIC_NAMES])
    print(f"Table: {folder}/reproduce.*; by category: {folder}/*/comparison_by_category.*")  # the command's result
    return table


def run_protocol(protocol: str, settings: Reproduction) -> list[Row]:
    """Run one protocol, the settings file of a CrossDataset, and return published and measured results."""
    label = Path(protocol).stem
    results: list[tuple[str, str, Row]] = []
    try:
        data = read_settings(find_config(protocol))["init_args"]
        label = " to ".join(" + ".join(_names(data[side])) for side in ("source", "target"))
        for name in _names(data["target"]):
            results += PUBLISHED.get(name, [])
        measured = compare(comparison_settings(data, settings, Path(protocol).stem)).models.rows[0]
    except Exception as error:  # noqa: BLE001  # the other protocols still run
        measured = {NOTE: f"failed: {reason(error)}"}
    results.append(("GenCLIP", "measured", measured))
    return [
        {"data": label, "model": model, "source": source}
        | {name: found.get(name) for name in METRIC_NAMES}
        | {NOTE: found.get(NOTE, "")}
        for model, source, found in results
    ]


def comparison_settings(data: Settings, settings: Reproduction, stem: str) -> Settings:
    """Convert the arguments of a CrossDataset to the settings of a comparison with one model."""
    loading = {key: data[key] for key in ("eval_batch_size", "num_workers") if key in data}
    sides = {"source", "source_categories", "target", "target_categories"}
    entry = {
        "name": "GenCLIP",
        "protocol": "cross_dataset",
        "model": read_settings(find_config(settings.model)),
        "trainer": settings.trainer,
        "source": data["source"],
        "source_categories": data.get("source_categories"),
        "data": {key: value for key, value in data.items() if key not in sides},
    }
    return {
        **settings.model_dump(include={"accelerator", "isolate", "seed"}),
        "results_dir": settings.results_dir / stem,
        "jobs_dir": settings.results_dir,
        "target": [{**one, "init_args": {**one.get("init_args", {}), **loading}} for one in as_list(data["target"])],
        "target_categories": data.get("target_categories"),
        "models": [entry],
    }


def _names(datamodules: Settings | list[Settings]) -> list[str]:
    """List the class names of datamodules without repetitions; a Folder is named after the parent of its root."""
    names = []
    for datamodule in as_list(datamodules):
        name = datamodule["class_path"].split(".")[-1]
        names.append(Path(datamodule["init_args"]["root"]).parent.name if name == "Folder" else name)
    return list(dict.fromkeys(names))
