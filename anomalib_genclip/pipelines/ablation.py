# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The paper's ablation: a trained GenCLIP without some of its parts, and with one layer at a time."""

from collections.abc import Generator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from anomalib.pipelines.components.base import Job, JobGenerator, Pipeline, Runner
from jsonargparse import ArgumentParser, Namespace

from .ablated import tapped_layers, variants
from .progress_runner import ProgressRunner
from .stored_job import JobResult, StoredJob
from .tables import NOTE, ResultTable, Row


class AblationJob(StoredJob):
    """Test one variant."""

    name = "ablation"

    @staticmethod
    def collect(results: list[JobResult]) -> tuple[Path, ResultTable]:
        """Put all rows together."""
        remarks = [
            "Metrics in percent. One trained model, nothing trained again; the image score's weight w is kept.",
            "layers: those that make the map. The image score also has the last layer's CLS token.",
        ]
        return results[0].folder, ResultTable("Ablation", [_row(result.row) for result in results], remarks)

    @staticmethod
    def save(results: tuple[Path, ResultTable]) -> None:
        """Print the table and write it."""
        folder, table = results
        table.print()
        table.write(folder, "ablation")


def _row(row: dict[str, Any]) -> Row:
    note = f"failed: {row['error']}" if "error" in row else "; ".join(row["notes"])
    hidden = {"error", "notes", "fit_seconds", "device", "peak_memory_mib"}
    return {**{name: value for name, value in row.items() if name not in hidden}, NOTE: note}


class AblationGenerator(JobGenerator):
    """One job per variant."""

    @property
    def job_class(self) -> type[Job]:
        """The class of the jobs."""
        return AblationJob

    def generate_jobs(self, args: dict | None = None, prev_stage_result: Any = None) -> Generator[Job, None, None]:  # noqa: ANN401
        """Make the jobs from the pipeline's settings."""
        del prev_stage_result
        if not args:
            return
        for variant in variants(tapped_layers(args["weights"])):
            settings = {
                "action": "ablate",
                "weights": args["weights"],
                "data": args["data"],
                "variant": asdict(variant),
                "seed": args["seed"],
                "accelerator": args["accelerator"],
            }
            labels = {
                "branches": variant.branches,
                "CNF": "on" if variant.class_name_filter else "off",
                "layers": " ".join(map(str, variant.layers)),
            }
            yield AblationJob(settings, labels, args["results_dir"], args["results_dir"], args["isolate"])


class Ablation(Pipeline):
    """Test a trained GenCLIP without some of its parts.

    Example:
        >>> arguments = ["--weights", "model.ckpt", "--data", "configs/data/visa_to_mvtec.yaml"]
        >>> args = Ablation.get_parser().parse_args(arguments)  # doctest: +SKIP
        >>> table = Ablation().run_settings(args)  # doctest: +SKIP
    """

    def _setup_runners(self, args: dict) -> list[Runner]:
        del args
        return [ProgressRunner(AblationGenerator())]

    @staticmethod
    def get_parser(parser: ArgumentParser | None = None) -> ArgumentParser:
        """Make the command line's parser."""
        parser = parser or ArgumentParser(prog="python -m anomalib_genclip.ablation")
        parser.add_argument("--weights", type=str, required=True, help="A checkpoint (.ckpt) or a prompts file.")
        parser.add_argument("--config", "--data", dest="config", type=str, required=True, help="A datamodule's YAML.")
        parser.add_argument("--results_dir", type=str, default="results/ablation")
        parser.add_argument("--accelerator", type=str, default="auto", help="As in Lightning.")
        parser.add_argument("--seed", type=int, default=42)
        parser.add_argument("--isolate", type=bool, default=True, help="Run each test in a process of its own.")
        return parser

    def run(self, args: Namespace | None = None) -> None:
        """Run all tests, and write and print the table.

        Args:
            args (Namespace | None): As of :meth:`get_parser`. Defaults to ``None``: the command line's.
        """
        self.run_settings(args or self.get_parser().parse_args())

    def run_settings(self, args: Namespace) -> ResultTable:
        """Run all tests, and write and print the table.

        Args:
            args (Namespace): As of :meth:`get_parser`.

        Returns:
            ResultTable: The results, one row per variant.
        """
        settings = {**vars(args), "data": self._get_args(args), "results_dir": Path(args.results_dir)}
        _, table = self._setup_runners(settings)[0].run(settings)
        return table
