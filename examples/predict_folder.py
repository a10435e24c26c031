# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Predict on a folder of your own images.

    python examples/predict_folder.py path/to/images --weights prompts.safetensors --class-name "bottle cap"

Prints the score of each image and writes it to scores.csv immediately; visualizations are written to results/.
"""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

from anomalib.data import ImageBatch
from anomalib.engine import Engine
from lightning.pytorch import Callback, Trainer

from anomalib_genclip import GenCLIP


class ScoreTable(Callback):
    """Write scores immediately, so that memory does not grow and an interruption loses nothing.

    Args:
        path (Path): The table; an existing one is replaced.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_predict_start(self, trainer: Trainer, pl_module: GenCLIP) -> None:
        """Write the header."""
        del trainer, pl_module
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("image_path,score,anomalous\n", encoding="utf-8")

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: GenCLIP, outputs: ImageBatch, batch: ImageBatch, *args: int
    ) -> None:
        """Write and print a row per image."""
        del trainer, outputs, args
        # anomalib adds the labels after this callback.
        labels = batch.pred_score > pl_module.post_processor.normalized_image_threshold
        rows = list(zip(batch.image_path, batch.pred_score.tolist(), labels.tolist(), strict=True))
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([path, f"{score:.6f}", int(anomalous)] for path, score, anomalous in rows)
        for path, score, anomalous in rows:
            print(f"{score:.3f}  {'anomalous' if anomalous else 'normal   '}  {path}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and predict."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="an image or a folder")
    parser.add_argument("--weights", required=True, help="a prompts file, or tiny-demo")
    parser.add_argument("--class-name", help="class name of the images (default: object)")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder for scores.csv and heat maps")
    args = parser.parse_args(arguments)

    model = GenCLIP(weights=args.weights, class_name=args.class_name)
    table = ScoreTable(args.results / "scores.csv")
    engine = Engine(default_root_dir=args.results, callbacks=[table])
    engine.predict(model=model, data_path=args.images, return_predictions=False)
    print(f"Scores: {table.path}, visualizations: {engine.trainer.default_root_dir}/images")


if __name__ == "__main__":
    main()
