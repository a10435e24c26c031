# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Models of different protocols compared on the same images with the same metrics."""

from collections.abc import Generator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from anomalib.data import get_datamodule
from anomalib.pipelines.components.base import Job, JobGenerator, Pipeline, Runner
from jsonargparse import Namespace

from anomalib_genclip.data.categories import Categories, category_of, expand_each, to_download

from .comparison_tables import ComparisonTables
from .measured_job import PROTOCOLS
from .progress_runner import ProgressRunner
from .stored_job import JobResult, StoredJob
from .task import Settings

REQUIRED = {"target", "models"}
OPTIONAL = {"results_dir", "accelerator", "isolate", "jobs_dir", "seed", "target_categories"}
ENTRY_REQUIRED = {"name", "protocol", "model"}
ENTRY_OPTIONAL = {"trainer", "source", "source_categories", "data"}


class TrainJob(StoredJob):
    """Train a model once on the source."""

    name = "train"

    @property
    def checkpoint(self) -> Path:
        """Where the trained model is kept."""
        return self.jobs_folder / "checkpoints" / f"{self.key}.ckpt"

    def kept(self, path: Path) -> dict[str, Any] | None:
        """Read the kept result, if the checkpoint is still there; where that is, is not the file's to say."""
        result = super().kept(path) if self.checkpoint.is_file() else None
        return result and {**result, "checkpoint": str(self.checkpoint)}

    def complete_settings(self) -> Settings:
        """Say where the checkpoint goes."""
        return {**self.settings, "checkpoint": str(self.checkpoint)}

    @staticmethod
    def collect(results: list[JobResult]) -> dict[str, dict[str, Any]]:
        """Return each trained model's result by its name."""
        return {result.row["model"]: result.row for result in results}

    @staticmethod
    def save(results: dict[str, dict[str, Any]]) -> None:
        """Nothing is left to do: each job has written its checkpoint."""


class EvaluateJob(StoredJob):
    """Test a model on one category."""

    name = "evaluate"

    @staticmethod
    def collect(results: list[JobResult]) -> ComparisonTables:
        """Put all rows together, whatever columns each has."""
        return ComparisonTables(results[0].folder, [result.row for result in results])

    @staticmethod
    def save(results: ComparisonTables) -> None:
        """Print and write tables and plot."""
        results.save()


class TrainGenerator(JobGenerator):
    """One training job per model of the cross-dataset protocol."""

    @property
    def job_class(self) -> type[Job]:
        """The class of the jobs."""
        return TrainJob

    def generate_jobs(self, args: dict | None = None, prev_stage_result: Any = None) -> Generator[Job, None, None]:  # noqa: ANN401
        """Make the jobs from the pipeline's settings."""
        del prev_stage_result
        if not args:
            return
        for entry in args["models"]:
            if entry["protocol"] == "cross_dataset":
                settings = {
                    "action": "train",
                    "model": entry["model"],
                    "source": entry["source"],
                    "source_categories": entry["source_categories"],
                    "data": entry["data"],
                    "trainer": entry["trainer"],
                    "seed": args["seed"],
                    "accelerator": args["accelerator"],
                }
                labels = {"model": entry["name"]}
                yield TrainJob(settings, labels, args["results_dir"], args["jobs_dir"], args["isolate"])


class EvaluateGenerator(JobGenerator):
    """One test job per model and category of the target."""

    @property
    def job_class(self) -> type[Job]:
        """The class of the jobs."""
        return EvaluateJob

    def generate_jobs(self, args: dict | None = None, prev_stage_result: Any = None) -> Generator[Job, None, None]:  # noqa: ANN401
        """Make the jobs from the pipeline's settings and the trained models."""
        trained = prev_stage_result or {}
        if not args:
            return
        for entry in args["models"]:
            training = trained.get(entry["name"], {})
            failure = f"training failed: {training['error']}" if "error" in training else ""
            for part in args["parts"]:
                settings = {
                    "action": "test",
                    "model": entry["model"],
                    "protocol": entry["protocol"],
                    "trainer": entry["trainer"],
                    "checkpoint": training.get("checkpoint"),
                    "target": part.target,
                    "category": part.category,
                    "seed": args["seed"],
                    "accelerator": args["accelerator"],
                }
                labels = {"model": entry["name"], "protocol": entry["protocol"], "category": part.label}
                yield EvaluateJob(settings, labels, args["results_dir"], args["jobs_dir"], args["isolate"], failure)


