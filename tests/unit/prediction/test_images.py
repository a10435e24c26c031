# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Reading of images."""

import os
import signal

import cv2
import numpy as np
import pytest
import torch
from anomalib.data.utils import read_image as anomalib_reads
from helpers.predictions import write_images
from PIL import Image
from torchvision.transforms.v2 import Resize

from anomalib_genclip.prediction.images import Item, default_workers, read_batch, read_batches, read_image


def items_of(root):
    return [Item(i, str(path), path.name, None) for i, path in enumerate(sorted(root.rglob("*.*")))]


def test_images_are_read_as_anomalib_reads_them(tmp_path):
    write_images(tmp_path, 4)
    Image.new("P", (5, 4), 3).save(tmp_path / "palette.png")
    for item in items_of(tmp_path):
        assert torch.equal(read_image(item.path) / 255, torch.as_tensor(anomalib_reads(item.path, as_tensor=True)))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_keep_their_order_and_their_errors(tmp_path, workers):
    write_images(tmp_path, 11, broken=(4,))
    items = items_of(tmp_path)
    batches = [items[start : start + 2] for start in range(0, len(items), 2)]
    read = list(read_batches(iter(batches), Resize([4, 4]), workers))
    assert [batch.items for batch in read] == batches
    errors = [error for batch in read for error in batch.errors]
    assert [bool(error) for error in errors] == ["00004" in item.name for item in items]
    (error,) = filter(None, errors)
    assert "00004.jpg cannot be read: cannot identify image file" in error
    assert all(len(batch.stacks) == 1 for batch in read)
    sizes = [size for batch in read for size in batch.sizes]
    assert sizes == [(0, 0) if "00004" in item.name else (6 + int(item.name[:5]) % 5, 9) for item in items]


def test_images_of_one_size_come_together(tmp_path):
    write_images(tmp_path, 7)
    batch = read_batch(items_of(tmp_path), lambda image: image)
    assert sorted(position for positions, _ in batch.stacks for position in positions) == list(range(7))
    assert {tuple(images.shape[2:]) for _, images in batch.stacks} == {(6 + i, 9) for i in range(5)}
    for positions, images in batch.stacks:
        assert torch.equal(images[0], read_image(batch.items[positions[0]].path))


def test_deep_images_are_refused_and_missing_ones_named(tmp_path):
    cv2.imwrite(str(tmp_path / "colour.png"), np.full((4, 4, 3), 40_000, np.uint16))
    assert read_image(str(tmp_path / "colour.png")).unique().tolist() == [40_000 // 256]
    (tmp_path / "colour.png").unlink()
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
    items = [*items_of(tmp_path), Item(1, str(tmp_path / "gone.png"), "gone.png", None)]
    deep, gone = read_batch(items, lambda image: image).errors
    assert "more than 8 bits" in deep
    assert "gone.png cannot be read" in gone


def test_a_killed_process_is_an_error_of_one_line(tmp_path):
    write_images(tmp_path, 1)

    def kill(_):
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(OSError, match="memory ran out"):
        list(read_batches([items_of(tmp_path)], kill, 1))


def test_default_leaves_a_core_to_the_model(monkeypatch):
    for cores, workers in ((1, 1), (2, 1), (4, 3), (64, 4)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=cores: set(range(n)), raising=False)
        assert default_workers() == workers
