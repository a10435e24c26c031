# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Compare the ways to run a trained GenCLIP on a processor: time, memory, size, and how far the maps differ.

    python examples/benchmark_serving.py --backbone ViT-B-16 --image_size 224
    python examples/benchmark_serving.py --backbone ViT-L-14-336 --image_size 518 --ways tower torch onnx

Weights are random and learned tensors are noise: neither changes the time. Each way runs in a process of its own, one
after the other, on the same image; "tower" is open_clip's bare ``encode_image``. Times are medians after a warm-up;
processor times hardly depend on what else the machine does. Set OMP_NUM_THREADS for fewer threads than cores.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from anomalib_genclip import GenCLIP
from anomalib_genclip.clip.backbone import backbone_spec, resolve_image_size

WAYS = {
    "tower": "open_clip's vision tower alone, float32",
    "torch": "torch, float32",
    "torch_bf16": "torch, bf16 autocast",
    "compile": "torch.compile, float32",
    "compile_bf16": "torch.compile, bf16 autocast",
    "onnx": "ONNX Runtime, float32",
    "openvino": "OpenVINO, float32",
    "openvino_bf16": "OpenVINO, bf16",
    "openvino_int8_weights": "OpenVINO, INT8 weights, float32",
    "openvino_int8": "OpenVINO, INT8",
}
WARM_UP = 2
CALIBRATION_IMAGES = 16  # enough for the time; for the accuracy take 300 of your own
Run = Callable[[np.ndarray], np.ndarray]


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="ViT-B-16")
    parser.add_argument("--image_size", type=int)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--streams", type=int, default=0, help="also OpenVINO's throughput with this many streams")
    parser.add_argument("--folder", type=Path, help="keeps the exported files, and uses those that are there")
    parser.add_argument("--json", action="store_true", help="print one JSON object per way instead of a table")
    parser.add_argument("--only", choices=[*WAYS, "export"], help=argparse.SUPPRESS)  # the processes
    return parser.parse_args()


def build(args: argparse.Namespace) -> GenCLIP:
    """Build a model whose learned tensors all count, the same in each process."""
    torch.manual_seed(0)
    model = GenCLIP(
        args.backbone, "random", args.image_size, class_name="bottle", visualizer=False, post_processor=False
    )
    with torch.no_grad():
        for name, value in model.model.named_parameters():
            if not name.startswith("clip."):
                value.add_(torch.randn_like(value) * 0.02)
    return model.eval()


def export(args: argparse.Namespace) -> None:
    """Write the files that are missing."""
    wanted = {way: path for way, path in files(args.folder).items() if way in args.ways and not path.exists()}
    onnx = files(args.folder)["onnx"]
    if wanted and not onnx.exists():
        build(args).to_onnx(args.folder)
    if not any(way.startswith("openvino") for way in wanted):
        return
    import nncf
    import openvino

    side = build_size(args)
    images = np.random.default_rng(1).random((CALIBRATION_IMAGES, 1, 3, side, side), dtype=np.float32)
    for way, path in wanted.items():
        if not way.startswith("openvino"):
            continue
        model = openvino.convert_model(onnx)
        if way == "openvino_int8_weights":
            model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
        if way == "openvino_int8":
            # SmoothQuant and asymmetric activations: what NNCF advises for transformers.
            kind = nncf.ModelType.TRANSFORMER
            model = nncf.quantize(model, nncf.Dataset(list(images)), subset_size=len(images), model_type=kind)
        openvino.save_model(model, path, compress_to_fp16=False)


def build_size(args: argparse.Namespace) -> int:
    """Return the side of the images."""
    return resolve_image_size(backbone_spec(args.backbone), args.image_size)[0]


def files(folder: Path) -> dict[str, Path]:
    """Return the exported file of each way that runs one."""
    names = {"openvino": "float32", "openvino_bf16": "float32"}
    ways = [way for way in WAYS if way.startswith("openvino")]
    paths = {way: folder / f"{names.get(way, way)}.xml" for way in ways}
    return {"onnx": folder / "weights" / "onnx" / "model.onnx", **paths}


