# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Progress bar with rate and remaining time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Thread

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from .settings import RunSettings
from .sources import find_images


@contextmanager
def showing_progress(settings: RunSettings, console: Console | None = None) -> Iterator[Callable[[int], None]]:
    """Show the progress of a run if the output is a terminal.

    Args:
        settings (RunSettings): The settings.
        console (Console | None): The output. Defaults to ``None``: standard error.

    Yields:
        Callable[[int], None]: To be called with the number of images done.
    """
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:

        def show(done: int) -> None:
            if progress.tasks:
                progress.update(progress.tasks[0].id, completed=done)
                return
            # The task starts at the first call: images of an earlier run must not count into the rate, and the thread
            # must start after the worker processes, because forking a process that has threads can deadlock.
            task = progress.add_task("images", total=None, completed=done)
            Thread(target=count, args=[task], daemon=True).start()

        def count(task) -> None:  # noqa: ANN001  # rich's number of a task
            with suppress(OSError, ValueError):  # the run reports these itself
                total = sum(1 for _ in find_images(settings.data, leave_out=settings.out))
                progress.update(task, total=total // settings.shard_and_count[1])

        yield show


class _Rate(ProgressColumn):
    """Images per second."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.3g}/s", style="progress.data.speed")
