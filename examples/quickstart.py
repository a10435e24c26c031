# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The quickstart in Python: train on half of the synthetic categories, test on the other half.

python examples/quickstart.py            # one run, as `make quickstart`
python examples/quickstart.py --seeds 3  # mean and standard deviation of three
"""

import argparse

import pandas as pd
from anomalib.data import SyntheticDefects
from anomalib.engine import Engine

from anomalib_genclip import CrossDataset, GenCLIP
from anomalib_genclip.demo.synthetic import SOURCE, TARGET


def run(seed: int, pretrained: str) -> dict[str, float]:
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
    # Prints the metrics per category and says where the report is.
    Engine(max_epochs=5).train(model=model, datamodule=data)
    print(f"What was learned: {model.save_weights(f'prompts_{seed}.safetensors')}")
    return {name: 100 * value for name, value in model.evaluator.result.mean.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument(
        "--pretrained", default="openai", help="CLIP weights for the backbone tiny; bundled if left out"
    )
    args = parser.parse_args()
    table = pd.DataFrame([run(seed, args.pretrained) for seed in range(args.seeds)])
    print(table.agg(["mean", "std"]).round(1).to_string())
