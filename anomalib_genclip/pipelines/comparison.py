# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Comparison of models with different protocols, on the same images and with the same metrics."""

from itertools import product
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, Field, NonNegativeInt, ValidationError, model_validator

from anomalib_genclip.data.categories import category_of, expand_each, to_download
from anomalib_genclip.evaluation.report import Row
from anomalib_genclip.utils.loaders import as_list

from .comparison_tables import ComparisonTables
from .job_actions import Settings, build_datamodule
from .jobs import Job, run_jobs

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
    # The model is tested once for each number of normal training images, which are drawn with the seed: as references
    # or, by a one_class model, after training on them.
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


def compare(settings: Settings) -> ComparisonTables:
    """Compare models with different protocols on the same images, and print and write the tables.

    Finished jobs are not repeated; failed jobs are rows with the reason, and are tried again next time.

    Raises:
        ValueError: If a setting is missing, unknown or invalid; raised before any job runs.
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
    """List the categories of the targets, after downloading missing datasets.

    Raises:
        ValueError: If anomalib has no such datamodule, or a category is missing.
    """
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
    return [
        Job(
            action="train",
            settings={**entry.model_dump(include=own), "seed": seed, "accelerator": comparison.accelerator},
            labels={"model": entry.name, "seed": seed},
        )
        for entry in comparison.models
        if entry.protocol == "cross_dataset"
        for seed in entry.seeds or []
    ]


def test_jobs(comparison: Comparison, parts: list[tuple], trained: list[Row]) -> list[Job]:
    """Create one test job for each model, number of shots, seed and category, from the results of the trainings."""
    trainings = {(row["model"], row["seed"]): row for row in trained}
    jobs = []
    for entry in comparison.models:
        for k_shot, seed, (category, target, own) in product(entry.k_shot or [0], entry.seeds or [], parts):
            training = trainings.get((entry.name, seed), {})
            settings = {
                **entry.model_dump(include={"model", "protocol", "trainer"}),
                "checkpoint": training.get("checkpoint"),
                "target": target,
                "category": own,
                "k_shot": k_shot,
                "seed": seed,
                "accelerator": comparison.accelerator,
            }
            name = entry.name if entry.k_shot is None else f"{entry.name}, k = {k_shot}"
            labels = {"model": name, "protocol": entry.protocol, "category": category, "seed": seed}
            failure = f"training failed: {training['error']}" if "error" in training else ""
            jobs.append(Job("test", settings, labels, failure))
    return jobs


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
