# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The paper's protocols, with groups of settings such as ours and the paper's, beside published results."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from anomalib_genclip.evaluation.intervals import HIGH, LOW
from anomalib_genclip.evaluation.report import INTERVAL_REMARK, NOTE, ResultTable, Row
from anomalib_genclip.evaluation.scores import METRIC_NAMES
from anomalib_genclip.utils.files import find_config
from anomalib_genclip.utils.loaders import as_list

from .comparison import Strict, compare, read_settings, validated
from .jobs import Settings, reason

REMARKS = [
    "Metrics in percent, as the mean over categories.",
    "GenCLIP was measured here. Published results were measured by others, with their own code, image sizes and AUPRO.",
    INTERVAL_REMARK,
]
_FIGURES = ("image_AUROC", "pixel_AUROC", "pixel_AUPRO")
# Zero-shot results of others on MVTec AD and VisA; of some the first figure alone.
_OTHERS: list[tuple[str, str, tuple[float, ...], tuple[float, ...]]] = [
    ("WinCLIP", "arXiv 2303.14814", (0.918, 0.851, 0.646), (0.781, 0.796, 0.568)),
    ("APRIL-GAN", "arXiv 2305.17382", (0.861, 0.876, 0.440), (0.780, 0.942, 0.868)),
    ("AnomalyCLIP", "logs in its repository, arXiv 2310.18961", (0.916, 0.911, 0.814), (0.820, 0.955, 0.867)),
    ("AdaCLIP", "run again by the authors of VisualAD, arXiv 2407.15795", (0.920, 0.885, 0.476), (0.797, 0.951, 0.713)),
    ("AF-CLIP", "its paper", (0.929, 0.923, 0.857), (0.885, 0.962, 0.887)),
    ("VisualAD", "its paper", (0.922, 0.908, 0.875), (0.847, 0.958, 0.910)),
    ("AnomalyVFM (RADIO)", "arXiv 2601.20524", (0.964, 0.920, 0.876), (0.929, 0.958, 0.905)),
    ("AdaptCLIP", "arXiv 2505.09926", (0.935,), (0.848,)),
]
PUBLISHED: dict[str, list[tuple[str, str, Row]]] = {  # by the target's datamodule
    target: [(name, f"published ({by})", dict(zip(_FIGURES, own[side], strict=False))) for name, by, *own in _OTHERS]
    for side, target in enumerate(("MVTecAD", "Visa"))
}


class Reproduction(Strict):
    """Settings of a reproduction; the last four are those of a comparison."""

    # Name in the tables: settings files, of which a later one replaces init arguments of earlier ones.
    models: dict[str, Annotated[list[str], Field(min_length=1)]] = Field(min_length=1)
    protocols: list[str] = Field(min_length=1)  # settings files of CrossDataset
    results_dir: Path = Path("results/reproduce")
    trainer: Settings = Field(default={})
    accelerator: str = "auto"
    isolate: bool = True
    seed: int = 42


def reproduce(settings: Settings) -> ResultTable:
    """Run the protocols, and write and print one table; see ``configs/reproduce.yaml``.

    Protocols with the same source share the training runs. A protocol that fails is a row with the reason; a
    ``ValueError`` names a setting that is missing, unknown or invalid.
    """
    checked = validated(Reproduction, settings)
    table, folder = ResultTable("The paper's protocols", [], REMARKS), checked.results_dir
    for protocol in checked.protocols:
        table.rows += run_protocol(protocol, checked)
        table.write(folder, "reproduce")  # after each, because they take hours
    table.print(["data", "model", *METRIC_NAMES])
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
        measured = compare(comparison_settings(data, settings, Path(protocol).stem)).models.rows
    except Exception as error:  # noqa: BLE001  # the other protocols still run
        measured = [{"model": name, NOTE: f"failed: {reason(error)}"} for name in settings.models]
    results += [(row["model"], "measured", row) for row in measured]
    columns = [name + end for name in METRIC_NAMES for end in ("", LOW, HIGH)]
    return [
        {"data": label, "model": model, "source": source}
        | {name: found.get(name) for name in columns if name in found or name in METRIC_NAMES}
        | {NOTE: found.get(NOTE, "")}
        for model, source, found in results
    ]


def comparison_settings(data: Settings, settings: Reproduction, stem: str) -> Settings:
    """Convert the arguments of a CrossDataset to the settings of a comparison of the models."""
    loading = {key: data[key] for key in ("eval_batch_size", "num_workers") if key in data}
    sides = {"source", "source_categories", "target", "target_categories"}
    common: Settings = {"protocol": "cross_dataset", "trainer": settings.trainer, "source": data["source"]}
    common["source_categories"] = data.get("source_categories")
    common["data"] = {key: value for key, value in data.items() if key not in sides}
    return {
        **settings.model_dump(include={"accelerator", "isolate", "seed"}),
        "results_dir": settings.results_dir / stem,
        "jobs_dir": settings.results_dir,
        "target": [{**one, "init_args": {**one.get("init_args", {}), **loading}} for one in as_list(data["target"])],
        "target_categories": data.get("target_categories"),
        "models": [{"name": name, "model": _merged(files), **common} for name, files in settings.models.items()],
    }


def _merged(files: list[str]) -> Settings:
    """Read a model's settings files; init arguments of later ones replace those of earlier ones."""
    parts = [read_settings(find_config(file)) for file in files]
    init_args = {name: value for part in parts for name, value in part.get("init_args", {}).items()}
    return {**parts[-1], "init_args": init_args}


def _names(datamodules: Settings | list[Settings]) -> list[str]:
    """List the class names of datamodules without repetitions; a Folder is named after the parent of its root."""
    names = []
    for datamodule in as_list(datamodules):
        name = datamodule["class_path"].split(".")[-1]
        names.append(Path(datamodule["init_args"]["root"]).parent.name if name == "Folder" else name)
    return list(dict.fromkeys(names))
