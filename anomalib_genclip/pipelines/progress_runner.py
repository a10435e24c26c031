# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Jobs one after the other, with progress."""

from typing import Any

from anomalib.pipelines.components.base import Runner
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


class ProgressRunner(Runner):
    """Run jobs one after the other under a progress bar, and collect and save what they return.

    anomalib's own runner shows no more than a count and raises at the end if any job has failed; the jobs here report
    their failures in their results.
    """

    def run(self, args: dict, prev_stage_results: Any = None) -> Any:  # noqa: ANN401
        """Run all jobs.

        Args:
            args (dict): The pipeline's settings.
            prev_stage_results (Any): What the runner before this one returned.

        Returns:
            Any: What the job class makes of the results.
        """
        jobs = list(self.generator(args, prev_stage_results))
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        # Jobs redirect what they print; the bar must neither follow them nor catch it first.
        console = Console(file=Console().file)
        results = []
        with Progress(
            *columns, console=console, redirect_stdout=False, redirect_stderr=False, disable=not jobs
        ) as progress:
            bar = progress.add_task(self.generator.job_class.name, total=len(jobs))
            for job in jobs:
                progress.update(bar, description=str(job))
                results.append(job.run())
                progress.advance(bar)
            progress.update(bar, description=self.generator.job_class.name)
        gathered = self.generator.job_class.collect(results)
        self.generator.job_class.save(gathered)
        return gathered
