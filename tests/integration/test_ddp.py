# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Distributed training and testing with two CPU processes."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from anomalib.data import ImageBatch
from helpers import data_trees
from helpers.runs import QUIET, SETTINGS
from lightning.pytorch import Callback, Trainer
from PIL import Image
from torch.utils.data import DataLoader

from anomalib_genclip import CrossDataset, GenCLIP

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _one_thread_in_processes(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def anomalib(*arguments: object, cwd: Path) -> str:
    command = [sys.executable, "-m", "anomalib.cli.cli", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    data_trees.mvtec_ad(folder / "source", ("cable", "tile"), normal=3, anomalous=3)
    data_trees.mvtec_ad(folder / "target", ("bottle", "wood"), normal=3, anomalous=2)
    data_trees.write_normal(folder / "target/bottle/test/good/odd.png", seed=9)  # 11 images: one is repeated
    parts = {name: {"class_path": "MVTecAD", "init_args": {"root": name}} for name in ("source", "target")}
    config = {
        "model": {"class_path": "GenCLIP", "init_args": {**SETTINGS, "training": {"feature_cache": "cache"}}},
        "data": {
            "class_path": "CrossDataset",
            "init_args": {
                **parts,
                "source_categories": ["cable", "tile"],
                "target_categories": ["bottle", "wood"],
                "train_batch_size": 2,
                "eval_batch_size": 2,
                "num_workers": 0,
            },
        },
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    distributed = ("--trainer.devices", 2, "--trainer.strategy", "ddp")
    printed = anomalib("train", "--config", "config.yaml", "--default_root_dir", "results", *distributed, cwd=folder)
    results = folder / "results" / "GenCLIP" / "MVTecAD_to_MVTecAD"
    return SimpleNamespace(folder=folder, results=results, config=config, printed=printed)


def test_command_line_writes_everything_once(trained):
    assert {path.name for path in trained.results.iterdir()} == {"v0", "latest"}
    assert (trained.results / "latest").resolve() == (trained.results / "v0").resolve()
    files = {path.relative_to(trained.results / "v0") for path in (trained.results / "v0").rglob("*.*")}
    names = Counter(path.name for path in files if path.parts[0] != "images")
    report = {f"metrics.{end}": 1 for end in ("csv", "json", "md", "png")}
    assert names == {"config.yaml": 1, "model.ckpt": 1, "prompts.safetensors": 1, **report}
    pictures = [path for path in files if path.suffix == ".png" and path.parts[0] == "images"]
    assert len(pictures) == 11
    assert trained.printed.count("Test metrics in percent") == 1
    for path in pictures:
        with Image.open(trained.results / "v0" / path) as image:
            image.verify()


def test_metrics_equal_those_of_one_process(trained):
    checkpoint = trained.results / "v0/weights/lightning/model.ckpt"
    config = {**trained.config, "trainer": {**trained.config["trainer"], "devices": 1}}
    (trained.folder / "alone.yaml").write_text(yaml.safe_dump(config))
    anomalib(
        *("test", "--config", "alone.yaml", "--default_root_dir", "alone", "--ckpt_path", checkpoint),
        cwd=trained.folder,
    )
    alone = json.loads(next((trained.folder / "alone").rglob("metrics.json")).read_text())["rows"]
    both = json.loads((trained.results / "v0/metrics.json").read_text())["rows"]
    assert [row["category"] for row in both] == ["bottle", "wood", "mean"]
    for one, other in zip(alone, both, strict=True):
        assert other == pytest.approx(one, abs=1e-6)


def test_processes_share_one_feature_cache(trained):
    source = CrossDataset(
        source=data_trees.MVTecAD(root=trained.folder / "source", category="cable"),
        source_categories=["cable", "tile"],
        target=data_trees.MVTecAD(root=trained.folder / "target", category="bottle"),
    )
    source.setup()
    assert len(list((trained.folder / "cache").rglob("*.*"))) == len(source.train_data) + len(source.val_data)


class Note(Callback):
    """Write down each process's parameters, table of class names and drawn pictures."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.categories: set[str] = set()

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        """Write down what the process was given."""
        del trainer, pl_module, batch_idx
        self.categories.update(batch.category)

    def on_train_end(self, trainer, pl_module):
        """Write the note."""
        table = pl_module.model.class_names
        note = {
            "learned": {name: p.detach().clone() for name, p in pl_module.named_parameters() if p.requires_grad},
            "categories": self.categories,
            "names": table.names,
            "features": table.features.clone(),
            "prompts": pl_module.save_weights(self.folder / f"rank{trainer.global_rank}.safetensors"),
        }
        torch.save(note, self.folder / f"rank{trainer.global_rank}.pt")


class Unequal(CrossDataset):
    """Gives each process a category of its own, so that their tables of class names differ."""

    def train_dataloader(self):
        """Only this process's category."""
        rows = self.train_data.samples.groupby("category").indices[("cable", "tile")[self.trainer.global_rank]]
        return DataLoader(self.train_data, batch_size=2, sampler=rows.tolist(), collate_fn=self.train_data.collate_fn)


def test_processes_end_with_equal_weights_and_right_class_names(tmp_path):
    data_trees.mvtec_ad(tmp_path / "data", ("cable", "tile"), normal=3, anomalous=3)
    data = Unequal(
        source=data_trees.MVTecAD(root=tmp_path / "data", category="cable"),
        source_categories=["cable", "tile"],
        target=data_trees.MVTecAD(root=tmp_path / "data", category="cable"),
        train_batch_size=2,
        eval_batch_size=2,
        num_workers=0,
    )
    model = GenCLIP(**SETTINGS, visualizer=False, evaluator=False)
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    trainer = Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        devices=2,
        strategy="ddp_spawn",
        max_epochs=2,
        callbacks=[Note(tmp_path)],
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        **QUIET,
    )
    trainer.fit(model, datamodule=data)
    notes = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=False) for rank in range(2)]
    assert [note["categories"] for note in notes] == [{"cable"}, {"tile"}]
    for name, value in notes[0]["learned"].items():
        assert torch.equal(value, notes[1]["learned"][name]), name
    assert not torch.equal(notes[0]["learned"]["model.prompts.normal"], before["model.prompts.normal"])
    for note in notes:
        for name, feature in zip(note["names"], note["features"], strict=True):
            article = "an" if name == "object" else "a"
            expected = model.model.clip.encode_texts([f"a photo of {article} {name}"])[0]
            torch.testing.assert_close(feature, expected, msg=f"{note['names']}: {name}")
    assert [note["prompts"].exists() for note in notes] == [True, False]  # the first process writes


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"training": {"query_only_prob": 1.0}},
        {"training": {"query_only_prob": 0.0, "image_loss_weight": 0.0}},
        {"branches": "query"},
    ],
)
def test_every_learned_parameter_has_a_part_in_the_loss(settings):
    """Or else the processes would wait for its gradient, and plain ``ddp`` would stop with an error."""
    model = GenCLIP(**SETTINGS, **settings)
    model.log = lambda *_, **__: None
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    batch = ImageBatch(image=torch.rand(2, 3, 64, 64), gt_mask=masks, gt_label=torch.tensor([0, 1]))
    model.training_step(batch)["loss"].backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
