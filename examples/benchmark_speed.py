# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Measure GenCLIP against the vision tower of its backbone, in one run.

    python examples/benchmark_speed.py --backbone ViT-L-14-336 --image_size 518 --batch_size 1
    python examples/benchmark_speed.py --device cuda --batch_size 1 8 32 --precision fp32 tf32 bf16 --json

Weights are random unless --pretrained is given; they do not change the time. Times are medians over repetitions in
which the two alternate, after a warm-up; the ratio is the median, with its quartiles, of the repetitions' ratios. On
the CPU it is one of processor times, which other programs hardly change, and memory is that of separate processes. On
a GPU, memory is what torch allocates at most, weights included, and a large matrix product shows what rate of
floating-point operations the device reaches.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, get_args
from unittest import mock

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from anomalib_genclip.clip.backbone import load_clip
from anomalib_genclip.clip.frozen_clip import ImageTokens, PatchAttention
from anomalib_genclip.components.loss import GenCLIPLoss
from anomalib_genclip.model_settings import ModelSettings
from anomalib_genclip.pipelines.jobs import peak_memory_mib
from anomalib_genclip.torch_model import GenCLIPModel

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune")
MATRIX = 8192  # side of the matrices of the large product
WARM_UP = 2
PEERS = ("winclip", "patchcore", "anomaly_dino")
BANK = 10_000  # patches in the memory banks: a tenth of those of 100 images with PatchCore's 32 x 32
Step = Callable[[], Any]


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="ViT-L-14-336")
    parser.add_argument("--pretrained", default="random", help="an open_clip tag or a file (%(default)s)")
    parser.add_argument("--image_size", type=int)
    parser.add_argument("--patch_attention", choices=get_args(PatchAttention))
    parser.add_argument("--batch_size", type=int, nargs="+", default=[1])
    parser.add_argument("--precision", choices=DTYPES, nargs="+", default=["fp32"], help="tf32 is float32 on a GPU")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", nargs="?", const="default", choices=COMPILE_MODES, help="torch.compile both")
    parser.add_argument("--train", action="store_true", help="a training step instead of inference")
    parser.add_argument("--cached", action="store_true", help="with --train: from features, as with feature_cache")
    parser.add_argument(
        "--against", nargs="+", choices=PEERS, default=[], help="also anomalib's models, each against its own tower"
    )
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print a JSON object per line instead of tables")
    parser.add_argument("--only", choices=["backbone", "genclip"], help=argparse.SUPPRESS)  # the memory processes
    return parser.parse_args()


def settings_of(args: argparse.Namespace) -> ModelSettings:
    """Return the model's settings."""
    names = ("pretrained", "image_size", "patch_attention")
    return ModelSettings.resolve(args.backbone, **{name: getattr(args, name) for name in names})


def build(args: argparse.Namespace) -> GenCLIPModel:
    """Build the model."""
    torch.manual_seed(0)
    settings = settings_of(args)
    clip = load_clip(settings.spec, settings.pretrained, settings.image_size)
    return GenCLIPModel(clip, settings).to(args.device).eval()


def steps_of(model: GenCLIPModel, args: argparse.Namespace, batch_size: int, precision: str) -> dict[str, Step]:
    """Build the functions to measure."""
    model.eval()
    images = torch.randn(batch_size, 3, *model.image_size, device=args.device)
    index = model.class_index(["bottle"] * batch_size)
    encode: Step = model.clip.model.encode_image
    forward: Step = model
    if args.compile:
        encode = torch.compile(encode, mode=args.compile, dynamic=False)
        forward = torch.compile(model, mode=args.compile, dynamic=False, fullgraph=True)
    steps = {"backbone": lambda: encode(images), "genclip": lambda: forward(images, index)}
    if args.train:
        tokens = model.clip.encode_image(images)
        steps["genclip"] = training_step(model, tokens if args.cached else images, index)
    trained = {"genclip"} if args.train else set()
    return {name: in_precision(step, precision, args.device, grad=name in trained) for name, step in steps.items()}


def bare_tower(args: argparse.Namespace, batch_size: int, precision: str) -> Step:
    """Build open_clip's model alone, at the same image size."""
    settings = settings_of(args)
    tower = load_clip(settings.spec, settings.pretrained, settings.image_size).to(args.device).eval()
    images = torch.randn(batch_size, 3, *settings.image_size, device=args.device)
    return in_precision(lambda: tower.encode_image(images), precision, args.device)


