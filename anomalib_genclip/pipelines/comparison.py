# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Comparison of models on the same images and with the same metrics, and of a model with parts of itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import numpy as np
import pandas as pd
import yaml
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, Field, NonNegativeInt, ValidationError, model_validator

from anomalib_genclip.data.categories import category_of, expand_each, to_download
from anomalib_genclip.evaluation.intervals import HIGH, INTERVAL_METRICS, LOW, with_intervals
from anomalib_genclip.evaluation.report import INTERVAL_REMARK, NOTE, STD, ResultTable, Row, png
from anomalib_genclip.evaluation.scores import METRIC_NAMES
from anomalib_genclip.inferencer import load_trained
from anomalib_genclip.utils.files import atomic_write
from anomalib_genclip.utils.loaders import as_list

from .jobs import Job, Settings, build_datamodule, run_jobs

REMARKS = (
    "Metrics in percent, per category and as the mean over categories.",
    "Every model keeps its own pre- and post-processor, as in anomalib's benchmark.",
    "anomalib's post-processor clamps normalized scores to [0, 1], which causes ties; GenCLIP's does not normalize.",
    "images_per_second: pre-processing and model, without reading files and computing metrics.",
    "peak_memory_mib: during the test (one_class models: and training); of the GPU, else of the process.",
    INTERVAL_REMARK,
)
DIFFERENCE_REMARKS = [
    "Differences of the means in percentage points, over the categories that both models were tested on.",
    "differ: metrics of which the 95 % interval of the paired difference, over the same draws of images, leaves out 0.",
]
NUMBERS = (*METRIC_NAMES, "images", "images_per_second", "peak_memory_mib")
ABLATION_REMARKS = [
    "Metrics in percent. One trained model, without retraining.",
    "layers: those whose maps are averaged. The image score also uses the last layer's CLS token.",
    INTERVAL_REMARK,
]
ABLATION_COLUMNS = ["branches", "CNF", "layers", *METRIC_NAMES, "images_per_second"]
Kind = TypeVar("Kind", bound=BaseModel)
Categories = list[str] | Literal["all"] | None
Numbers = Annotated[list[NonNegativeInt], Field(min_length=1)]


class Strict(BaseModel, extra="forbid"):
    """Settings of which misspelt ones are an error."""


class Component(Strict):
    """A model or datamodule, as in anomalib's settings files."""

    class_path: str
    init_args: Settings = {}


Components = Annotated[list[Component], BeforeValidator(as_list)]  # one, or a list


class Entry(Strict):
    """A model of a comparison."""

    name: str
    # Trained once on the source, not at all, or on each category's normal training images.
    protocol: Literal["cross_dataset", "zero_shot", "one_class"]
    model: Component
    source: Components | None = None
    source_categories: Categories = None
    data: Settings = {}  # other arguments of CrossDataset
    trainer: Settings = {}  # arguments of Lightning's trainer, such as max_epochs
    seeds: Numbers | None = None  # the model is trained and tested once per seed; None for that of the comparison
    # Tested once for each number of normal training images: references or, of a one_class model, training images.
    k_shot: Numbers | None = None

    @model_validator(mode="after")
    def _check(self) -> "Entry":
        if (self.source is None) == (self.protocol == "cross_dataset"):
            msg = "protocol 'cross_dataset' needs a source, and no other protocol takes one"
            raise ValueError(msg)
        if self.protocol == "one_class" and 0 in (self.k_shot or []):
            msg = "k_shot of a one_class model must be at least 1; without k_shot it is trained on all images"
            raise ValueError(msg)
        return self


class Comparison(Strict):
    """Settings of a comparison; ``configs/comparison.yaml`` explains them."""

    target: Components
    target_categories: Categories = None
    models: list[Entry] = Field(min_length=1)
    results_dir: Path = Path("results/comparison")
    jobs_dir: Path | None = None
    accelerator: str = "auto"
    isolate: bool = True
    seed: NonNegativeInt = 42

    @model_validator(mode="after")
    def _check(self) -> "Comparison":
        names = [entry.name for entry in self.models]
        if len(set(names)) < len(names):
            msg = f"each model must have a unique name, got {', '.join(names)}"
            raise ValueError(msg)
        for entry in self.models:
            entry.seeds = entry.seeds or [self.seed]
        return self


