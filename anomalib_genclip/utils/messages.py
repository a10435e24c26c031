# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Text for messages, and messages of other packages that a user of this one cannot act on."""

import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

_NOTES_ON_RUNS = (
    r"Found \d+ module\(s\) in eval mode",  # CLIP is frozen
    r"You called `self.log\(.*logger=True\)` but have no logger",
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
)
_NOTES_ON_TRAINERS = ("💡 Tip", "GPU available", "TPU available", "The following callbacks returned")
_SHOWN = 5


def summarize(values: Iterable[object]) -> str:
    """List the first few values and the number of the others."""
    values = list(values)
    more = f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""
    return ", ".join(map(str, values[:_SHOWN])) + more


def counted(number: int, noun: str) -> str:
    """Return ``"1 image"`` or ``"2 images"`` for a number and a noun in the singular."""
    return f"{number} {noun}" + "s" * (number != 1)


@contextmanager
def quiet(name: str) -> Iterator[None]:
    """Suppress a logger's warnings, such as the four lines of the hub client for each of its dozen retries."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def hide_notes_on_runs() -> None:
    """Hide Lightning's warnings on properties that every run of GenCLIP has."""
    for message in _NOTES_ON_RUNS:
        warnings.filterwarnings("ignore", message=message)


def quiet_screen() -> None:
    """Hide notes of timm, anomalib and Lightning. For commands and scripts, which own their process."""
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(timm|anomalib)\.")
    # All of Lightning's packages set the logger of the others, and the one that is imported last wins.
    for package in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning", "lightning_fabric"):
        logging.getLogger(f"{package}.utilities.rank_zero").addFilter(_is_news)
    hide_notes_on_runs()


def _is_news(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_NOTES_ON_TRAINERS)
