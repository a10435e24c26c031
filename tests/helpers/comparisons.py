# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""A comparison of models on tiny data."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from anomalib import LearningType
from anomalib.models import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from torchvision.transforms.v2 import Resize

from anomalib_genclip.pipelines.comparison import compare
from helpers import data_trees

SMALL = {"backbone": "tiny", "image_size": 32}
LOADING = {"num_workers": 0, "eval_batch_size": 4}
ROOT = Path(__file__).parents[2]
GENCLIP = {"class_path": "GenCLIP", "init_args": SMALL}
PATCHCORE = {"class_path": "Patchcore", "init_args": {"backbone": "resnet18", "pre_trained": False}}


class WhitestPixel(AnomalibModule):
    """A zero-shot model like anomalib's own: without ``val_dataloader`` of its own. White squares are its defects."""

    learning_type = LearningType.ZERO_SHOT
    trainer_arguments = {}  # noqa: RUF012

    def __init__(self):
        super().__init__()
        self.model = torch.nn.Identity()  # anomalib looks for it

    def validation_step(self, batch, *_args, **_kwargs):
        """Score each pixel by its darkest channel."""
        maps = batch.image.amin(dim=1, keepdim=True)
        return batch.update(pred_score=maps.amax(dim=(1, 2, 3)), anomaly_map=maps)

    test_step = validation_step

    @staticmethod
    def configure_pre_processor(image_size=None):
        """Leave images alone."""
        del image_size
        return PreProcessor(Resize((data_trees.SIZE, data_trees.SIZE)))

    def configure_post_processor(self):
        """Anomalib's usual one."""
        return PostProcessor()


def mvtec(root, **settings) -> dict:
    return {"class_path": "MVTecAD", "init_args": {"root": str(root), **LOADING, **settings}}


@pytest.fixture(scope="session")
def comparison_data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    data_trees.mvtec_ad(root / "source", ("cable",), normal=6, anomalous=6)
    data_trees.mvtec_ad(root / "target", ("bottle", "wood"))
    return root


def settings_for(data: Path, results: Path) -> dict:
    """Settings of a comparison of every protocol, with a model that cannot be built."""
    absent = {"class_path": "GenCLIP", "init_args": {"weights": str(results / "absent.safetensors")}}
    return {
        "results_dir": str(results),
        "accelerator": "cpu",
        "isolate": False,
        "seed": 1,
        "target": mvtec(data / "target"),
        "target_categories": "all",
        "models": [
            {
                "name": "GenCLIP",
                "protocol": "cross_dataset",
                "model": GENCLIP,
                "source": mvtec(data / "source"),
                "source_categories": ["cable"],
                "data": {"train_batch_size": 4, "num_workers": 0},
                "trainer": {"max_epochs": 1},
            },
            {"name": "whitest", "protocol": "zero_shot", "model": {"class_path": "WhitestPixel"}},
            {"name": "PatchCore", "protocol": "one_class", "model": PATCHCORE},
            {"name": "absent", "protocol": "zero_shot", "model": absent},
        ],
    }


@pytest.fixture(scope="session")
def compared(comparison_data, tmp_path_factory):
    """One comparison: settings, folder and tables."""
    results = tmp_path_factory.mktemp("results")
    settings = settings_for(comparison_data, results)
    return SimpleNamespace(settings=settings, folder=results, tables=compare(settings))


def rows_of(tables, model: str) -> list[dict]:
    return [row for row in tables.rows if row["model"] == model]
