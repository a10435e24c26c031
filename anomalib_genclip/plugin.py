# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Registers this package's classes with anomalib under their short names, in every order of imports.

anomalib has no plugin entry points: it looks up a short name such as ``GenCLIP`` among the attributes of
``anomalib.models`` and among the imported subclasses. torch calls its entry points (``torch.backends``) at the end of
``import torch``, which anomalib imports first: :func:`watch_imports` is one, watches for anomalib's modules and adds
this package's classes to them. Programs that import torch alone import only this file, of the standard library.
"""

import atexit
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# Class name -> the module that defines it, and the modules of anomalib that get it as an attribute.
CLASSES: dict[str, tuple[str, tuple[str, ...]]] = {
    "GenCLIP": ("anomalib_genclip.lightning_model", ("anomalib.models", "anomalib.models.image")),
    "CrossDataset": ("anomalib_genclip.data.cross_dataset", ("anomalib.data",)),
    "SyntheticDefects": ("anomalib_genclip.demo.synthetic.datamodule", ("anomalib.data",)),
}

# After one of these has been executed, anomalib has everything that the classes above depend on. `anomalib.data` itself
# cannot be used here: if it is imported first, it is already partly executed when it imports torch. Its last import is
# the first of these: the modules above must not import at their top what it defines after that (`get_datamodule`).
_READY = ("anomalib.data.predict", "anomalib.models.image")


def watch_imports() -> None:
    """Register this package's classes as soon as anomalib is imported: an entry point of ``torch.backends``."""
    # Compared by name, because the module may have been removed and imported again, as coverage does.
    if not any(type(finder).__name__ == _AnomalibWatcher.__name__ for finder in sys.meta_path):
        sys.meta_path.insert(0, _AnomalibWatcher())


class _AnomalibWatcher(MetaPathFinder):
    """Finder that uses the other finders, and registers classes after the watched modules have been executed.

    This package's own modules are watched too: if one imports anomalib, anomalib is ready before the classes are.
    """

    def __init__(self) -> None:
        self.unknown = dict(CLASSES)
        self.executing = 0

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a watched module, with a loader that reports to this finder."""
        if fullname not in _READY and not fullname.startswith("anomalib_genclip."):
            return None
        others = (finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec"))
        spec = next(filter(None, (finder.find_spec(fullname, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _ReportingLoader(spec.loader, self)  # type: ignore[assignment]  # answers as one does
        return spec

    def add_classes(self) -> None:
        """Register all classes that anomalib is ready for, and stop watching when none is left."""
        for name, (defined_in, targets) in list(self.unknown.items()):
            # Adding one class may import the module of another, which calls this method again.
            if not self.executing and name in self.unknown and all(target in sys.modules for target in targets):
                del self.unknown[name]
                _add_class(name, defined_in, targets)
        if not self.unknown and self in sys.meta_path:
            atexit.register(repeat_error)
            sys.meta_path.remove(self)


def repeat_error() -> None:
    """Repeat an error of this package that ended a command line: jsonargparse puts it among all that it has tried."""
    text = str(getattr(sys, "last_value", ""))  # of the exception that ended the process
    tried, _, values = text.partition("\nGiven value type:")
    *_, reason = tried.split("\n  - ")
    if any(name in values for name in CLASSES) and reason != tried:
        print("\nerror: " + reason.replace("\n    ", "\n"), file=sys.stderr)


class _ReportingLoader:
    """Wraps the module's own loader, and tells the watcher when the module has been executed."""

    def __init__(self, loader: Loader, watcher: _AnomalibWatcher) -> None:
        self.loader = loader
        self.watcher = watcher

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        """Answer as the found loader does: ``python -m`` asks for the code and does not execute the module."""
        return getattr(self.loader, name)

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module, after giving it back its own loader."""
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.watcher.executing += 1
        try:
            self.loader.exec_module(module)
        finally:
            self.watcher.executing -= 1
        self.watcher.add_classes()


def _add_class(name: str, defined_in: str, targets: Sequence[str]) -> None:
    """Import a class and add it to anomalib's modules that have none of that name; a failure is a warning, no error."""
    try:
        cls = getattr(import_module(defined_in), name)
    except Exception as error:  # noqa: BLE001  # `import anomalib` must not fail
        reason = f"{type(error).__name__}: {error}"
        warnings.warn(f"anomalib-genclip: anomalib will not know {name} ({reason})", RuntimeWarning, stacklevel=2)
        return
    for target in targets:
        if not hasattr(sys.modules[target], name):
            setattr(sys.modules[target], name, cls)
