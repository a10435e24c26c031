# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Types of settings, and checks for values given from Python.

The restricted numbers are jsonargparse's: the command line checks them, and ``--help`` shows them.
"""

from collections.abc import Callable
from math import inf
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

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

# Each kind's plain type and its bounds, as messages say them.
_NUMBERS: dict[Any, tuple[Callable[[Any], Any], str]] = {
    NonNegativeFloat: (float, "a number >=0 and finite"),
    OpenUnitFloat: (float, "a number >0 and <1"),
    UnitFloat: (float, "a number >=0 and <=1"),
    NonNegativeInt: (int, "a whole number >=0"),
    PositiveInt: (int, "a whole number >0"),
    RenderSize: (int, "a whole number >=32 and <=2048"),
}


def checked(name: str, value: Any, kind: Any) -> Any:  # noqa: ANN401  # any user input
    """Check a setting and convert it to a plain number, string or bool.

    NumPy scalars and other subclasses of numbers make checkpoints unreadable with ``weights_only=True``. A
    ``ValueError`` names a setting whose value is not of that kind.
    """
    choices = get_args(kind)
    if NoneType in choices:
        return None if value is None else checked(name, value, choices[0])
    if get_origin(kind) is Literal:
        if value not in choices:
            msg = f"{name}={value!r} is unknown. Choose one of {', '.join(choices)}."
            raise ValueError(msg)
        return str(value)
    if kind is bool and not isinstance(value, bool):
        msg = f"{name}={value!r} must be true or false."
        raise ValueError(msg)
    if kind is bool:
        return value
    plain, bounds = _NUMBERS[kind]
    try:
        if isinstance(value, str):  # jsonargparse would parse it, as it parses the command line
            raise TypeError  # noqa: TRY301
        return plain(kind(value))
    except (TypeError, ValueError, OverflowError):
        msg = f"{name}={value!r} is out of range: it must be {bounds}."
        raise ValueError(msg) from None


def check_fields(settings: Any) -> None:  # noqa: ANN401  # a frozen dataclass
    """Check the fields of a dataclass whose type is a kind of :func:`checked`, and convert them to plain types."""
    for name, kind in get_type_hints(type(settings)).items():
        inner = get_args(kind)[0] if NoneType in get_args(kind) else kind
        if inner in _NUMBERS or inner is bool or get_origin(inner) is Literal:
            object.__setattr__(settings, name, checked(name, getattr(settings, name), kind))


def checked_path(name: str, value: Any) -> str | None:  # noqa: ANN401
    """Check a setting that is a path or ``None``, and return it as a string; a ``ValueError`` names the setting."""
    if value is None:
        return None
    if not isinstance(value, str | Path) or not str(value).strip() or "\0" in str(value):
        msg = f"{name}={value!r} is not a path."
        raise ValueError(msg)
    return str(value)