@dataclass
class ComparisonTables:
    """Tables of a comparison, and the folder for their files."""

    folder: Path
    rows: list[Row]  # one per job: model, protocol, category, seed, and results or an error

    @property
    def models(self) -> ResultTable:
        """One row per model, with means over its categories, and over its seeds with standard deviations."""
        plain = [{**dict.fromkeys(NUMBERS), **with_note(row), "failed": "error" in row} for row in self.rows]
        frame = pd.DataFrame(plain).astype(dict.fromkeys(NUMBERS, float))
        rows = []
        for model, own in frame.groupby("model", sort=False):
            drawn = resampled([row for row in self.rows if row["model"] == model and "error" not in row])
            rows.append(with_intervals(_summary(own), {name: draws[1:] for name, draws in drawn.items()}))
        done, remarks = frame[~frame.failed], list(REMARKS)
        if len(set(done.groupby("model").category.agg(frozenset))) > 1:
            remarks.append("The models' means are over different categories, because some jobs failed.")
        if len(done[["category", "images"]].drop_duplicates()) > done.category.nunique():
            remarks.append("The models were not tested on the same number of images.")
        return ResultTable("Comparison: means over categories", rows, remarks)

    @property
    def categories(self) -> ResultTable:
        """One row per model, seed and category."""
        return ResultTable("Comparison: by category", [with_note(row) for row in self.rows], list(REMARKS))

    @property
    def differences(self) -> ResultTable:
        """One row per pair of models: what the first has more than the other, with paired intervals."""
        done: dict[str, list[Row]] = {}
        for row in self.rows:
            if "error" not in row:
                done.setdefault(row["model"], []).append(row)
        table = ResultTable("Comparison: differences between models", [], DIFFERENCE_REMARKS)
        for pair in combinations(done, 2):
            shared = set.intersection(*({(row["category"], row["images"]) for row in done[model]} for model in pair))
            first, other = (
                resampled([row for row in done[model] if (row["category"], row["images"]) in shared]) for model in pair
            )
            both = {name: first[name] - other[name] for name in first if name in other}
            row = {"model": pair[0], "other": pair[1], **{name: float(draws[0]) for name, draws in both.items()}}
            row = with_intervals(row, {name: draws[1:] for name, draws in both.items()})
            differ = [name for name in both if row[name + LOW] > 0 or row[name + HIGH] < 0]
            table.rows.append({**row, "differ": ", ".join(differ) or None})
        return table

    def save(self) -> None:
        """Print the table of models, and write all tables and the plot."""
        models = self.models
        models.print(["model", "categories", *METRIC_NAMES, "images_per_second", "peak_memory_mib"])
        models.write(self.folder, "comparison")
        self.categories.write(self.folder, "comparison_by_category")
        self.differences.write(self.folder, "comparison_differences")
        atomic_write(self.folder / "comparison.png", draw_accuracy_against_speed(models.rows))
        print(f"Tables and plot: {self.folder}/comparison.*, comparison_by_category.*, comparison_differences.*")


def with_note(row: Row) -> Row:
    """Replace a job's error and notes by the row's note, and its draws by intervals."""
    results = {name: value for name, value in row.items() if name not in {"error", "notes", "draws"}}
    note = f"failed: {row['error']}" if "error" in row else "; ".join(row["notes"])
    return {**with_intervals(results, row.get("draws", {})), NOTE: note}


def resampled(rows: Sequence[Row]) -> dict[str, NDArray[np.float64]]:
    """Average metrics and, behind them, draws over the categories of each seed, then the seeds: ``(1 + DRAWS,)``."""
    found = {}
    for name in INTERVAL_METRICS:
        own = [row for row in rows if row.get(name) is not None]
        if own and all(name in row.get("draws", {}) for row in own):
            values = [[row[name], *row["draws"][name]] for row in own]
            found[name] = pd.DataFrame(values, [row["seed"] for row in own]).groupby(level=0).mean().mean().to_numpy()
    return found


