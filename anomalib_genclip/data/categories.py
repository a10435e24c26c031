# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Categories of a datamodule, and one datamodule per category.

- The known categories are the constant ``CATEGORIES`` in the dataset's or datamodule's module, as in anomalib.
- A category is on disk if ``<root>/<category>`` or ``<root>/*/<category>`` is a folder with a file in it (the second
  form is VisA's split tree and Real-IAD's resolutions).
"""

import copy
import glob
import logging
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from anomalib.data import AnomalibDataModule

from anomalib_genclip.utils.loaders import category_of

logger = logging.getLogger(__name__)

Categories = list[str] | Literal["all"] | None


def known_categories(datamodule: AnomalibDataModule) -> tuple[str, ...]:
    """Return the dataset's official categories, empty if none are listed."""
    if not datamodule.category:
        return (category_of(datamodule),)
    for cls in type(datamodule).__mro__:
        # anomalib defines the constant with the dataset: datasets/image/visa.py for datamodules/image/visa.py.
        for module in (cls.__module__, cls.__module__.replace(".datamodules.", ".datasets.")):
            if hasattr(sys.modules.get(module), "CATEGORIES"):
                return tuple(sys.modules[module].CATEGORIES)
    return ()


def categories_on_disk(datamodule: AnomalibDataModule, names: Iterable[str]) -> list[str]:
    """Return the ``names`` that have files under the root, or are known to a datamodule that renders on demand."""
    if getattr(datamodule, "on_demand", False):
        return [name for name in names if name in known_categories(datamodule)]
    root = _root(datamodule)
    if root is None or not datamodule.category:
        return [name for name in names if name == category_of(datamodule)]
    plain = [name for name in names if Path(name).name == name != ".."]  # a path could lead out of the root
    folders = {name: (root / name, *root.glob(f"*/{glob.escape(name)}")) for name in plain}
    return [name for name in plain if any(path.is_file() for folder in folders[name] for path in folder.rglob("*"))]


def folders_on_disk(datamodule: AnomalibDataModule) -> list[str]:
    """Return the names of all folders directly under the datamodule's root."""
    root = _root(datamodule)
    return sorted(path.name for path in root.iterdir() if path.is_dir()) if root is not None and root.is_dir() else []


def full_name(datamodule: AnomalibDataModule) -> str:
    """Return name, category and root of a datamodule, for messages."""
    category = f" category '{datamodule.category}'" if datamodule.category else ""
    root = _root(datamodule)
    return f"{datamodule.name}{category}" + (f" (root {root})" if root is not None else "")


def check_categories(categories: Any, option: str) -> Categories:  # noqa: ANN401
    """Check a user's categories and return them; a ``TypeError`` names the option and the expected type."""
    if categories is None or categories == "all":
        return categories
    if isinstance(categories, list | tuple) and all(isinstance(name, str) and name for name in categories):
        return list(categories)
    hint = f" Write ['{categories}']." if isinstance(categories, str) else ""
    msg = f"{option} must be a list of category names, each in quotes, 'all' or None, got {categories!r}.{hint}"
    raise TypeError(msg)


def expand_each(
    datamodules: list[AnomalibDataModule], categories: Categories, option: str
) -> list[list[AnomalibDataModule]]:
    """Create one datamodule per category; a ``ValueError`` names those that are missing."""
    categories = check_categories(categories, option)
    if categories is None:
        return [[copy.copy(datamodule)] for datamodule in datamodules]
    if categories == "all":
        chosen = [_all_categories(datamodule, option) for datamodule in datamodules]
    else:
        chosen = [_own_categories(datamodule, categories) for datamodule in datamodules]
        missing = [name for name in categories if not any(name in own for own in chosen)]
        empty = [datamodule.name for datamodule, own in zip(datamodules, chosen, strict=True) if not own]
        if missing or empty:
            what = f"not found: {', '.join(missing)}" if missing else f"none of them is of {empty[0]}"
            there = "; ".join(f"{full_name(datamodule)} has {_inventory(datamodule)}" for datamodule in datamodules)
            msg = f"{option}={categories}: {what}. {there}."
            raise ValueError(msg)
    return [[_with_category(part, name) for name in names] for part, names in zip(datamodules, chosen, strict=True)]


def warn_about_missing(datamodules: list[AnomalibDataModule], option: str) -> None:
    """Warn about known categories that ``"all"`` leaves out because they are not on disk."""
    for datamodule in datamodules:
        known = known_categories(datamodule)
        found = categories_on_disk(datamodule, known)
        if missing := [name for name in known if name not in found]:
            text = f"{option}='all': {len(missing)} of {len(known)} categories of {datamodule.name} are not in"
            logger.warning("%s %s and are left out: %s.", text, _root(datamodule), ", ".join(missing))


def to_download(datamodules: list[AnomalibDataModule]) -> list[AnomalibDataModule]:
    """Return one datamodule per known category of those whose root has no folders yet.

    anomalib downloads some datasets as a whole and some by category; one datamodule per category works for both.
    """
    with_root = [part for part in datamodules if part.category and _root(part) is not None]
    return [_with_category(p, name) for p in with_root if not folders_on_disk(p) for name in known_categories(p)]


def _root(datamodule: AnomalibDataModule) -> Path | None:
    root = getattr(datamodule, "root", None)
    return None if root is None else Path(root)


def _with_category(datamodule: AnomalibDataModule, name: str) -> AnomalibDataModule:
    part = copy.copy(datamodule)  # shallow, because setup() only replaces attributes
    if datamodule.category:
        part.category = name
    return part


def _all_categories(datamodule: AnomalibDataModule, option: str) -> list[str]:
    known = known_categories(datamodule)
    found = categories_on_disk(datamodule, known)
    if not found:
        what = f"{option}='all' found none of the known categories of {datamodule.name} in {_root(datamodule)}"
        there = f"Folders there: {_inventory(datamodule)}. Known categories: {', '.join(known) or 'none'}"
        msg = f"{what}. {there}. List the categories that you want in {option}, or correct the root."
        raise ValueError(msg)
    return found


def _own_categories(datamodule: AnomalibDataModule, names: list[str]) -> list[str]:
    """Return the names that belong to this datamodule, without repetitions."""
    names = list(dict.fromkeys(names))
    known = known_categories(datamodule)
    on_disk = categories_on_disk(datamodule, names)
    # prepare_data() downloads a known category that is not on disk; if others are there, the whole dataset again.
    is_there = on_disk or categories_on_disk(datamodule, known)
    return [name for name in names if name in on_disk or (name in known and not is_there)]


def _inventory(datamodule: AnomalibDataModule) -> str:
    """List the categories that a user could have given."""
    if not datamodule.category:
        return f"the one category '{category_of(datamodule)}'"
    return ", ".join(folders_on_disk(datamodule)) or "no folders"
