# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The settings files of the package: ``configs/`` in a checkout, inside the package in an installation."""

from pathlib import Path

from .files import is_file

_PACKAGE = Path(__file__).parents[1]
_SUFFIX = ".yaml"


def config_folder() -> Path:
    """Return the folder of the settings files."""
    installed = _PACKAGE / "configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def list_configs() -> list[str]:
    """List the names of the settings files, such as ``"quickstart"`` and ``"data/visa_to_mvtec"``."""
    folder = config_folder()
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob(f"*{_SUFFIX}"))


def find_config(name: str | Path) -> Path:
    """Find a settings file by its path or its name in :func:`list_configs`.

    Raises:
        FileNotFoundError: If there is no such file; lists the names.
    """
    if is_file(name):
        return Path(name)
    known = list_configs()
    if (plain := str(name).removesuffix(_SUFFIX)) in known:
        return config_folder() / f"{plain}{_SUFFIX}"
    msg = f"There is no settings file {str(name)!r}. Give a path, or one of: {', '.join(known)}."
    raise FileNotFoundError(msg)
