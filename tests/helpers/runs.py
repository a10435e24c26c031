# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""A small model and a quiet engine."""

from pathlib import Path

from anomalib.engine import Engine

from anomalib_genclip import GenCLIP

SETTINGS = {"backbone": "ViT-S-32-alt", "pretrained": None, "image_size": 64}


def build(**settings) -> GenCLIP:
    """Build a small model with random CLIP weights and without pictures."""
    return GenCLIP(**{**SETTINGS, "visualizer": False, **settings})


def engine(folder: Path, **settings) -> Engine:
    """Build a quiet engine on the CPU."""
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    return Engine(**{"default_root_dir": folder, "accelerator": "cpu", "devices": 1, **quiet, **settings})
