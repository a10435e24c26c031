# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Comparison of models with different protocols, on the same images and with the same metrics."""

from pathlib import Path
from typing import Any, NamedTuple

import yaml
from anomalib.data import AnomalibDataModule, UnknownDatamoduleError, get_datamodule

from anomalib_genclip.data.categories import Categories, category_of, expand_each, to_download
from anomalib_genclip.evaluation.tables import Row

from .comparison_tables import ComparisonTables
from .jobs import Job, run_jobs
from .measure import PROTOCOLS
from .task import Settings

REQUIRED = {"target", "models"}
OPTIONAL = {"results_dir", "accelerator", "isolate", "jobs_dir", "seed", "target_categories"}
ENTRY_REQUIRED = {"name", "protocol", "model"}
ENTRY_OPTIONAL = {"trainer", "source", "source_categories", "data", "seeds", "k_shot"}


class TargetPart(NamedTuple):
    """One category of a target.

    Args:
        label (str): Name of the category in tables.
        target (Settings): The datamodule, ``{"class_path": name, "init_args": {...}}``.
        category (str | None): Value of the datamodule's ``category``, ``None`` for datasets without categories.
    """

    label: str
    target: Settings
    category: str | None


def target_parts(targets: list[Settings], categories: Categories) -> list[TargetPart]:
    """List the categories of the targets, after downloading missing datasets.

    Args:
        targets (list[Settings]): Datamodules, ``{"class_path": name, "init_args": {...}}``.
        categories (Categories): As in :class:`anomalib_genclip.CrossDataset`; they apply to datasets with categories.

    Returns:
        list[TargetPart]: The categories of all targets.

    Raises:
        ValueError: If a target is invalid, or a category is missing.
    """
    datamodules = [_datamodule(target) for target in targets]
    for missing in to_download(datamodules):
        missing.prepare_data()
    sorted_in = [datamodule for datamodule in datamodules if datamodule.category]
    found = iter(expand_each(sorted_in, categories, "target_categories")) if sorted_in else iter(())
    parts = []
    for target, datamodule in zip(targets, datamodules, strict=True):
        own = next(found) if datamodule.category else [datamodule]
        parts += [TargetPart(category_of(part), target, part.category or None) for part in own]
    return parts


def _datamodule(target: Settings) -> AnomalibDataModule:
    """Build a target."""
    check_names(target, {"class_path"}, {"init_args"}, "The target")
    try:
        return get_datamodule(target)
    except UnknownDatamoduleError as error:
        msg = f"anomalib has no datamodule {target['class_path']!r}."
        raise ValueError(msg) from error


def compare(settings: Settings) -> ComparisonTables:
    """Compare models with different protocols on the same images, and print and write the tables.

    Settings (see ``configs/comparison.yaml``): all models are tested on ``target`` (a datamodule or a list of them) and
    ``target_categories``, category by category; ``models`` is a list of ``name``, ``protocol`` and ``model``.
    Protocols:

    - ``cross_dataset``: trained once on ``source`` (``source_categories``, ``data`` for the other arguments of
      :class:`anomalib_genclip.CrossDataset`), tested on every category of the target.
    - ``zero_shot``: not trained.
    - ``one_class``: trained on each category's normal training images.

    ``trainer`` has arguments of Lightning's trainer, such as ``max_epochs``. ``seeds`` of a model is a list that
    replaces the comparison's ``seed``: the model is trained and tested once per seed, and tables have mean and standard
    deviation. ``k_shot`` of a model is a list of numbers of normal training images, drawn with the seed: the model is
    tested once for each number, GenCLIP and WinClip with these images as references and a ``one_class`` model after
    training on them. With the same seed the images are the same for every model.

    Every job runs in a process of its own unless ``isolate`` is false. Results are stored in ``<jobs_dir>/jobs``
    (``jobs_dir`` defaults to ``results_dir``), and finished jobs are not repeated. Failed jobs are rows with the
    reason, and are tried again next time.

    Args:
        settings (Settings): As above.

    Returns:
        ComparisonTables: The results.

    Raises:
        ValueError: If a setting is missing, unknown or invalid; raised before any job runs.

    Example:
        >>> tables = compare(read_settings("configs/comparison.yaml"))  # doctest: +SKIP
    """
    complete = complete_settings(settings)
    folder, isolate = complete["jobs_dir"], complete["isolate"]
    trained = {(row["model"], row["seed"]): row for row in run_jobs("train", training_jobs(complete), folder, isolate)}
    rows = run_jobs("test", test_jobs(complete, trained), folder, isolate)
    tables = ComparisonTables(complete["results_dir"], rows)
    tables.save()
    return tables


def training_jobs(settings: Settings) -> list[Job]:
    """Create one training job for each model of the cross-dataset protocol and each of its seeds."""
    return [
        Job(
            settings={
                "action": "train",
                "model": entry["model"],
                "source": entry["source"],
                "source_categories": entry["source_categories"],
                "data": entry["data"],
                "trainer": entry["trainer"],
                "seed": seed,
                "accelerator": settings["accelerator"],
            },
            labels={"model": entry["name"], "seed": seed},
        )
        for entry in settings["models"]
        if entry["protocol"] == "cross_dataset"
        for seed in entry["seeds"]
    ]