def _summary(rows: pd.DataFrame) -> Row:
    """Summarize one model's rows: mean of metrics, sum of times, peak of memory."""
    done, count = rows[~rows.failed], rows.category.nunique()
    tested = f"{count - rows.category[rows.failed].nunique()} of {count}"
    summary = {**rows.iloc[0][["model", "protocol"]], "categories": tested}
    of_seeds = done.groupby("seed")[list(METRIC_NAMES)].mean().agg(["mean", "std"])
    for name, (mean, std) in of_seeds.items():
        summary[name] = mean
        if pd.notna(std):
            summary[f"{name}{STD}"] = std
    seconds = (done.images / done.images_per_second).sum()
    summary |= {
        "images": int(done.images.sum()),
        "images_per_second": done.images.sum() / seconds if seconds else None,
        "peak_memory_mib": done.peak_memory_mib.max(),
        "device": ", ".join(done.device.unique()) if len(done) else None,
        NOTE: "; ".join(filter(None, rows[NOTE].unique())),
    }
    return {name: None if pd.isna(value) else value for name, value in summary.items()}


def draw_accuracy_against_speed(rows: list[Row]) -> bytes:
    """Draw one panel per metric with one point per model, as PNG; models without results are listed in the title."""
    figure = Figure(figsize=(13, 4.6), layout="constrained")
    drawn = {}
    for axes, metric in zip(figure.subplots(1, len(INTERVAL_METRICS)), INTERVAL_METRICS, strict=True):
        for index, row in enumerate(rows):
            if row["images_per_second"] is not None and row[metric] is not None:
                style = {"marker": "osD^vP*X"[index % 8], "color": f"C{index % 10}", "linestyle": "", "markersize": 9}
                (drawn[row["model"]],) = axes.plot(row["images_per_second"], 100 * row[metric], **style)
        axes.set(xscale="log", xlabel="images per second", title=f"{metric.replace('_', ' ')} in percent")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.margins(0.15)
        axes.grid(visible=True, which="both", color="#e4e4e4", linewidth=0.6)
    absent = [row["model"] for row in rows if row["images_per_second"] is None]
    title = "Accuracy against speed" + (f" (without a result: {', '.join(absent)})" if absent else "")
    figure.suptitle(title, fontsize=11, parse_math=False)
    if drawn:
        figure.legend(drawn.values(), drawn.keys(), loc="outside lower center", ncols=min(4, len(drawn)))
    return png(figure, dpi=110)


def compare(settings: Settings) -> ComparisonTables:
    """Compare models with different protocols on the same images, and print and write the tables.

    Finished jobs are not repeated; failed jobs are rows with the reason, and are tried again next time. A
    ``ValueError`` names a setting that is missing, unknown or invalid before any job runs.
    """
    comparison = validated(Comparison, settings)
    parts = target_parts(comparison)
    folder = comparison.jobs_dir or comparison.results_dir
    trained = run_jobs("train", training_jobs(comparison), folder, comparison.isolate)
    rows = run_jobs("test", test_jobs(comparison, parts, trained), folder, comparison.isolate)
    tables = ComparisonTables(comparison.results_dir, rows)
    tables.save()
    return tables


def target_parts(comparison: Comparison) -> list[tuple[str, Settings, str | None]]:
    """List the categories of the targets, after downloading missing datasets."""
    targets = [target.model_dump() for target in comparison.target]
    datamodules = [build_datamodule(target) for target in targets]
    for missing in to_download(datamodules):
        missing.prepare_data()
    sorted_in = [datamodule for datamodule in datamodules if datamodule.category]
    found = iter(expand_each(sorted_in, comparison.target_categories, "target_categories") if sorted_in else [])
    parts = []
    for target, datamodule in zip(targets, datamodules, strict=True):
        own = next(found) if datamodule.category else [datamodule]
        parts += [(category_of(part), target, part.category or None) for part in own]
    return parts