def load(way: str, args: argparse.Namespace) -> Run:
    """Load one way of running the model: from an image ``(1, 3, H, W)`` to its map."""
    if way == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(files(args.folder)[way], options, providers=["CPUExecutionProvider"])
        (entry,) = session.get_inputs()
        return lambda image: session.run(["anomaly_map"], {entry.name: image})[0]
    if way.startswith("openvino"):
        import openvino

        hint = "bf16" if way == "openvino_bf16" else "f32"
        options = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        compiled = openvino.Core().compile_model(files(args.folder)[way], "CPU", options)
        return lambda image: compiled(image)["anomaly_map"].copy()
    model = build(args)
    if way == "tower":
        return lambda image: model.model.clip.model.encode_image(torch.from_numpy(image)).numpy()
    forward = torch.compile(model, fullgraph=True) if way.startswith("compile") else model

    def run(image: np.ndarray) -> np.ndarray:
        with torch.autocast("cpu", torch.bfloat16, enabled=way.endswith("bf16")):
            return forward(torch.from_numpy(image)).anomaly_map.float().numpy()

    return run


def measure(way: str, args: argparse.Namespace) -> dict[str, float]:
    """Measure one way, and leave its map in the folder."""
    side = build_size(args)
    image = np.random.default_rng(0).random((1, 3, side, side), dtype=np.float32)
    with torch.no_grad():
        run = load(way, args)
        for _ in range(WARM_UP):
            result = run(image)
        elapsed, worked = [], []
        for _ in range(args.repetitions):
            started, busy = time.perf_counter(), time.process_time()
            run(image)
            elapsed.append(1000 * (time.perf_counter() - started))
            worked.append(1000 * (time.process_time() - busy))
    np.save(args.folder / f"{way}.npy", result)
    figures = {
        "ms": statistics.median(elapsed),
        "processor_ms": statistics.median(worked),
        "processor_ms_lowest": min(worked),
        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
    }
    if path := files(args.folder).get(way):
        figures["size_mb"] = sum(file.stat().st_size for file in path.parent.glob(f"{path.stem}.*")) / 1e6
    if args.streams and way.startswith("openvino"):
        figures["images_per_second"] = throughput(files(args.folder)[way], image, way, args)
    return figures


def throughput(path: Path, image: np.ndarray, way: str, args: argparse.Namespace) -> float:
    """Run images in several streams and return how many a second takes."""
    import openvino

    hint = "bf16" if way == "openvino_bf16" else "f32"
    options = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": args.streams}
    queue = openvino.AsyncInferQueue(openvino.Core().compile_model(path, "CPU", options), args.streams)
    for _ in range(args.streams):
        queue.start_async(image)
    queue.wait_all()
    started = time.perf_counter()
    for _ in range(args.repetitions * args.streams):
        queue.start_async(image)
    queue.wait_all()
    return args.repetitions * args.streams / (time.perf_counter() - started)


def in_own_process(only: str, args: argparse.Namespace) -> str:
    """Run this script for one way and return what it prints."""
    command = [sys.executable, __file__, *sys.argv[1:], "--folder", str(args.folder), "--only", only]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ).stdout  # noqa: S603


def main() -> None:
    """Measure and print."""
    args = parse()
    if args.only:
        args.folder.mkdir(parents=True, exist_ok=True)
        print(json.dumps(export(args) if args.only == "export" else measure(args.only, args)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        args.folder = args.folder or Path(temporary)
        in_own_process("export", args)
        rows = {way: json.loads(in_own_process(way, args).splitlines()[-1]) for way in args.ways}
        maps = {way: np.load(args.folder / f"{way}.npy") for way in args.ways if way != "tower"}
    for way, row in rows.items():
        if "torch" in maps and way in maps:
            row["largest_map_difference"] = float(np.abs(maps[way] - maps["torch"]).max())
        if "tower" in rows:
            row["relative_to_tower"] = row["processor_ms"] / rows["tower"]["processor_ms"]
    if args.json:
        for way, row in rows.items():
            print(json.dumps({"way": WAYS[way], **row}))
        return
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    table = Table("way", *columns)
    for way, row in rows.items():
        table.add_row(WAYS[way], *(f"{row[key]:.4g}" if key in row else "" for key in columns))
    Console(width=200).print(table)


if __name__ == "__main__":
    main()
