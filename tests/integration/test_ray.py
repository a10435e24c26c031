# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""``genclip predict --engine ray``: Ray is started on this machine, and each of its workers loads the model."""

import json
import os
import threading
import time
from contextlib import suppress

import pytest
import torch
from helpers.predictions import results, settings_for, small_chunks, write_images

from anomalib_genclip.prediction.run import run
from anomalib_genclip.utils.devices import bf16_is_fast

ray = pytest.importorskip("ray", reason="ray comes with the extra: pip install .[scale]")
pytestmark = pytest.mark.slow
TWO = {"engine": "ray", "ray_actors": 2}
OPTIONS = {"on_error": "record", "regions": True, "pictures": "anomalous", "image_threshold": 0.4}


@pytest.fixture(autouse=True)
def _threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))
    yield
    torch.set_num_threads(threads)


def scorers():
    import psutil  # comes with Ray's dashboard and with anomalib

    def is_scorer(process):
        with suppress(psutil.Error):  # the process has ended
            return any("_Actor" in word for word in process.cmdline())

    return [process for process in psutil.Process().children(recursive=True) if is_scorer(process)]


@pytest.mark.parametrize("kills", [0, 1])
def test_results_are_those_of_one_process_even_if_a_worker_is_killed(tmp_path, monkeypatch, kills):
    small_chunks(monkeypatch, 8)
    write_images(tmp_path / "images", 300 if kills else 30, broken=(5, 17))
    run(settings_for(tmp_path, **OPTIONS, out=str(tmp_path / "whole")))
    killed = []

    def kill():
        while len(killed) < kills:
            time.sleep(0.1)
            if any((tmp_path / "out").glob("chunks/*.jsonl")) and (running := scorers()):
                running[0].kill()
                killed.append(running[0].pid)

    threading.Thread(target=kill, daemon=True).start()
    outcome = run(settings_for(tmp_path, **OPTIONS, **TWO))
    assert len(killed) == kills
    assert outcome.counts["errors"] == 2
    assert results(tmp_path / "out") == results(tmp_path / "whole")
    assert not ray.is_initialized()


def test_a_run_begun_by_one_process_is_finished_by_ray(tmp_path):
    write_images(tmp_path / "images", 40, broken=(39,))
    with pytest.raises(OSError, match="00039"):
        run(settings_for(tmp_path))
    write_images(tmp_path / "images", 40)
    assert run(settings_for(tmp_path, **TWO)).counts["images"] == 40
    run(settings_for(tmp_path, out=str(tmp_path / "whole")))
    assert results(tmp_path / "out") == results(tmp_path / "whole")


def test_a_broken_image_stops_a_run_of_ray_too(tmp_path):
    write_images(tmp_path / "images", 20, broken=(19,))
    with pytest.raises(OSError, match=r"00019.jpg cannot be read.*--on_error record"):
        run(settings_for(tmp_path, **TWO))
    assert not ray.is_initialized()


def test_workers_choose_the_precision_and_find_the_gpus(tmp_path, monkeypatch):
    write_images(tmp_path / "images", 3)
    here = bf16_is_fast(torch.device("cpu"))
    monkeypatch.setattr("anomalib_genclip.utils.devices.bf16_is_fast", lambda _: not here)  # in this process alone
    run(settings_for(tmp_path, engine="ray", ray_actors=1))
    chosen = json.loads((tmp_path / "out/manifest.json").read_text())["settings"]["precision"]
    assert chosen == ("bf16" if here else "float32")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="Ray knows of no GPU"):
            run(settings_for(tmp_path, engine="ray", accelerator="gpu", out=str(tmp_path / "gpu")))
        assert not (tmp_path / "gpu").exists()
    assert not ray.is_initialized()


def test_weights_that_cannot_be_loaded_are_one_line(tmp_path):
    write_images(tmp_path / "images", 3)
    (tmp_path / "a.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"a\.safetensors") as raised:
        run(settings_for(tmp_path, engine="ray", weights=str(tmp_path / "a.safetensors")))
    assert "Traceback" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_an_address_without_a_cluster_is_named(tmp_path):
    write_images(tmp_path / "images", 1)
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:1"):
        run(settings_for(tmp_path, engine="ray", ray_address="127.0.0.1:1"))
    assert not (tmp_path / "out").exists()
