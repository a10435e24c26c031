# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Checks of settings that several classes share: each names the setting and says what it takes."""

from numbers import Integral, Real
from pathlib import Path
from typing import Any


def check_numbers(**settings: tuple[Any, float, float | None]) -> None:
    """Check that numbers lie within their bounds.

    Args:
        **settings (tuple[Any, float, float | None]): Value, lowest and highest allowed number, ``None`` for no
            highest, by the name of the setting.

    Raises:
        ValueError: If one does not, or is no finite number.
    """
    for name, (value, low, high) in settings.items():
        number = isinstance(value, Real) and not isinstance(value, bool)
        if not number or not low <= value < float("inf") or (high is not None and value > high):
            bounds = f"at least {low}" if high is None else f"between {low} and {high}"
            msg = f"{name}={value!r} is out of range: it must be a number {bounds}."
            raise ValueError(msg)


def check_whole_numbers(**settings: tuple[Any, int, int | None]) -> None:
    """Check that whole numbers lie within their bounds.

    Args:
        **settings (tuple[Any, int, int | None]): As for :func:`check_numbers`.

    Raises:
        ValueError: If one does not, or is no whole number.
    """
    check_numbers(**settings)
    for name, (value, *_) in settings.items():
        if not isinstance(value, Integral):
            msg = f"{name}={value!r} must be a whole number."
            raise ValueError(msg)  # noqa: TRY004  # wrong settings are ValueErrors


def check_flags(**settings: object) -> None:
    """Check that settings are true or false: the text "false" would count as true.

    Raises:
        ValueError: If one is not.
    """
    for name, value in settings.items():
        if not isinstance(value, bool):
            msg = f"{name}={value!r} must be true or false."
            raise ValueError(msg)  # noqa: TRY004  # wrong settings are ValueErrors


def check_paths(**settings: object) -> None:
    """Check that settings can be paths, where they are given.

    Raises:
        ValueError: If one cannot.
    """
    for name, value in settings.items():
        if value is None:
            continue
        if not isinstance(value, str | Path) or not str(value).strip() or "\0" in str(value):
            msg = f"{name}={value!r} is no path."
            raise ValueError(msg)
