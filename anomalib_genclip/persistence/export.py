# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""What anomalib's exports need of GenCLIP."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from anomalib_genclip.components.class_names import GENERIC
from anomalib_genclip.utils.files import atomic_write_folder

from .export_metadata import metadata_of, write_metadata

logger = logging.getLogger(__name__)

ONNX_OPSET = 18  # the oldest that torch's exporter writes; anomalib's 14 makes it print a failed conversion


def export_atomically(module: Any, export_root: Path | str, write: Callable[[Path], Path]) -> Path:  # noqa: ANN401
    """Export a model; a failed or interrupted export leaves the folder unchanged.

    A ``ValueError`` says that it has no references yet, those of several categories and no class name, or many masks.
    """
    model, names = module.model, module.names
    if module.k_shot and not model.references.memories:
        msg = f"k_shot={module.k_shot}, and no references have been drawn: test first, or give weights that have some."
        raise ValueError(msg)
    if model.ignore_mask.folder is not None:
        msg = f"ignore_mask {model.ignore_mask.folder} is a folder, and an exported model has one mask: give one PNG."
        raise ValueError(msg)
    if (index := model.references.index([names.products_of(None)])) is not None:
        model.references.default = int(index)
    if model.branches != "query" and int(model.default_class) == 0:
        text = "Exported without a class name: the prompts of all images say %r. Give class_name to GenCLIP."
        logger.warning(text, GENERIC)
    # anomalib's command line shows INFO of all loggers, and this one logs a thousand merged constants.
    logging.getLogger("onnx_ir").setLevel(logging.WARNING)

    def write_described(folder: Path) -> Path:
        path = write(folder)
        write_metadata(path, metadata_of(module))
        return path

    return atomic_write_folder(Path(export_root), write_described)


def check_dynamic_size(model: Any) -> None:  # noqa: ANN401  # GenCLIPModel
    """Raise a ``ValueError`` for images of any size if the model has tiles, whose number is fixed in the graph."""
    if model.tiler is not None:
        msg = "An exported graph has a fixed number of tiles: give input_size, the height and width of the images."
        raise ValueError(msg)
