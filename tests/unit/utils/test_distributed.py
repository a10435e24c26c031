# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Exchange between processes; whole runs of two are in ``tests/integration/test_ddp.py``."""

import json
import subprocess
import sys

import pytest

from anomalib_genclip.utils.distributed import Processes, processes

# Each process calls every operation with a value of its own.
PROGRAM = """
import json, sys
from datetime import timedelta
from torch import distributed
from anomalib_genclip.utils.distributed import processes

store, rank = sys.argv[1], int(sys.argv[2])
distributed.init_process_group("gloo", f"file://{store}", timedelta(seconds=60), 2, rank)
with processes() as both:
    value = {"from": both.rank}
    print(json.dumps([both.number, both.all_gather(value), both.gather(value), both.broadcast(value)]))
distributed.destroy_process_group()
"""


@pytest.mark.parametrize("value", [None, [1], {"a": (1, 2)}])
def test_a_process_alone_hears_itself(value):
    with processes() as alone:
        assert type(alone) is Processes
        assert (alone.rank, alone.number) == (0, 1)
        assert alone.all_gather(value) == alone.gather(value) == [value]
        assert alone.broadcast(value) is value


def test_two_processes_hear_each_other(tmp_path):
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "store")]
    started = [subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, text=True) for rank in range(2)]
    first, second = (json.loads(process.communicate(timeout=100)[0]) for process in started)
    both = [{"from": 0}, {"from": 1}]
    assert first == [2, both, both, both[0]]
    assert second == [2, both, [], both[0]]
