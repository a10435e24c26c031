# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Versions of the main dependencies that are known to work: those that ``make test-matrix`` has run."""

import logging
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from packaging.version import Version

logger = logging.getLogger(__name__)

# Distribution -> first and last tested minor version.
KNOWN = {"anomalib": ("2.7", "2.7"), "torch": ("2.10", "2.15"), "open_clip_torch": ("2.24", "3.3")}


def installed_versions() -> dict[str, str]:
    """Look up the versions of the distributions in :data:`KNOWN`, without those that have no metadata."""
    found = {}
    for name in KNOWN:
        with suppress(PackageNotFoundError):  # built or vendored by the user
            found[name] = version(name)
    return found


def describe_unknown(installed: Mapping[str, str]) -> str:
    """Describe in one sentence which versions are untested.

    Args:
        installed (Mapping[str, str]): Versions by the name of the distribution.

    Returns:
        str: The sentence, ``""`` if all versions are tested.
    """
    unknown = [
        f"{name} {installed[name]} (tested: {first if first == last else f'{first} to {last}'})"
        for name, (first, last) in KNOWN.items()
        if name in installed and not Version(first) <= _minor(installed[name]) <= Version(last)
    ]
    if not unknown:
        return ""
    return f"GenCLIP has not been tested with {', '.join(unknown)}: if something fails, install a tested version."


def _minor(text: str) -> Version:
    """Reduce a version to major and minor number; pre-releases and local builds count as their release."""
    release = Version(text)
    return Version(f"{release.major}.{release.minor}")


@cache
def warn_of_unknown_versions() -> None:
    """Warn once per process if an installed version is untested."""
    if sentence := describe_unknown(installed_versions()):
        logger.warning(sentence)
