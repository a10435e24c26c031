# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Which versions of what this package builds on are known to work: those that ``make test-matrix`` has run."""

import logging
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from packaging.version import Version

logger = logging.getLogger(__name__)

# Distribution -> first and last minor version that was tested.
KNOWN = {"anomalib": ("2.7", "2.7"), "torch": ("2.10", "2.15"), "open_clip_torch": ("2.24", "3.3")}


def installed_versions() -> dict[str, str]:
    """Look up the versions of the distributions in :data:`KNOWN`; one without metadata is left out."""
    found = {}
    for name in KNOWN:
        with suppress(PackageNotFoundError):  # built or vendored by the user: nothing is known of it
            found[name] = version(name)
    return found


def describe_unknown(installed: Mapping[str, str]) -> str:
    """Say in one sentence which versions are outside what is known to work.

    Args:
        installed (Mapping[str, str]): Version by the name of the distribution.

    Returns:
        str: The sentence, ``""`` if there is nothing to say.
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
    """Drop all but major and minor number: pre-releases and local builds count as their release."""
    release = Version(text)
    return Version(f"{release.major}.{release.minor}")


@cache
def warn_of_unknown_versions() -> None:
    """Warn once per process if an installed version is outside what is known to work."""
    if sentence := describe_unknown(installed_versions()):
        logger.warning(sentence)
