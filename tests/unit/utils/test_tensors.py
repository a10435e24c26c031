# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Checks and hashes of tensors."""

import pytest
import torch

from anomalib_genclip.utils.tensors import check_finite, digest

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(1.0)}
DESCRIPTION = {"layers": [1, 2], "backbone": "tiny"}


def test_hash_does_not_depend_on_order_or_layout():
    plain = digest(TENSORS, DESCRIPTION)
    assert digest(dict(reversed(TENSORS.items())), dict(reversed(DESCRIPTION.items()))) == plain
    transposed = TENSORS["a"].T.contiguous().T
    assert digest({**TENSORS, "a": transposed.requires_grad_()}, DESCRIPTION) == plain


@pytest.mark.parametrize(
    "change",
    [
        {"a": TENSORS["a"] + torch.eye(2, 3) * 1e-6},
        {"a": TENSORS["a"].view(3, 2)},
        {"a": TENSORS["a"].view(torch.int32)},
        {"b": -TENSORS["b"]},
        {"c": torch.zeros(0)},
    ],
)
def test_every_change_is_another_hash(change):
    assert digest({**TENSORS, **change}, DESCRIPTION) != digest(TENSORS, DESCRIPTION)
    assert digest(TENSORS, {**DESCRIPTION, "layers": [2, 1]}) != digest(TENSORS, DESCRIPTION)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.bool])
def test_tensors_of_every_type_have_a_hash(dtype):
    assert digest({"a": torch.ones(3).to(dtype)}, {}) != digest({"a": torch.ones(3)}, {})


@pytest.mark.parametrize("value", [torch.tensor([0.0, float("nan")]), torch.tensor(float("-inf")), torch.tensor([1])])
def test_what_is_no_finite_number_is_named(value):
    check_finite({**TENSORS, "half": torch.zeros(0).half()}, "here")
    with pytest.raises(ValueError, match=r"^a file: tensor 'c' does not consist of finite floating-point numbers"):
        check_finite({**TENSORS, "c": value}, "a file")
