# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""anomalib's exports, written atomically."""

import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomalib_genclip.components.class_names import GENERIC
from anomalib_genclip.utils.files import atomic_write_folder

if TYPE_CHECKING:
    from anomalib.models.components import AnomalibModule as _Module
else:
    _Module = object

logger = logging.getLogger(__name__)

ONNX_OPSET = 18  # the oldest that torch's exporter writes


class AtomicExportMixin(_Module):
    """anomalib's exports; a failed or interrupted export leaves the folder unchanged.

    Mixed into :class:`~anomalib_genclip.lightning_model.GenCLIP`.
    """

    def to_torch(self, export_root: Path | str, model_file_name: str = "model") -> Path:
        """Export as a torch file; arguments as in anomalib."""
        self._prepare_export()
        write = partial(super().to_torch, model_file_name=model_file_name)
        return atomic_write_folder(Path(export_root), write)

    def to_onnx(
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        **kwargs: Any,  # noqa: ANN401  # torch.onnx.export's
    ) -> Path:
        """Export to ONNX with the opset that torch's exporter writes; arguments as in anomalib.

        anomalib requests opset 14, and torch then prints the traceback of a failed conversion.

        Raises:
            ValueError: If the model has tiles, whose number is fixed in the graph, and ``input_size`` is not given.
        """
        if self.model.tiler is not None and input_size is None:
            msg = "An exported graph has a fixed number of tiles: give input_size, the height and width of the images."
            raise ValueError(msg)
        self._prepare_export()
        # anomalib's command line shows INFO of all loggers, and this one logs a thousand merged constants.
        logging.getLogger("onnx_ir").setLevel(logging.WARNING)
        kwargs = {"opset_version": ONNX_OPSET, **kwargs}
        write = partial(super().to_onnx, model_file_name=model_file_name, input_size=input_size, **kwargs)
        return atomic_write_folder(Path(export_root), write)

    def to_openvino(self, export_root: Path | str, *args: Any, **kwargs: Any) -> Path:  # noqa: ANN401  # anomalib's
        """Export to OpenVINO; arguments as in anomalib."""
        export = super().to_openvino
        return atomic_write_folder(Path(export_root), lambda folder: export(folder, *args, **kwargs))

    def _prepare_export(self) -> None:
        """Choose the references, and warn if there is no class name.

        Raises:
            ValueError: If the model has no references yet, or those of several categories and no class name.
        """
        references = self.model.references
        if self.product.k_shot and not references.memories:
            msg = (
                f"k_shot={self.product.k_shot}, and no references have been drawn. Test or predict first, or export a "
                "model with weights or a checkpoint that have references."
            )
            raise ValueError(msg)
        if (index := references.index([None], self.class_name)) is not None:
            references.default = int(index)
        if self.model.branches != "query" and int(self.model.default_class) == 0:
            logger.warning(
                "Exported without a class name: the prompts of all images say %r. Give class_name to GenCLIP, "
                "or to GenCLIP.load_from_checkpoint(path, class_name=...).",
                GENERIC,
            )
