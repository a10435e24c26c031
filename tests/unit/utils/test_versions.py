# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Versions outside what is known to work are named, once and in one sentence."""

import logging
import re
from importlib.metadata import PackageNotFoundError, requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from anomalib_genclip.clip.backbone import backbone_spec, load_clip
from anomalib_genclip.utils import versions

TESTED = {"anomalib": "2.7.0", "torch": "2.13.0+cpu", "open_clip_torch": "2.26.1"}


@pytest.fixture
def fresh():
    """Forget that the warning was given, before and after."""
    versions.warn_of_unknown_versions.cache_clear()
    yield
    versions.warn_of_unknown_versions.cache_clear()


def test_tested_versions_need_no_word():
    assert not versions.describe_unknown(TESTED)
    assert not versions.describe_unknown({})


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("anomalib", "2.6.2"),
        ("anomalib", "2.8.0"),
        ("anomalib", "3.0.0.dev1"),
        ("torch", "2.9.1+cu128"),
        ("torch", "2.16.0.dev20270101"),
        ("torch", "3.0"),
        ("open_clip_torch", "2.23.0"),
        ("open_clip_torch", "3.4.0"),
    ],
)
def test_other_versions_are_named_with_the_tested_ones(name, version):
    sentence = versions.describe_unknown({**TESTED, name: version})
    first, last = versions.KNOWN[name]
    assert f"{name} {version} (tested: {first}" in sentence
    assert last in sentence
    assert sentence.count("tested:") == 1
    assert not re.search(r"[.!?] [A-Z]", sentence)  # one sentence


def test_several_versions_share_the_sentence():
    sentence = versions.describe_unknown({"anomalib": "2.8.0", "torch": "2.1.0", "open_clip_torch": "3.3.0"})
    assert "anomalib 2.8.0" in sentence
    assert "torch 2.1.0" in sentence
    assert "open_clip_torch" not in sentence


@pytest.mark.usefixtures("fresh")
def test_first_model_says_it_and_the_second_does_not(monkeypatch, caplog):
    monkeypatch.setattr(versions, "installed_versions", lambda: {**TESTED, "torch": "2.99.0"})
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            load_clip(backbone_spec("ViT-S-32-alt"), None, (64, 64))
    assert [record.levelname for record in caplog.records if "torch 2.99.0" in record.getMessage()] == ["WARNING"]


@pytest.mark.usefixtures("fresh")
def test_this_environment_is_a_known_one(caplog):
    """The ranges are those that ``make test-matrix`` runs: newer ones belong there before they are used here."""
    assert versions.installed_versions().keys() == versions.KNOWN.keys()
    with caplog.at_level(logging.WARNING):
        versions.warn_of_unknown_versions()
    assert "has not been tested" not in caplog.text


def test_distribution_without_metadata_is_left_out(monkeypatch):
    def version(name):
        if name == "torch":
            raise PackageNotFoundError(name)
        return TESTED[name]

    monkeypatch.setattr(versions, "version", version)
    assert versions.installed_versions().keys() == {"anomalib", "open_clip_torch"}


def test_known_ranges_are_within_what_installs():
    needed = map(Requirement, requires("anomalib-genclip"))
    specifiers = {canonicalize_name(r.name): r.specifier for r in needed if r.marker is None}
    for name, ends in versions.KNOWN.items():
        for end in ends:
            assert specifiers[canonicalize_name(name)].contains(f"{end}.0"), f"{name} {end}"