class TargetPart(NamedTuple):
    """One category of a target.

    Args:
        label (str): Its name in tables.
        target (Settings): The datamodule, ``{"class_path": name, "init_args": {...}}``.
        category (str | None): Value of the datamodule's ``category``, ``None`` for data sets without categories.
    """

    label: str
    target: Settings
    category: str | None


def target_parts(targets: list[Settings], categories: Categories) -> list[TargetPart]:
    """List the targets' categories, downloading a data set if it is not there.

    Args:
        targets (list[Settings]): Datamodules, ``{"class_path": name, "init_args": {...}}``.
        categories (Categories): As :class:`anomalib_genclip.CrossDataset` takes them; they concern the data sets
            that have categories.

    Returns:
        list[TargetPart]: The categories of all targets.

    Raises:
        ValueError: If a category is not there.
    """
    datamodules = [get_datamodule(target) for target in targets]
    for missing in to_download(datamodules):
        missing.prepare_data()
    sorted_in = [datamodule for datamodule in datamodules if datamodule.category]
    found = iter(expand_each(sorted_in, categories, "target_categories")) if sorted_in else iter(())
    parts = []
    for target, datamodule in zip(targets, datamodules, strict=True):
        own = next(found) if datamodule.category else [datamodule]
        parts += [TargetPart(category_of(part), target, part.category or None) for part in own]
    return parts


class Comparison(Pipeline):
    """Compare models of different protocols on the same images with the same metrics.

    Settings (see ``configs/comparison.yaml``): ``target`` (a datamodule or a list of them) and ``target_categories``
    say what all models are tested on, each category by itself; ``models`` is a list of ``name``, ``protocol`` and
    ``model``. Protocols:

    - ``cross_dataset``: trained once on ``source`` (``source_categories``, ``data`` for the other arguments of
      :class:`anomalib_genclip.CrossDataset`), tested on every category of the target.
    - ``zero_shot``: tested as it is.
    - ``one_class``: trained on each category's normal training images.

    ``trainer`` holds arguments of Lightning's trainer, such as ``max_epochs``.

    Every job runs in a process of its own unless ``isolate`` is false. Finished jobs are kept in
    ``<jobs_dir>/jobs`` (by default that is ``results_dir``) and not run again; failed ones are rows that say why, and
    are tried again next time.

    Example:
        >>> tables = Comparison().run_settings(read_settings("configs/comparison.yaml"))  # doctest: +SKIP
    """

    def _setup_runners(self, args: dict) -> list[Runner]:
        del args
        return [ProgressRunner(TrainGenerator()), ProgressRunner(EvaluateGenerator())]

    def run(self, args: Namespace | None = None) -> None:
        """Run all jobs, and write and print the tables.

        The base class's method would send every logger of the process to a file and hide what goes wrong.

        Args:
            args (Namespace | None): ``config``, the settings' file. Defaults to ``None``: the command line's.

        Raises:
            ValueError: If the settings are wrong.
        """
        self.run_settings(self._get_args(args))

    def run_settings(self, settings: Settings) -> ComparisonTables:
        """Run all jobs, and write and print the tables.

        Args:
            settings (Settings): See the class.

        Returns:
            ComparisonTables: The results.

        Raises:
            ValueError: If the settings are wrong.
        """
        complete = complete_settings(settings)
        result = None
        for runner in self._setup_runners(complete):
            result = runner.run(complete, result)
        if not isinstance(result, ComparisonTables):
            msg = "The comparison has no jobs."
            raise TypeError(msg)
        return result


