# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Checks of an installation: versions, devices, weights, and a self-test."""

import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import open_clip
import torch
from huggingface_hub import constants
from rich.console import Console
from rich.table import Table

from anomalib_genclip import Inferencer, __version__
from anomalib_genclip.clip.backbone import DEFAULT_BACKBONE, DEFAULT_PRETRAINED
from anomalib_genclip.demo.synthetic import render
from anomalib_genclip.utils.devices import bf16_is_fast
from anomalib_genclip.utils.files import why_unreadable

_REQUIRED = ("anomalib", "torch", "torchvision", "open_clip_torch", "lightning")
_EXTRAS = {"export": ("onnxruntime", "openvino"), "scale": ("ray",), "app": ("gradio",)}
_EXPECTED_SCORE = 0.7635
_TOLERANCE = 0.01  # versions of the packages that render and resize differ in the third decimal


def examine() -> bool:
    """Run all checks, print a table of what they find, and return whether all have passed; each may fail alone."""
    table, passed = Table(box=None, show_header=False, pad_edge=False), True
    for name, check in _CHECKS.items():
        try:
            table.add_row(name, "ok", check())
        except Exception as error:  # noqa: BLE001, PERF203  # whatever is broken must be shown as one line
            passed = False
            table.add_row(name, "FAILED", f"{type(error).__name__}: {why_unreadable(error)}")
    Console().print(table, markup=False, highlight=False)
    return passed


def _system() -> str:
    return f"anomalib-genclip {__version__}, Python {platform.python_version()}, {platform.platform(terse=True)}"


def _version(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"{name} not installed"


def _registration() -> str:
    from anomalib.models import get_model

    return f"anomalib finds {type(get_model('GenCLIP', backbone='tiny')).__name__} by its name"


def _devices() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return f"{cores} CPU cores, {torch.get_num_threads()} threads; {', '.join(gpus) or 'no CUDA GPU'}"


def _precision() -> str:
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    chosen = "bf16, which is fast" if bf16_is_fast(device) else "float32, because bf16 is not fast"
    return f"`genclip predict` computes in {chosen} on this {device.type}"


def _clip_weights() -> str:
    config = open_clip.get_pretrained_cfg(DEFAULT_BACKBONE, DEFAULT_PRETRAINED)
    repo = "--".join(["models", *config.get("hf_hub", "").split("/")[:2]])
    cached = [
        *Path(constants.HF_HUB_CACHE, repo).glob("snapshots/*/*"),
        *Path("~/.cache/clip").expanduser().glob(Path(config.get("url", "none")).name),
    ]
    where = f"in the cache: {cached[0]}" if cached else "not in the cache; they are downloaded when first used"
    return f"{DEFAULT_BACKBONE} {DEFAULT_PRETRAINED}: {where}"


def _self_test() -> str:
    pixels, _ = render("leather", "hole", 320, np.random.default_rng(9))
    inferencer = Inferencer("tiny-demo", "leather", "cpu", "float32")
    start = time.perf_counter()
    score = inferencer.predict(pixels).score
    milliseconds = 1000 * (time.perf_counter() - start)
    found = f"score {score:.4f} of a rendered image, expected {_EXPECTED_SCORE:.4f}"
    if abs(score - _EXPECTED_SCORE) > _TOLERANCE:
        raise ValueError(found)
    return f"{found}; {milliseconds:.0f} ms with tiny-demo"


_CHECKS: dict[str, Callable[[], str]] = {
    "system": _system,
    "packages": lambda: ", ".join(f"{name} {version(name)}" for name in _REQUIRED),
    "extras": lambda: "; ".join(f"{extra}: {', '.join(map(_version, names))}" for extra, names in _EXTRAS.items()),
    "anomalib": _registration,
    "devices": _devices,
    "precision": _precision,
    "CLIP weights": _clip_weights,
    "self-test": _self_test,
}