def test_jobs(settings: Settings, trained: dict[tuple[str, int], Row]) -> list[Job]:
    """Create one test job for each model, seed and category of the target.

    Args:
        settings (Settings): Complete settings.
        trained (dict[tuple[str, int], Row]): Results of the training jobs by name and seed of the model.

    Returns:
        list[Job]: The jobs.
    """
    jobs = []
    for entry, seed in ((model, number) for model in settings["models"] for number in model["seeds"]):
        training = trained.get((entry["name"], seed), {})
        failure = f"training failed: {training['error']}" if "error" in training else ""
        for part in settings["parts"]:
            test = {
                "action": "test",
                "model": entry["model"],
                "protocol": entry["protocol"],
                "trainer": entry["trainer"],
                "checkpoint": training.get("checkpoint"),
                "target": part.target,
                "category": part.category,
                "k_shot": entry["k_shot"],
                "seed": seed,
                "accelerator": settings["accelerator"],
            }
            labels = {"model": entry["name"], "protocol": entry["protocol"], "category": part.label, "seed": seed}
            jobs.append(Job(test, labels, failure))
    return jobs


def complete_settings(settings: Settings) -> Settings:
    """Check the settings and fill in the defaults.

    Raises:
        ValueError: If a setting is missing, unknown or contradicts another.
    """
    check_names(settings, REQUIRED, OPTIONAL, "The comparison")
    if not isinstance(settings["models"], list):
        msg = f"models must be a list, got {settings['models']!r}."
        raise ValueError(msg)  # noqa: TRY004  # invalid settings are ValueErrors
    defaults = {"accelerator": "auto", "isolate": True, "seed": 42}
    seed = settings.get("seed", defaults["seed"])
    entries = [shot for entry in settings["models"] for shot in _complete_entry(entry, seed)]
    names = [entry["name"] for entry in entries]
    if not names or len(set(names)) < len(names):
        msg = f"models must have at least one entry, each with a unique name, got: {', '.join(names) or 'none'}."
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


def _complete_entry(entry: Settings, seed: int) -> list[Settings]:
    """Check the settings of one model and fill in the defaults: an entry for each number of ``k_shot``."""
    what = f"Model {entry.get('name', '') if isinstance(entry, dict) else entry!r}"
    check_names(entry, ENTRY_REQUIRED, ENTRY_OPTIONAL, what)
    if entry["protocol"] not in PROTOCOLS:
        msg = f"{what}: protocol {entry['protocol']!r} is unknown. Choose one of {', '.join(PROTOCOLS)}."
        raise ValueError(msg)
    if ("source" in entry) != (entry["protocol"] == "cross_dataset"):
        msg = f"{what}: protocol 'cross_dataset' needs a source, and no other protocol takes one."
        raise ValueError(msg)
    seeds = _whole_numbers(entry.get("seeds", [seed]), f"{what}: seeds", 0)
    complete = {"trainer": {}, "source_categories": None, "data": {}, **entry, "seeds": seeds}
    if "k_shot" not in entry:
        return [{**complete, "k_shot": 0}]
    # Without a number a one-class model is trained on all images.
    shots = _whole_numbers(entry["k_shot"], f"{what}: k_shot", int(entry["protocol"] == "one_class"))
    return [{**complete, "name": f"{entry['name']}, k = {k}", "k_shot": k} for k in shots]


def _whole_numbers(numbers: Any, what: str, smallest: int) -> list[int]:  # noqa: ANN401  # whatever was in the file
    """Return the numbers of a list, each once."""
    if not isinstance(numbers, list) or not numbers or not all(type(n) is int and n >= smallest for n in numbers):
        msg = f"{what}={numbers!r} must be a list of whole numbers of at least {smallest}, such as [1, 2, 4]."
        raise ValueError(msg)
    return list(dict.fromkeys(numbers))


def read_settings(path: str | Path) -> Settings:
    """Read a settings file.

    Args:
        path (str | Path): A YAML file, which is read without running code.

    Returns:
        Settings: Its contents.

    Raises:
        ValueError: If it is not YAML, or not a mapping of settings.
        OSError: If it cannot be read.
    """
    try:
        settings = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        msg = f"{path} is not readable YAML: {' '.join(str(error).split())}"
        raise ValueError(msg) from error
    if not isinstance(settings, dict):
        msg = f"{path} must be a mapping of settings, got {settings!r}."
        raise ValueError(msg)  # noqa: TRY004  # invalid settings are ValueErrors
    return settings


def check_names(settings: Settings, required: set[str], optional: set[str], what: str) -> None:
    """Check the names of settings, because misspelt ones would be ignored.

    Args:
        settings (Settings): The settings.
        required (set[str]): Required names.
        optional (set[str]): Optional names.
        what (str): Subject of the message.

    Raises:
        ValueError: If a name is missing or unknown, or the settings are not a mapping.
    """
    if not isinstance(settings, dict):
        msg = f"{what} must be a mapping of settings: {', '.join(sorted(required | optional))}."
        raise ValueError(msg)  # noqa: TRY004  # invalid settings are ValueErrors
    missing, unknown = required - settings.keys(), settings.keys() - required - optional
    if missing or unknown:
        parts = [f"lacks {', '.join(sorted(missing))}"] * bool(missing)
        parts += [f"has unknown settings {', '.join(sorted(unknown))}"] * bool(unknown)
        msg = f"{what} {' and '.join(parts)}. Settings are: {', '.join(sorted(required | optional))}."
        raise ValueError(msg)
