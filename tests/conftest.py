# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""What all tests share."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _seed():
    """Give every test the same random numbers, whichever tests run before it."""
    torch.manual_seed(0)
