# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""What all tests share."""

import gc

import pytest
import torch
from helpers.comparisons import compared, comparison_data  # noqa: F401  # fixtures
from helpers.models import built, images, model, noisy  # noqa: F401
from helpers.runs import cross, trained  # noqa: F401


def pytest_collection_finish():
    gc.freeze()  # what is imported stays, so that the collections below need not look at it


@pytest.fixture(autouse=True)
def _fresh():
    """Give every test the same random numbers, and take the memory of its models back.

    A trainer and its model hold each other; with CLIP in it such a pair is hundreds of megabytes of a few objects,
    which Python does not hurry to collect.
    """
    torch.manual_seed(0)
    yield
    gc.collect()


@pytest.fixture
def one_thread():
    """Compute small tensors in one thread: on busy cores threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
