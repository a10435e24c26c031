# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""A filled cache, and a count of what the vision tower computes."""

import shutil
from types import SimpleNamespace

import pytest
from helpers.feature_caches import cross, fit

from anomalib_genclip.clip.frozen_clip import FrozenCLIP


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    """Small tensors, and processes beside these."""


@pytest.fixture(scope="session")
def original(tmp_path_factory):
    """A data set, its cache, and the losses of the run that filled it."""
    root = tmp_path_factory.mktemp("filled")
    _, record = fit(cross(root / "data"), root / "results", epochs=1, feature_cache=root / "cache")
    return SimpleNamespace(root=root, losses=record.losses)


@pytest.fixture
def filled(original, tmp_path):
    """A copy of the data set and of its cache, to be spoilt."""
    for name in ("data", "cache"):
        shutil.copytree(original.root / name, tmp_path / name)
    return SimpleNamespace(data=cross(tmp_path / "data"), cache=tmp_path / "cache", losses=original.losses)


@pytest.fixture
def tower_images(monkeypatch) -> list[int]:
    """The numbers of images that the vision tower is called with."""
    seen, encode = [], FrozenCLIP.encode_image

    def counted(self, images):
        seen.append(len(images))
        return encode(self, images)

    monkeypatch.setattr(FrozenCLIP, "encode_image", counted)
    return seen