def training_step(model: GenCLIPModel, images: torch.Tensor | ImageTokens, index: torch.Tensor) -> Step:
    """Forward, loss, backward and the optimiser's step."""
    model.train()
    loss = GenCLIPLoss(image_weight=0.5)
    optimizer = torch.optim.Adam([parameter for parameter in model.parameters() if parameter.requires_grad])
    mask = torch.zeros(len(index), *model.image_size, device=index.device)
    mask[:, :64, :64] = 1

    def step() -> None:
        value = loss(*model.training_logits(images, index), mask)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()

    return step


def in_precision(step: Step, precision: str, device: str, *, grad: bool = False) -> Step:
    """Run a step under autocast, without autograd unless it trains."""
    dtype, kind = DTYPES[precision], torch.device(device).type

    def run() -> Any:  # noqa: ANN401
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        with torch.set_grad_enabled(grad), torch.autocast(kind, dtype, enabled=dtype != torch.float32):
            return step()

    return run


def milliseconds(step: Step, device: str) -> tuple[float, float]:
    """Measure one call: elapsed time, and processor time of all threads; on a GPU twice the former."""
    if torch.device(device).type != "cuda":
        started, worked = time.perf_counter(), time.process_time()
        step()
        return 1000 * (time.perf_counter() - started), 1000 * (time.process_time() - worked)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    step()
    end.record()
    torch.cuda.synchronize()
    return (begin.elapsed_time(end),) * 2


def alternate(steps: dict[str, Step], device: str, repetitions: int) -> dict[str, list[tuple[float, float]]]:
    """Measure the steps alternately."""
    for step in steps.values():
        for _ in range(WARM_UP):
            step()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for _ in range(repetitions):
        for name, step in steps.items():
            times[name].append(milliseconds(step, device))
    return times


