# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""GenCLIP, zero-shot anomaly detection with generalized CLIP prompts, as a model of anomalib.

Public names are imported on first access, because ``import torch`` imports this package (see
:mod:`anomalib_genclip.plugin`) and must stay fast.

Example:
    >>> from anomalib.engine import Engine  # doctest: +SKIP
    >>> from anomalib_genclip import CrossDataset, GenCLIP  # doctest: +SKIP

    >>> Engine().train(model=GenCLIP(), datamodule=CrossDataset(...))  # doctest: +SKIP
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .plugin import watch_imports

if TYPE_CHECKING:
    from .data.cross_dataset import CrossDataset
    from .demo.synthetic.datamodule import SyntheticDefects
    from .inferencer import Inferencer
    from .lightning_model import GenCLIP
    from .torch_model import GenCLIPModel

__version__ = "0.1.0"

__all__ = ["CrossDataset", "GenCLIP", "GenCLIPModel", "Inferencer", "SyntheticDefects", "__version__"]

_MODULE_OF = {
    "CrossDataset": "anomalib_genclip.data.cross_dataset",
    "GenCLIP": "anomalib_genclip.lightning_model",
    "GenCLIPModel": "anomalib_genclip.torch_model",
    "Inferencer": "anomalib_genclip.inferencer",
    "SyntheticDefects": "anomalib_genclip.demo.synthetic.datamodule",
}

# Also here, because torch's entry points can be switched off.
watch_imports()


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Import a public name on first access (PEP 562)."""
    if name not in _MODULE_OF:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})
