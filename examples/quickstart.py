# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The quickstart in Python: train on half of the synthetic categories, test on the other half.

python examples/quickstart.py            # one run, as `make quickstart`
python examples/quickstart.py --seeds 3  # mean and standard deviation of three
"""

import argparse
from pathlib import Path

import pandas as pd
from anomalib.data import SyntheticDefects
from anomalib.engine import Engine

from anomalib_genclip import CrossDataset, GenCLIP
from anomalib_genclip.demo.synthetic import SOURCE, TARGET
from anomalib_genclip.utils.messages import quiet_screen


def run(seed: int, pretrained: str | None) -> dict[str, float]:
    """Train and test once; write the prompts, and return the mean metrics over the unseen categories in percent."""
    data = CrossDataset(
        source=SyntheticDefects(),
        source_categories=list(SOURCE),
        target=SyntheticDefects(),
        target_categories=list(TARGET),  # unseen in training
        train_batch_size=16,
        num_workers=0,
    )
    model = GenCLIP(backbone="tiny", pretrained=pretrained, seed=seed)
    engine = Engine(max_epochs=5)
    engine.train(model=model, datamodule=data)  # prints the metrics per category, and where the result images are
    folder = Path(engine.trainer.default_root_dir)
    print(f"Prompts: {model.save_weights(f'prompts_{seed}.safetensors')}")
    print(f"Report: {folder / 'metrics.md'}")
    return {name: 100 * value for name, value in model.evaluator.result.mean.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--pretrained", help="CLIP weights for the backbone tiny; bundled if left out")
    args = parser.parse_args()
    quiet_screen()
    table = pd.DataFrame([run(seed, args.pretrained) for seed in range(args.seeds)])
    if args.seeds > 1:
        print(table.agg(["mean", "std"]).round(1).to_string())
