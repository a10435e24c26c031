# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Types of settings, and checks for values given from Python.

The restricted numbers are jsonargparse's: the command line checks them, and ``--help`` shows them.
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
    RenderSize = typing.restricted_number_type("RenderSize", int, [(">=", 32), ("<=", 2048)])


def checked(name: str, value: Any, kind: Any) -> Any:  # noqa: ANN401  # any user input
    """Check a setting and convert it to a plain number, string or bool.

    NumPy scalars and other subclasses of numbers make checkpoints unreadable with ``weights_only=True``.

    Args:
        name (str): Name of the setting, for the message.
        value (Any): Value of the setting.
        kind (Any): A restricted number of this module, a ``Literal``, or ``bool``.

    Returns:
        Any: The value with its plain type.

    Raises:
        ValueError: If the value is not of that kind; names the setting.
    """
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            msg = f"{name}={value!r} is unknown. Choose one of {', '.join(get_args(kind))}."
            raise ValueError(msg)
        return str(value)
    if kind is bool:
        if not isinstance(value, bool):
            msg = f"{name}={value!r} must be true or false."
            raise ValueError(msg)  # invalid settings are ValueErrors
        return value
    try:
        if isinstance(value, str):  # jsonargparse would parse it, as it parses the command line
            raise TypeError  # noqa: TRY301
        return kind._type(kind(value))  # noqa: SLF001  # the plain type that jsonargparse restricts
    except (TypeError, ValueError, OverflowError):
        bounds = kind._expression.replace("v", "").replace("and <inf", "and finite")  # noqa: SLF001
        msg = f"{name}={value!r} is out of range: it must be a number {bounds}".rstrip() + "."
        if kind._type is int:  # noqa: SLF001
            msg = msg.replace("a number", "a whole number")
        raise ValueError(msg) from None


def checked_path(name: str, value: Any) -> str | None:  # noqa: ANN401
    """Check a setting that is a path or ``None``, and return it as a string.

    Raises:
        ValueError: If it is not a valid path; names the setting.
    """
    if value is None:
        return None
    if not isinstance(value, str | Path) or not str(value).strip() or "\0" in str(value):
        msg = f"{name}={value!r} is not a path."
        raise ValueError(msg)
    return str(value)
