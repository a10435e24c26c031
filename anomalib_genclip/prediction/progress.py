# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""A progress bar with rate and time left."""

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
    """Show how far a run is, if somebody is looking.

    Args:
        settings (RunSettings): The settings.
        console (Console | None): Where to. Defaults to ``None``: standard error.

    Yields:
        Callable[[int], None]: Takes the number of images that are done.
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
            # Only now: what an earlier run has done is no part of the rate, and processes that read images have
            # started, which do not go well with threads.
            task = progress.add_task("images", total=None, completed=done)
            Thread(target=count, args=[task], daemon=True).start()

        def count(task) -> None:  # noqa: ANN001  # rich's number of a task
            with suppress(OSError, ValueError):  # for the run itself to say
                total = sum(1 for _ in find_images(settings.data, leave_out=settings.out))
                progress.update(task, total=total // settings.share[1])

        yield show


class _Rate(ProgressColumn):
    """Images per second."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.3g}/s", style="progress.data.speed")