def training_jobs(comparison: Comparison) -> list[Job]:
    """Create one training job for each model of the cross-dataset protocol and each of its seeds."""
    own = {"model", "source", "source_categories", "data", "trainer"}
    jobs = []
    for entry in comparison.models:
        for seed in entry.seeds or [] if entry.protocol == "cross_dataset" else []:
            settings = {**entry.model_dump(include=own), "seed": seed, "accelerator": comparison.accelerator}
            jobs.append(Job("train", settings, {"model": entry.name, "seed": seed}))
    return jobs


def test_jobs(comparison: Comparison, parts: list[tuple], trained: list[Row]) -> list[Job]:
    """Create one test job for each model, number of shots, seed and category, from the results of the trainings."""
    trainings = {(row["model"], row["seed"]): row for row in trained}
    jobs = []
    for entry in comparison.models:
        for k_shot, seed, (category, target, own) in product(entry.k_shot or [0], entry.seeds or [], parts):
            training = trainings.get((entry.name, seed), {})
            settings = entry.model_dump(include={"model", "protocol", "trainer"}) | {"target": target, "category": own}
            settings |= {"k_shot": k_shot, "seed": seed, "accelerator": comparison.accelerator}
            settings["checkpoint"] = training.get("checkpoint")
            name = entry.name if entry.k_shot is None else f"{entry.name}, k = {k_shot}"
            labels = {"model": name, "protocol": entry.protocol, "category": category, "seed": seed}
            failure = f"training failed: {training['error']}" if "error" in training else ""
            jobs.append(Job("test", settings, labels, failure))
    return jobs


def ablate(
    weights: str, data: Settings, results_dir: str, accelerator: str, seed: int, isolate: bool, pretrained: str | None
) -> ResultTable:
    """Test a trained model without some of its parts and with single layers, and print and write the table."""
    common = {"weights": weights, "pretrained": pretrained, "data": data, "seed": seed, "accelerator": accelerator}
    layers = load_trained(weights, pretrained).model.layers
    # CNF has no effect on the query-only branch, which has no class name.
    parts = [("both", True), ("both", False), ("vision", True), ("vision", False), ("query", False)]
    jobs = []
    for branches, cnf, used in [(*part, layers) for part in parts] + [("both", True, [layer]) for layer in layers]:
        variant = {"branches": branches, "class_name_filter": cnf, "map_layers": used}
        labels = {"branches": branches, "CNF": "on" if cnf else "off", "layers": " ".join(map(str, used))}
        jobs.append(Job("ablate", {**common, "variant": variant}, labels))
    rows = [with_note(row) for row in run_jobs("ablation", jobs, Path(results_dir), isolate)]
    kept = {*ABLATION_COLUMNS, *(name + end for name in INTERVAL_METRICS for end in (LOW, HIGH)), "images", NOTE}
    shown = [{name: value for name, value in row.items() if name in kept} for row in rows]
    table = ResultTable("Ablation", shown, ABLATION_REMARKS)
    table.print(ABLATION_COLUMNS)
    table.write(results_dir, "ablation")
    return table


def read_settings(path: str | Path) -> Settings:
    """Read a YAML file of settings, without running code; raise ``ValueError`` if it is none."""
    try:
        settings = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        msg = f"{path} is not readable YAML: {' '.join(str(error).split())}"
        raise ValueError(msg) from error
    if not isinstance(settings, dict):
        msg = f"{path} must be a mapping of settings, got {settings!r}."
        raise ValueError(msg)  # noqa: TRY004  # invalid settings are ValueErrors
    return settings


def validated(kind: type[Kind], settings: Settings) -> Kind:
    """Check settings and fill in the defaults; a ``ValueError`` names all that are missing, unknown or invalid."""
    try:
        return kind.model_validate(settings)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        msg = f"{'; '.join(faults)}. Settings of a {kind.__name__.lower()}: {', '.join(kind.model_fields)}."
        raise ValueError(msg) from None
