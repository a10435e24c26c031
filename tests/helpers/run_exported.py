# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Run an exported file in a process of its own: ``run_exported.py MODEL INPUTS.npz OUTPUTS.npz``.

The inputs are batches by name, the outputs the model's by ``name/output``. Only a torch file may bring torch in.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

Run = Callable[[np.ndarray], dict[str, np.ndarray]]


def load_torch(path: Path) -> Run:
    import torch

    model = torch.load(path, weights_only=False)["model"].eval()
    return lambda images: {
        name: value.numpy() for name, value in model(torch.from_numpy(images))._asdict().items() if value is not None
    }


def load_onnx(path: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(None, {"input": images}), strict=True))


def load_openvino(path: Path) -> Run:
    import openvino

    model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda images: {next(iter(output.names)): value for output, value in model(images).items()}


if __name__ == "__main__":
    model_path, inputs, outputs = map(Path, sys.argv[1:])
    run = {".pt": load_torch, ".onnx": load_onnx, ".xml": load_openvino}[model_path.suffix](model_path)
    results = {
        f"{batch}/{name}": value for batch, images in np.load(inputs).items() for name, value in run(images).items()
    }
    if model_path.suffix != ".pt":
        assert "torch" not in sys.modules
    np.savez(outputs, **results)
