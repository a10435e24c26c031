# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Types of settings, and their check for whoever builds a class from Python.

The restricted numbers are jsonargparse's: ``--help`` shows them, and the command line refuses what they refuse.
"""

from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from jsonargparse import typing

if TYPE_CHECKING:
    NonNegativeFloat = float
    OpenUnitFloat = float
    UnitFloat = float
    NonNegativeInt = int
    PositiveInt = int
    RenderSize = int
else:
    NonNegativeFloat = typing.restricted_number_type("NonNegativeFiniteFloat", float, [(">=", 0), ("<", inf)])
    OpenUnitFloat, UnitFloat = typing.OpenUnitInterval, typing.ClosedUnitInterval
    NonNegativeInt, PositiveInt = typing.NonNegativeInt, typing.PositiveInt
    RenderSize = typing.restricted_number_type("RenderSize", int, [(">=", 32), ("<=", 512)])


def checked(name: str, value: Any, kind: Any) -> Any:  # noqa: ANN401  # whatever a user may give
    """Check a setting and return it as a plain number, text or flag.

    Subclasses of numbers, NumPy's among them, make checkpoints unreadable with ``weights_only=True``.

    Args:
        name (str): Name of the setting, for the message.
        value (Any): What was given.
        kind (Any): A restricted number of this module, a ``Literal``, or ``bool``.

    Returns:
        Any: The value in its plain type.

    Raises:
        ValueError: If the value is not of that kind; the message names the setting.
    """
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            msg = f"{name}={value!r} is unknown. Choose one of {', '.join(get_args(kind))}."
            raise ValueError(msg)
        return str(value)
    if kind is bool:
        if not isinstance(value, bool):
            msg = f"{name}={value!r} must be true or false."
            raise ValueError(msg)  # wrong settings are ValueErrors
        return value
    try:
        if isinstance(value, str):  # jsonargparse takes it for the command line's text
            raise TypeError  # noqa: TRY301
        return kind._type(kind(value))  # noqa: SLF001  # the plain type that jsonargparse restricts
    except (TypeError, ValueError, OverflowError):
        bounds = kind._expression.replace("v", "").replace("and <inf", "and finite")  # noqa: SLF001
        msg = f"{name}={value!r} is out of range: it must be a number {bounds}".rstrip() + "."
        if kind._type is int:  # noqa: SLF001
            msg = msg.replace("a number", "a whole number")
        raise ValueError(msg) from None


def checked_path(name: str, value: Any) -> str | None:  # noqa: ANN401
    """Check a setting that is a path or ``None``, and return it as text.

    Raises:
        ValueError: If it can be no path; the message names the setting.
    """
    if value is None:
        return None
    if not isinstance(value, str | Path) or not str(value).strip() or "\0" in str(value):
        msg = f"{name}={value!r} is no path."
        raise ValueError(msg)
    return str(value)
