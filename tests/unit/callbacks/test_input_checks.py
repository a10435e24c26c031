# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Search for a broken file after an error; the rest of the checks is in tests/robustness/test_inputs.py."""

import errno
from types import SimpleNamespace

import pytest

from anomalib_genclip.callbacks.input_checks import InputChecks


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_full_disk_starts_no_search_among_the_images(monkeypatch, number):
    searched = []
    monkeypatch.setattr("anomalib_genclip.callbacks.input_checks.running_loaders", lambda _: searched.append(1) or [])
    InputChecks().on_exception(SimpleNamespace(), SimpleNamespace(), OSError(number, "No space left on device"))
    assert bool(searched) == (number != errno.ENOSPC)