def complete_settings(settings: Settings) -> Settings:
    """Check the settings and fill in the defaults.

    Raises:
        ValueError: If a setting is missing, unknown or contradicts another.
    """
    check_names(settings, REQUIRED, OPTIONAL, "The comparison")
    if not isinstance(settings["models"], list):
        msg = f"models must be a list, got {settings['models']!r}."
        raise ValueError(msg)  # noqa: TRY004  # wrong settings are ValueErrors
    defaults = {"accelerator": "auto", "isolate": True, "seed": 42}
    entries = [_complete_entry(entry) for entry in settings["models"]]
    names = [entry["name"] for entry in entries]
    if not names or len(set(names)) < len(names):
        msg = f"models must be at least one, each with a name of its own, got: {', '.join(names) or 'none'}."
        raise ValueError(msg)
    folder = Path(settings.get("results_dir", "results/comparison"))
    targets = settings["target"] if isinstance(settings["target"], list) else [settings["target"]]
    return {
        **defaults,
        **settings,
        "models": entries,
        "parts": target_parts(targets, settings.get("target_categories")),
        "results_dir": folder,
        "jobs_dir": Path(settings.get("jobs_dir", folder)),
    }


def _complete_entry(entry: Settings) -> Settings:
    """Check one model's settings and fill in the defaults."""
    what = f"Model {entry.get('name', '') if isinstance(entry, dict) else entry!r}"
    check_names(entry, ENTRY_REQUIRED, ENTRY_OPTIONAL, what)
    if entry["protocol"] not in PROTOCOLS:
        msg = f"{what}: protocol {entry['protocol']!r} is unknown. Choose one of {', '.join(PROTOCOLS)}."
        raise ValueError(msg)
    if ("source" in entry) != (entry["protocol"] == "cross_dataset"):
        msg = f"{what}: protocol 'cross_dataset' needs a source, and no other protocol takes one."
        raise ValueError(msg)
    return {"trainer": {}, "source_categories": None, "data": {}, **entry}


def read_settings(path: str | Path) -> Settings:
    """Read a file of settings.

    Args:
        path (str | Path): A YAML file; nothing in it can run.

    Returns:
        Settings: Its contents.

    Raises:
        ValueError: If it is no YAML, or holds something other than named settings.
        OSError: If it cannot be read.
    """
    try:
        settings = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        msg = f"{path} is no readable YAML: {' '.join(str(error).split())}"
        raise ValueError(msg) from error
    if not isinstance(settings, dict):
        msg = f"{path} holds no settings, but {settings!r}."
        raise ValueError(msg)  # noqa: TRY004  # the file is wrong, not the call
    return settings


def check_names(settings: Settings, required: set[str], optional: set[str], what: str) -> None:
    """Check the names of settings, because a misspelt one would be ignored.

    Args:
        settings (Settings): The settings.
        required (set[str]): Names that must be there.
        optional (set[str]): Names that may be there.
        what (str): What the settings are for, for the message.

    Raises:
        ValueError: If a name is missing or unknown, or there are no names at all.
    """
    if not isinstance(settings, dict):
        msg = f"{what} must be named settings. They are: {', '.join(sorted(required | optional))}."
        raise ValueError(msg)  # noqa: TRY004  # wrong settings are ValueErrors
    missing, unknown = required - settings.keys(), settings.keys() - required - optional
    if missing or unknown:
        parts = [f"lacks {', '.join(sorted(missing))}"] * bool(missing)
        parts += [f"has unknown settings {', '.join(sorted(unknown))}"] * bool(unknown)
        msg = f"{what} {' and '.join(parts)}. Settings are: {', '.join(sorted(required | optional))}."
        raise ValueError(msg)