def compare(times: dict[str, list[tuple[float, float]]], name: str, batch_size: int) -> dict[str, Any]:
    """Summarize the times of a step and of its vision tower."""
    (own, own_work), (tower, tower_work) = (zip(*times[key], strict=True) for key in (name, "backbone"))
    ratios = [a / b for a, b in zip(own_work, tower_work, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {
        "backbone_ms": statistics.median(tower),
        f"{name}_ms": statistics.median(own),
        "backbone_processor_ms": statistics.median(tower_work),
        f"{name}_processor_ms": statistics.median(own_work),
        "ratio_to_backbone": middle,
        "ratio_quartiles": [round(low, 3), round(high, 3)],
        "images_per_second": 1000 * batch_size / statistics.median(own),
    }


def peer_steps(name: str, device: str) -> dict[str, Step]:
    """Build a model of anomalib at its own image size, with random weights and memory bank, and its vision tower.

    The models always load pretrained weights; random ones take the same time and need no download.
    """
    import open_clip
    import timm

    if name == "winclip":
        from anomalib.models.image.winclip.torch_model import WinClipModel

        create = open_clip.create_model_and_transforms
        with mock.patch.object(open_clip, "create_model_and_transforms", lambda name, **_: create(name)):
            model = WinClipModel(class_name="bottle").to(device).eval()
        images = torch.randn(1, 3, 240, 240, device=device)
        return {"backbone": lambda: model.clip.encode_image(images), name: lambda: model(images)}
    create = timm.create_model

    def untrained(*args, **kwargs) -> torch.nn.Module:
        return create(*args, **kwargs | {"pretrained": False})

    with mock.patch.object(timm, "create_model", untrained):
        if name == "patchcore":
            from anomalib.models.image.patchcore.torch_model import PatchcoreModel

            model, side, width = PatchcoreModel(layers=["layer2", "layer3"]), 256, 1536
            tower = model.feature_extractor
        else:
            from anomalib.models.image.anomaly_dino.torch_model import AnomalyDINOModel

            model, side, width = AnomalyDINOModel(), 252, 384
            tower = model.feature_encoder
    model.memory_bank = torch.nn.functional.normalize(torch.randn(BANK, width), dim=1)
    model.to(device).eval()
    images = torch.randn(1, 3, side, side, device=device)
    return {"backbone": lambda: tower(images), name: lambda: model(images)}


def resident_memory(which: str, batch_size: int, precision: str) -> float | None:
    """Measure the peak memory of one of the two on the CPU in MiB, in a process of its own."""
    own = ["--only", which, "--batch_size", str(batch_size), "--precision", precision]
    command = [sys.executable, __file__, *sys.argv[1:], *own]
    result = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603  # this very script
    return json.loads(result.stdout.splitlines()[-1])


def measure_resident_memory(args: argparse.Namespace) -> float | None:
    """Run the step in the process for it and return the peak in MiB."""
    which, of = args.only, (args, args.batch_size[0], args.precision[0])
    step = bare_tower(*of) if which == "backbone" else steps_of(build(args), *of)[which]
    for _ in range(WARM_UP):
        step()
    return peak_memory_mib(torch.device("cpu"))


def allocated_memory(step: Step) -> float | None:
    """Measure the peak of the memory that torch has allocated on the GPU in MiB."""
    torch.cuda.reset_peak_memory_stats()
    step()
    return peak_memory_mib(torch.device("cuda"))


def operations(model: GenCLIPModel, precision: str) -> dict[str, float]:
    """Count the floating-point operations for one image, in units of 10^12, of vision tower and GenCLIP."""
    images = torch.randn(1, 3, *model.image_size, device=model.sos.device)
    index = model.class_index(["bottle"])
    # Through this package's block, because the counter does not know the fast path of torch's attention.
    steps: dict[str, Step] = {
        "backbone": lambda: model.clip.encode_image(images),
        "genclip": lambda: model(images, index),
    }
    counts = {}
    for name, step in steps.items():
        with FlopCounterMode(display=False) as counter:
            in_precision(step, precision, str(images.device))()
        counts[name] = counter.get_total_flops() / 1e12
    return counts


def matrix_product_rate(precision: str) -> float:
    """Measure the rate of a large matrix product on the GPU in TFLOP/s, the median of ten."""
    left, right = torch.randn(2, MATRIX, MATRIX, device="cuda", dtype=DTYPES[precision])
    times = alternate({"product": in_precision(lambda: left @ right, precision, "cuda")}, "cuda", 10)["product"]
    return 2 * MATRIX**3 / statistics.median(time for time, _ in times) / 1e9


def measure(model: GenCLIPModel, args: argparse.Namespace, batch_size: int, precision: str) -> dict[str, Any]:
    """Measure one batch size and precision."""
    on_gpu = torch.device(args.device).type == "cuda"
    names = ("backbone", "genclip")
    steps = steps_of(model, args, batch_size, precision)
    times = alternate(steps, args.device, args.repetitions)
    peaks = {
        name: allocated_memory(steps[name]) if on_gpu else resident_memory(name, batch_size, precision)
        for name in names
    }
    result = {
        "device": torch.cuda.get_device_name() if on_gpu else f"{torch.get_num_threads()} CPU threads",
        "backbone": args.backbone,
        "image_size": list(model.image_size),
        "batch": batch_size,
        "precision": precision,
        "compile": args.compile,
        "mode": ("cached training" if args.cached else "training") if args.train else "inference",
        **compare(times, "genclip", batch_size),
        "peak_memory_mb": peaks["genclip"],
        "backbone_peak_memory_mb": peaks["backbone"],
    }
    if on_gpu and not args.train:
        for name, count in operations(model, precision).items():
            result[f"{name}_tflops"] = count * batch_size / result[f"{name}_ms"] * 1000
        result["matrix_product_tflops"] = matrix_product_rate(precision)
    return result


def show(result: dict[str, Any], *, as_json: bool) -> None:
    """Print a result."""
    if as_json:
        print(json.dumps(result), flush=True)
        return
    table = Table("measure", "value")
    for key, value in result.items():
        table.add_row(key, f"{value:.2f}" if isinstance(value, float) else str(value))
    Console().print(table)


def main() -> None:
    """Measure and print."""
    args = parse()
    if args.only:
        print(json.dumps(measure_resident_memory(args)))
        return
    model = build(args)
    for precision in args.precision:
        for batch_size in args.batch_size:
            show(measure(model, args, batch_size, precision), as_json=args.json)
    for name in args.against:
        with torch.no_grad():
            times = alternate(peer_steps(name, args.device), args.device, args.repetitions)
        show({"model": name, **compare(times, name, 1)}, as_json=args.json)


if __name__ == "__main__":
    main()
