# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Measure exported models on your own data: metrics per category, file size, speed.

The data must have MVTec AD's layout. The other models are compared with the first one.

Example:
    python measure_export.py float32/model.xml int8/model.xml --root ./datasets/MVTecAD --categories bottle cable
"""

import argparse
import time
from pathlib import Path
from statistics import median

import numpy as np
import openvino
import torch
from anomalib.data import MVTecAD
from rich.progress import track
from torch import Tensor
from torchvision.transforms.v2.functional import InterpolationMode, resize

from anomalib_genclip.evaluation import METRIC_NAMES, EvaluationResult
from anomalib_genclip.evaluation.scores import CategoryScores

SHOWN = ("image_AUROC", "image_AP", "pixel_AUROC", "pixel_AUPRO", "pixel_AP")


def load(path: Path, precision: str) -> openvino.CompiledModel:
    """Load an OpenVINO or ONNX file for the CPU."""
    return openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": precision})


def megabytes(path: Path) -> float:
    """Compute the size of all files of a model: the graph and its weights."""
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.stem}.*")) / 1e6


def fit_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a mask ``(H, W)`` to the anomaly map's size, as the model's pre-processor does."""
    return resize(mask[None].float(), list(size), InterpolationMode.NEAREST)[0].bool()


def measure_category(model: openvino.CompiledModel, data: MVTecAD, title: str) -> tuple[dict[str, float], list[float]]:
    """Run a model on a category's test images, one by one.

    Args:
        model (openvino.CompiledModel): The model.
        data (MVTecAD): The category.
        title (str): Title of the progress bar.

    Returns:
        tuple[dict[str, float], list[float]]: Values by metric, and the processor time of each image in seconds, summed
            over all threads; other programs on the machine hardly affect it.
    """
    data.setup()
    scores, seconds = CategoryScores(), []
    for item in track(data.test_data, title):
        image = np.ascontiguousarray(item.image[None], np.float32)
        start = time.process_time()
        result = {next(iter(output.names)): value for output, value in model(image).items()}
        seconds.append(time.process_time() - start)
        anomaly_map = torch.from_numpy(result["anomaly_map"].copy()).squeeze()
        mask = item.gt_mask if item.gt_mask is not None else torch.zeros(image.shape[-2:])
        scores.add(
            str(item.image_path),
            score=float(result["pred_score"].squeeze()),
            label=bool(item.gt_label),
            anomaly_map=anomaly_map,
            mask=fit_mask(mask.squeeze(), tuple(anomaly_map.shape)),
        )
    return scores.compute_metrics()[0], seconds


def main() -> None:
    """Parse the command line, measure all models and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+", help="exported .xml or .onnx files, the reference first")
    parser.add_argument("--root", type=Path, required=True, help="folder with the categories")
    parser.add_argument("--categories", nargs="+", required=True, help="names of the categories' folders")
    parser.add_argument("--precision", default="f32", help="OpenVINO's precision: f32, bf16, f16 (%(default)s)")
    arguments = parser.parse_args()

    rows: list[str] = []
    reference: dict[str, dict[str, float]] = {}
    for path in arguments.models:
        model, result, seconds = load(path, arguments.precision), EvaluationResult({}), []
        for category in arguments.categories:
            data = MVTecAD(root=arguments.root, category=category)
            result.categories[category], took = measure_category(model, data, f"{path}: {category}")
            seconds += took
        speed = f"{megabytes(path):.1f} | {1000 * median(seconds):.1f}"
        for name, metrics in [*result.categories.items(), ("mean", result.mean)]:
            values = {metric: 100 * metrics[metric] for metric in METRIC_NAMES if metric in metrics}
            base = reference.setdefault(name, values)
            cells = [f"{values[m]:.1f} ({values[m] - base[m]:+.1f})" if m in values else "-" for m in SHOWN]
            rows.append(f"| {path} | {name} | {speed} | {' | '.join(cells)} |")
    head = ["model", "category", "MB", "CPU ms per image", *SHOWN]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
