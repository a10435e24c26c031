# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Exchange between processes; whole runs of two are in ``tests/integration/test_ddp.py``."""

import json
import multiprocessing
from datetime import timedelta
from pathlib import Path

import pytest
from torch import distributed

from anomalib_genclip.utils.distributed import Processes, processes


@pytest.mark.parametrize("value", [None, [1], {"a": (1, 2)}])
def test_a_process_alone_hears_itself(value):
    with processes() as alone:
        assert type(alone) is Processes
        assert (alone.rank, alone.number) == (0, 1)
        assert alone.all_gather(value) == alone.gather(value) == [value]
        assert alone.broadcast(value) is value


def exchange(folder: Path, rank: int) -> None:
    distributed.init_process_group("gloo", f"file://{folder / 'store'}", timedelta(seconds=60), 2, rank)
    with processes() as both:
        value = {"from": both.rank}
        heard = [both.number, both.all_gather(value), both.gather(value), both.broadcast(value)]
    (folder / f"{rank}.json").write_text(json.dumps(heard))
    distributed.destroy_process_group()


def test_two_processes_hear_each_other(tmp_path):
    context = multiprocessing.get_context("fork")  # a new interpreter would import torch for seconds
    both = [context.Process(target=exchange, args=(tmp_path, rank)) for rank in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(100)
    heard = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    values = [{"from": 0}, {"from": 1}]
    assert heard == [[2, values, values, values[0]], [2, values, [], values[0]]]
