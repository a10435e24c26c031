# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Run exported models with ONNX Runtime or OpenVINO."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import Compose, InterpolationMode, Resize, ToDtype

from anomalib_genclip.components.ignore_mask import IgnoreMask

from .export_metadata import KEY

SUFFIXES = (".onnx", ".xml")
TO_FLOAT = ToDtype(torch.float32, scale=True)

Run = Callable[[np.ndarray], Sequence[np.ndarray]]


class ExportedModel:
    """An exported model. Resizing and normalization are part of its graph, and its class name is fixed.

    Args:
        path (Path): A file that ends in ``.onnx`` or ``.xml``.
        device (str): "auto", "cpu" or "gpu".
        precision (str): Of OpenVINO: "float32" or "bf16". ONNX Runtime computes as the file says.

    Attributes:
        transform (Callable): Applied to each image, ``(3, H, W)``, uint8, before images are stacked to a batch.
        metadata (dict[str, Any]): That of :func:`~anomalib_genclip.persistence.export_metadata.metadata_of`, or empty.
        ignore_mask (IgnoreMask): Checks the shape of images if a mask is in the graph.

    A ``ValueError`` names a file that cannot be opened, or is no exported anomaly model.
    """

    def __init__(self, path: Path, device: str = "auto", precision: Literal["float32", "bf16"] = "float32") -> None:
        if path.suffix == ".onnx" and precision == "bf16":
            msg = "ONNX Runtime runs a file in the precision it was exported in: leave precision=bf16 out."
            raise ValueError(msg)
        load = _open_onnx if path.suffix == ".onnx" else _open_openvino
        try:
            shape, self._outputs, self._run, text = load(str(path), device, precision)
            self.metadata: dict[str, Any] = json.loads(text) if text else {}
        except ImportError as error:
            msg = f"{path} needs a package that is not installed: {error}. Install: pip install onnxruntime openvino."
            raise ValueError(msg) from error
        except Exception as error:  # each runtime has types of its own, without a common base
            msg = f"{path} cannot be opened as a model: {str(error).strip().splitlines()[-1]}"
            raise ValueError(msg) from error
        missing = [name for name in ("anomaly_map", "pred_score") if name not in self._outputs]
        if missing or len(shape) != 4 or shape[1] != 3:
            what = f"has no output {' and '.join(missing)}" if missing else f"takes {shape} instead of (N, 3, H, W)"
            msg = f"{path} is not an exported model for anomaly detection: it {what}."
            raise ValueError(msg)
        self._batch_size = shape[0] if isinstance(shape[0], int) else None
        self.path = path
        self.ignore_mask = IgnoreMask(self.metadata.get("ignore_mask", ()), f" of {path}")
        fixed = [side for side in shape[2:] if isinstance(side, int)]
        self.transform: Callable[[Tensor], Tensor] = torch.nn.Identity()
        if len(fixed) == 2:
            self.transform = Compose([TO_FLOAT, Resize(fixed, InterpolationMode.BICUBIC, antialias=True)])

    def __call__(self, images: Tensor) -> dict[str, np.ndarray]:
        """Run transformed images of one size, ``(B, 3, H, W)``, uint8 or float32 in [0, 1].

        Returns:
            dict[str, np.ndarray]: ``anomaly_map`` ``(B, H, W)``, ``pred_score`` ``(B,)`` and, if the file has them,
            ``pred_mask`` ``(B, H, W)`` and ``pred_label`` ``(B,)``.
        """
        values = TO_FLOAT(images).numpy()
        size = self._batch_size or len(values)
        parts = []
        for start in range(0, len(values), size):
            part = values[start : start + size]
            padded = np.concatenate([part, *[part[-1:]] * (size - len(part))])  # a file may have a fixed batch size
            found = zip(self._outputs, self._run(padded), strict=True)
            parts.append({name: value[: len(part)] for name, value in found})
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        maps = {name: value.reshape(-1, *value.shape[-2:]) for name, value in joined.items() if value.ndim > 2}
        return {name: value.reshape(-1) for name, value in joined.items()} | maps


def _open_onnx(path: str, device: str, _precision: str) -> tuple[list[Any], list[str], Run, str]:
    """Open a file with ONNX Runtime: the shape of its input, names of its outputs, how to run it, and its metadata."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    wanted = ["CPUExecutionProvider"] if device == "cpu" else onnxruntime.get_available_providers()
    session = onnxruntime.InferenceSession(path, options, providers=wanted)
    (entry,) = session.get_inputs()
    outputs = [output.name for output in session.get_outputs()]
    text = session.get_modelmeta().custom_metadata_map.get(KEY, "")
    return entry.shape, outputs, lambda images: session.run(None, {entry.name: images}), text


def _open_openvino(path: str, device: str, precision: str) -> tuple[list[Any], list[str], Run, str]:
    """As :func:`_open_onnx` with OpenVINO; anomalib's inferencer would leave a cache in the current folder."""
    import openvino

    # By default OpenVINO computes in bfloat16 if the processor supports it.
    hint = {"float32": "f32", "bf16": "bf16"}[precision]
    options = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    core = openvino.Core()
    source = core.read_model(path)
    text = source.get_rt_info([KEY, "metadata"]).astype(str) if source.has_rt_info([KEY, "metadata"]) else ""
    model = core.compile_model(source, "GPU" if device == "gpu" else "CPU", options)
    (entry,) = model.inputs
    shape = [side.get_length() if side.is_static else str(side) for side in entry.get_partial_shape()]
    return shape, [output.any_name for output in model.outputs], lambda images: model(images).to_tuple(), text
