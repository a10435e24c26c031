# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Settings from Python; those of the model are in ``test_model_settings.py``."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from anomalib_genclip.utils.settings import (
    NonNegativeFloat,
    NonNegativeInt,
    OpenUnitFloat,
    PositiveInt,
    RenderSize,
    UnitFloat,
    check_fields,
    checked,
    checked_path,
)

CASES = [  # kind, values that are of it, values that are not, what the message says
    (NonNegativeFloat, [0, 1.5, 1e300], [-1e-9, math.inf, math.nan, "1", None, [1]], "a number >=0 and finite."),
    (OpenUnitFloat, [0.1, 0.999], [0, 1, -0.1, math.nan], "a number >0 and <1."),
    (UnitFloat, [0, 0.5, 1], [-0.1, 1.1], "a number >=0 and <=1."),
    (NonNegativeInt, [0, 3], [-1, 0.5, "0", None], "a whole number >=0."),
    (PositiveInt, [1, 10**20], [0, 1.5, math.inf], "a whole number >0."),
    (RenderSize, [32, 2048], [31, 2049, 64.5], "a whole number >=32 and <=2048."),
    (Literal["a", "b"], ["a", "b"], ["c", "", None, 1], "Choose one of a, b."),
    (bool, [True, False], [0, 1, "true", None, np.True_], "must be true or false."),
    (UnitFloat | None, [None, 0.5], [2, "x"], "a number >=0 and <=1."),
]


@pytest.mark.parametrize(("kind", "right", "wrong", "message"), CASES, ids=lambda value: str(value)[:30])
def test_right_values_are_kept_and_wrong_ones_refused_by_name(kind, right, wrong, message):
    assert [checked("name", value, kind) for value in right] == right
    for value in wrong:
        with pytest.raises(ValueError, match=r"^name=") as caught:
            checked("name", value, kind)
        assert str(caught.value).startswith(f"name={value!r} ")
        assert str(caught.value).endswith(message)
        assert "\n" not in str(caught.value)


class Text(str):
    """A string of another type."""

    __slots__ = ()


@dataclass(frozen=True)
class Group:
    """Settings of each kind."""

    rate: UnitFloat = 0.5
    count: PositiveInt | None = None
    mode: Literal["a", "b"] = "a"
    flag: bool = True
    text: str = ""

    def __post_init__(self):
        check_fields(self)


def test_fields_of_a_dataclass_are_checked_and_become_plain():
    group = Group(np.float32(0.5), np.int64(2), Text("b"), text="anything")
    assert group == Group(0.5, 2, "b", text="anything")
    assert [type(value) for value in (group.rate, group.count, group.mode)] == [float, int, str]
    for name, value in {"rate": 2, "count": 0, "mode": "c", "flag": 1}.items():
        with pytest.raises(ValueError, match=rf"^{name}={value!r} "):
            Group(**{name: value})


def test_a_path_is_text_and_what_is_none_is_refused_by_name():
    assert [checked_path("name", value) for value in (None, "a/b", Path("a/b"))] == [None, "a/b", "a/b"]
    for value in ("", "  ", "a\0b", 5, True, ["a"], b"a"):
        with pytest.raises(ValueError, match=r"^name=.* is not a path\.$"):
            checked_path("name", value)
