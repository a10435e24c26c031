# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""What all tests share."""

import pytest
import torch
from helpers.comparisons import compared, comparison_data  # noqa: F401  # fixtures
from helpers.models import built, images, model, noisy  # noqa: F401
from helpers.runs import cross, trained  # noqa: F401


@pytest.fixture(autouse=True)
def _seed():
    """Give every test the same random numbers, whichever tests run before it."""
    torch.manual_seed(0)


@pytest.fixture
def one_thread():
    """Compute small tensors in one thread: on busy cores threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
