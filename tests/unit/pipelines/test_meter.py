# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Speed of a test run."""

from types import SimpleNamespace

import torch

from anomalib_genclip.pipelines import jobs
from anomalib_genclip.pipelines.jobs import Meter


def test_speed_leaves_out_the_first_batch_and_what_happens_between_batches(monkeypatch):
    clock = iter([0.0, 9.0, 100.0, 101.0, 200.0, 202.0])
    monkeypatch.setattr(jobs.time, "perf_counter", lambda: next(clock))
    module = SimpleNamespace(device=torch.device("cpu"))
    meter = Meter()
    for batch in ([0] * 8, [0] * 8, [0] * 4):
        meter.on_test_batch_start(None, module, batch, 0)
        meter.on_test_batch_end(None, module, None, batch, 0)
    assert meter.result() == {"images": 20, "images_per_second": 4.0}
    meter.on_test_epoch_end(None, module)
    assert meter.result()["peak_memory_mib"] > 100
