# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The unit of work: reading images, scoring a chunk, and writing its files."""

import errno
import json
import multiprocessing
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from anomalib.data.utils import read_image as anomalib_reads
from helpers.predictions import Brightness, settings_for, use_model, write_images
from PIL import Image

from anomalib_genclip.data.images import read_image
from anomalib_genclip.prediction import scoring, storage
from anomalib_genclip.prediction.chunks import Chunk
from anomalib_genclip.prediction.scoring import Scorer, load_image, resolve_device
from anomalib_genclip.prediction.sources import Source, find_images

CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def model(monkeypatch):
    return use_model(monkeypatch, Brightness())


def chunks_of(root, size=4):
    images = list(find_images(str(root / "images")))
    return [Chunk(images[at : at + size], f"chunks/{at}.jsonl") for at in range(0, len(images), size)]


def rows_of(root, chunk):
    return [json.loads(line) for line in (root / "out" / chunk.file).read_text().splitlines()]


def scorer_for(root, **options):
    return Scorer(settings_for(root, **options), Path())


def test_images_are_read_as_anomalib_reads_them(tmp_path):
    write_images(tmp_path, 4)
    Image.new("P", (5, 4), 3).save(tmp_path / "palette.png")
    for path in map(str, tmp_path.rglob("*.*")):
        assert torch.equal(read_image(path) / 255, torch.as_tensor(anomalib_reads(path, as_tensor=True)))


def test_images_that_cannot_be_read_are_named(tmp_path, monkeypatch):
    cv2.imwrite(str(tmp_path / "colour.png"), np.full((4, 4, 3), 40_000, np.uint16))
    assert read_image(str(tmp_path / "colour.png")).unique().tolist() == [40_000 // 256]
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
    Image.new("RGB", (30, 30)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for name, reason in (
        ("deep", "more than 8 bits"),
        ("gone", "No such file"),
        ("large", "cannot be read: has more than 200 pixels.*cut it"),
    ):
        error = load_image(Source(str(tmp_path / f"{name}.png"), ""), lambda image: image)
        assert error.startswith(f"{tmp_path}/{name}.png cannot be read: ")
        with pytest.raises(AssertionError, match=reason):
            raise AssertionError(error)


@pytest.mark.parametrize("workers", [0, 3])
def test_chunks_keep_their_order_and_their_errors(tmp_path, monkeypatch, workers):
    """Threads read: a script without a guard for child processes works where these are spawned."""
    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", None)
    write_images(tmp_path / "images", 27, broken=(4,))
    chunks, threads = chunks_of(tmp_path), threading.active_count()
    options = {"num_workers": workers, "on_error": "record", "batch_size": 2, "class_from": "parent"}
    assert list(scorer_for(tmp_path, **options).score(iter(chunks))) == chunks
    rows = [row for chunk in chunks for row in rows_of(tmp_path, chunk)]
    assert [row["path"] for row in rows] == [image.path for chunk in chunks for image in chunk.images]
    assert [bool(row["error"]) for row in rows] == ["00004" in row["path"] for row in rows]
    assert [row["class_name"] for row in rows if not row["error"]] == [
        Path(row["path"]).parent.name for row in rows if not row["error"]
    ]
    assert threading.active_count() == threads


def test_images_of_one_size_are_scored_together(tmp_path, model, monkeypatch):
    monkeypatch.setattr(model, "transform", lambda image: image, raising=False)
    write_images(tmp_path / "images", 7)
    (chunk,) = chunks_of(tmp_path, size=8)
    list(scorer_for(tmp_path, batch_size=8).score([chunk]))
    assert sorted(model.seen) == [1, 1, 1, 2, 2]
    assert len(set(model.watched)) == sum(model.seen)


def test_few_images_are_in_memory(tmp_path, monkeypatch):
    taken, scored = [], []

    def image(number):
        taken.append(number)
        return Source(str(number), "")

    monkeypatch.setattr(scoring, "load_image", lambda *_, **__: (torch.zeros(3, 8, 8), (8, 8), []))
    scorer = scorer_for(tmp_path, num_workers=2)
    monkeypatch.setattr(scorer, "_finish", lambda *_: scored.append(max(taken) - len(scored)))
    monkeypatch.setattr(scorer.folder, "write", lambda *_: None)
    list(scorer.score(Chunk([image(number)], f"{number}") for number in range(100)))
    assert len(scored) == 100
    assert max(scored) <= 2 * 4 + 2


@pytest.mark.parametrize("on_error", ["stop", "record"])
def test_an_image_without_a_picture_is_named(tmp_path, on_error):
    """A picture of one pixel cannot be drawn: this is no reason to lose the scores of all others."""
    write_images(tmp_path / "images", 2)
    Image.new("RGB", (1, 1)).save(tmp_path / "images/1/x.png")
    (chunk,) = chunks_of(tmp_path)
    scorer = scorer_for(tmp_path, pictures="all", original_size=True, on_error=on_error)
    if on_error == "stop":
        with pytest.raises(OSError, match=r"1/x\.png: its files cannot be made: .*\. Use --on_error record"):
            list(scorer.score([chunk]))
        return
    list(scorer.score([chunk]))
    rows = rows_of(tmp_path, chunk)
    assert [bool(row["error"]) for row in rows] == [False, False, True]
    assert rows[2]["score"] is not None


def test_a_full_disk_stops_a_run_that_records_errors(tmp_path, monkeypatch):
    write_images(tmp_path / "images", 2)

    def full(path, **_):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(storage, "atomic_open", full)
    with pytest.raises(OSError, match=r"No space left on device: .*pictures/0/00000\.png\.png"):
        list(scorer_for(tmp_path, pictures="all", on_error="record").score(chunks_of(tmp_path)))


def test_errors_say_what_can_be_done(tmp_path, model, monkeypatch):
    write_images(tmp_path / "images", 1, broken=(0,))
    with pytest.raises(OSError, match=r"image file.*\. Repair the file, or use --on_error record, and run"):
        list(scorer_for(tmp_path).score(chunks_of(tmp_path)))
    write_images(tmp_path / "images", 1)
    with_wrong_name = [scoring.Record("0.png", (6, 9), error="0.png: the class name is empty.")]
    monkeypatch.setattr(model, "predict_batch", lambda *_: with_wrong_name, raising=False)
    with pytest.raises(OSError, match=r"class name is empty\. Use --on_error record, and run"):
        list(scorer_for(tmp_path).score(chunks_of(tmp_path)))


def test_precision_is_that_of_the_runtime(tmp_path, monkeypatch):
    monkeypatch.setattr("anomalib_genclip.utils.devices.bf16_is_fast", lambda device: device.type == "cpu")
    monkeypatch.setattr(scoring, "choose_device", lambda _: CUDA)
    chosen = [resolve_device(settings_for(tmp_path, weights=name)) for name in ("tiny-demo", "a.onnx", "a.xml")]
    assert chosen == [("cuda", "float32"), ("cuda", "float32"), ("cuda", "bf16")]  # OpenVINO runs on the processor
    assert resolve_device(settings_for(tmp_path, weights="a.onnx", precision="bf16"))[1] == "bf16"  # refused later
