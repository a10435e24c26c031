# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Makes anomalib know this package's classes by their short names, whatever is imported first.

anomalib has no plugin entry points: a short name such as ``GenCLIP`` is looked up among the attributes of
``anomalib.models`` and among the subclasses that have been imported. torch has such entry points. Since anomalib
imports torch before anything else that matters here, :func:`watch_imports`, called at the end of ``import torch``,
is early enough to see anomalib's modules come in, and then adds this package's classes to them.

Whoever imports torch but not anomalib pays for this file alone, so it imports nothing but the standard library.
"""

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

# Class name -> the module that defines it, and anomalib's modules that get it as an attribute.
CLASSES: dict[str, tuple[str, tuple[str, ...]]] = {
    "GenCLIP": ("anomalib_genclip.lightning_model", ("anomalib.models", "anomalib.models.image")),
    "CrossDataset": ("anomalib_genclip.data.cross_dataset", ("anomalib.data",)),
    "SyntheticDefects": ("anomalib_genclip.demo.synthetic.datamodule", ("anomalib.data",)),
}

# When one of these has been executed, anomalib has all that the classes above build on. `anomalib.data` itself is no
# use here: imported first of all, it is already half executed when it imports torch. Its last import is the first of
# these, so what `anomalib.data` defines after its imports (`get_datamodule`) must not be imported at the top of the
# modules above.
_READY = ("anomalib.data.predict", "anomalib.models.image")


def watch_imports() -> None:
    """Have anomalib know this package's classes as soon as its modules are imported.

    Entry point of the group ``torch.backends``. Calling it again changes nothing.
    """
    # By name, because this module may have been imported, dropped and imported again, as coverage does.
    if not any(type(finder).__name__ == _AnomalibWatcher.__name__ for finder in sys.meta_path):
        sys.meta_path.insert(0, _AnomalibWatcher())


class _AnomalibWatcher(MetaPathFinder):
    """Leaves the finding to the other finders, and acts once the modules it waits for have been executed.

    This package's own modules are among those: when one of them is what imports anomalib, the classes cannot be
    imported yet by the time anomalib is ready.
    """

    def __init__(self) -> None:
        self.unknown = dict(CLASSES)
        self.executing = 0

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Have the module's loader report to this object, if it is one that it waits for."""
        if fullname not in _READY and not fullname.startswith("anomalib_genclip."):
            return None
        others = (finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec"))
        spec = next(filter(None, (finder.find_spec(fullname, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _ReportingLoader(spec.loader, self)
        return spec

    def add_classes(self) -> None:
        """Tell anomalib of all classes it is ready for, and stop watching when none is left."""
        for name, (defined_in, targets) in list(self.unknown.items()):
            # Adding one class may import the module of another, which ends up here and adds that one.
            if not self.executing and name in self.unknown and all(target in sys.modules for target in targets):
                del self.unknown[name]
                _add_class(name, defined_in, targets)
        if not self.unknown and self in sys.meta_path:
            sys.meta_path.remove(self)


class _ReportingLoader(Loader):
    """Loads as the loader found for the module does, and tells the watcher when that is done."""

    def __init__(self, loader: Loader, watcher: _AnomalibWatcher) -> None:
        self.loader = loader
        self.watcher = watcher

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Create the module as the found loader does."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module; its loader is the one found for it again before its first line runs."""
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
    """Import a class and make it an attribute of anomalib's modules; a failure is a warning, never an error.

    A name that anomalib has itself is left alone.
    """
    try:
        cls = getattr(import_module(defined_in), name)
    except Exception as error:  # noqa: BLE001  # whatever is wrong here, `import anomalib` must go on
        reason = f"{type(error).__name__}: {error}"
        warnings.warn(f"anomalib-genclip: anomalib will not know {name} ({reason})", RuntimeWarning, stacklevel=2)
        return
    for target in targets:
        if not hasattr(sys.modules[target], name):
            setattr(sys.modules[target], name, cls)
