# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""A comparison of models on tiny data."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from anomalib import LearningType
from anomalib.data import InferenceBatch
from anomalib.models import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from torchvision.transforms.v2 import Compose, Resize

from anomalib_genclip.pipelines.comparison import compare
from helpers import data_trees

SMALL = {"backbone": "ViT-S-32-alt", "pretrained": None, "image_size": 64}
LOADING = {"num_workers": 0, "eval_batch_size": 4}
ROOT = Path(__file__).parents[2]


class DarkestChannel(torch.nn.Module):
    """The torch model of :class:`WhitestPixel`."""

    def forward(self, images):
        """Score each pixel by its darkest channel, ``(B, 3, H, W)`` to ``(B, 1, H, W)``."""
        maps = images.amin(dim=1, keepdim=True)
        return InferenceBatch(pred_score=maps.amax(dim=(1, 2, 3)), anomaly_map=maps)


class WhitestPixel(AnomalibModule):
    """A zero-shot model like anomalib's own: without ``val_dataloader`` of its own. White squares are its defects."""

    def __init__(self, evaluator=True, visualizer=True):
        super().__init__(evaluator=evaluator, visualizer=visualizer)
        self.model = DarkestChannel()

    def validation_step(self, batch, *_args, **_kwargs):
        """Predict."""
        return batch.update(**self.model(batch.image)._asdict())

    def training_step(self, *_args, **_kwargs):
        """Zero-shot models never train."""
        raise NotImplementedError

    def configure_optimizers(self):
        """None."""
        return

    @property
    def learning_type(self):
        """Zero-shot."""
        return LearningType.ZERO_SHOT

    @property
    def trainer_arguments(self):
        """None."""
        return {}

    @staticmethod
    def configure_pre_processor(image_size=None):
        """Leave images alone."""
        del image_size
        return PreProcessor(Compose([Resize((data_trees.SIZE, data_trees.SIZE))]))

    def configure_post_processor(self):
        """Anomalib's usual one."""
        return PostProcessor()


def mvtec(root, **settings) -> dict:
    """Settings of an MVTec AD datamodule."""
    return {"class_path": "MVTecAD", "init_args": {"root": str(root), **LOADING, **settings}}


@pytest.fixture(scope="session")
def comparison_data(tmp_path_factory) -> Path:
    """A source and a target with two categories."""
    root = tmp_path_factory.mktemp("data")
    data_trees.mvtec_ad(root / "source", ("cable",), normal=6, anomalous=6)
    data_trees.mvtec_ad(root / "target", ("bottle", "wood"))
    return root


def settings_for(data: Path, results: Path) -> dict:
    """Settings of a comparison of every protocol, with a model that cannot be built."""
    genclip = {"class_path": "GenCLIP", "init_args": SMALL}
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
                "model": genclip,
                "source": mvtec(data / "source"),
                "source_categories": ["cable"],
                "data": {"train_batch_size": 4, "num_workers": 0},
                "trainer": {"max_epochs": 1},
            },
            {"name": "whitest", "protocol": "zero_shot", "model": {"class_path": "WhitestPixel"}},
            {
                "name": "PatchCore",
                "protocol": "one_class",
                "model": {"class_path": "Patchcore", "init_args": {"backbone": "resnet18", "pre_trained": False}},
            },
            {
                "name": "absent",
                "protocol": "zero_shot",
                "model": {"class_path": "GenCLIP", "init_args": {"weights": str(results / "absent.safetensors")}},
            },
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
