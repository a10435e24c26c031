# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Settings from Python; those of the model are in ``test_model_settings.py``."""

import json
import math
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from jsonargparse import ArgumentParser

from anomalib_genclip.utils.settings import (
    NonNegativeFloat,
    NonNegativeInt,
    OpenUnitFloat,
    PositiveInt,
    RenderSize,
    UnitFloat,
    checked,
    checked_path,
)

CASES = [  # kind, values that are of it, values that are not
    (NonNegativeFloat, [0, 1.5, 1e300], [-1e-9, math.inf, math.nan, "1", None, [1]]),
    (OpenUnitFloat, [0.1, 0.999], [0, 1, -0.1, math.nan]),
    (UnitFloat, [0, 0.5, 1], [-0.1, 1.1]),
    (NonNegativeInt, [0, 3], [-1, 0.5, "0", None]),
    (PositiveInt, [1, 10**20], [0, 1.5, math.inf]),
    (RenderSize, [32, 2048], [31, 2049, 64.5]),
    (Literal["a", "b"], ["a", "b"], ["c", "", None, 1]),
    (bool, [True, False], [0, 1, "true", None, np.True_]),
]


@pytest.mark.parametrize(("kind", "value"), [(kind, value) for kind, values, _ in CASES for value in values])
def test_right_values_are_kept(kind, value):
    assert checked("name", value, kind) == value


@pytest.mark.parametrize(("kind", "value"), [(kind, value) for kind, _, values in CASES for value in values])
def test_wrong_values_are_refused_by_name(kind, value):
    with pytest.raises(ValueError, match=r"^name=") as caught:
        checked("name", value, kind)
    assert f"name={value!r}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "bounds"),
    [
        (NonNegativeFloat, "it must be a number >=0 and finite."),
        (UnitFloat, "it must be a number >=0 and <=1."),
        (PositiveInt, "it must be a whole number >0."),
        (RenderSize, "it must be a whole number >=32 and <=2048."),
        (Literal["a", "b"], "Choose one of a, b."),
        (bool, "must be true or false."),
    ],
)
def test_message_tells_what_is_right(kind, bounds):
    with pytest.raises(ValueError, match=r"^name=-1 ") as caught:
        checked("name", -1, kind)
    assert str(caught.value).endswith(bounds)


class Text(str):
    """A string of another type."""

    __slots__ = ()


@pytest.mark.parametrize(
    ("value", "kind", "plain"),
    [
        (np.float32(0.5), UnitFloat, float),
        (np.int64(3), PositiveInt, int),
        (3.0, PositiveInt, int),
        (1, UnitFloat, float),
        (Text("a"), Literal["a"], str),
    ],
)
def test_result_is_plain(value, kind, plain):
    """Or a checkpoint could not be read with ``weights_only=True``."""
    result = checked("name", value, kind)
    assert type(result) is plain
    assert json.loads(json.dumps(result)) == value


def test_command_line_has_the_same_bounds(capsys):
    parser = ArgumentParser()
    parser.add_argument("--size", type=RenderSize)
    assert parser.parse_args(["--size", "64"]).size == 64
    with pytest.raises(SystemExit):
        parser.parse_args(["--size", "16"])
    assert "size" in capsys.readouterr().err


@pytest.mark.parametrize("value", [None, "a/b", Path("a/b")])
def test_a_path_is_text(value):
    assert checked_path("name", value) == (value and "a/b")


@pytest.mark.parametrize("value", ["", "  ", "a\0b", 5, True, ["a"], b"a"])
def test_what_is_no_path_is_refused_by_name(value):
    with pytest.raises(ValueError, match=r"^name=.* is not a path\.$"):
        checked_path("name", value)
