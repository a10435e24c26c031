# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The quickstart in Python: train on half of the synthetic categories, test on the other half."""

from anomalib.data import SyntheticDefects
from anomalib.engine import Engine
from lightning import seed_everything

from anomalib_genclip import CrossDataset, GenCLIP
from anomalib_genclip.demo.synthetic import SOURCE, TARGET

if __name__ == "__main__":
    seed_everything(0)
    data = CrossDataset(
        source=SyntheticDefects(),
        source_categories=list(SOURCE),
        target=SyntheticDefects(),
        target_categories=list(TARGET),  # never seen in prompt training
        train_batch_size=16,
        num_workers=0,
    )
    model = GenCLIP(backbone="tiny")
    engine = Engine(max_epochs=5)
    engine.train(model=model, datamodule=data)  # prints the figures per category and says where the report is
    prompts = model.save_weights("prompts.safetensors")
    print(f"What was learned: {prompts}, {prompts.stat().st_size / 1e6:.1f} MB. Try examples/predict_folder.py.")
