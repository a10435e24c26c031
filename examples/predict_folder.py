# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Run a trained GenCLIP on a folder of your own images.

    python examples/predict_folder.py path/to/images --weights prompts.safetensors --class-name "bottle cap"

Prints a score per image; heat-map pictures land in results/.
"""

import argparse
from pathlib import Path

from anomalib.engine import Engine

from anomalib_genclip import GenCLIP

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="an image or a folder")
    parser.add_argument("--weights", required=True, help="a prompts file, or tiny-demo")
    parser.add_argument("--class-name", help="what the images show; left out: object")
    args = parser.parse_args()

    model = GenCLIP(weights=args.weights, class_name=args.class_name)
    engine = Engine()
    for batch in engine.predict(model=model, data_path=args.images) or []:
        for path, score, anomalous in zip(batch.image_path, batch.pred_score, batch.pred_label, strict=True):
            print(f"{score:.3f}  {'anomalous' if anomalous else 'normal   '}  {path}")
    print(f"Pictures: {engine.trainer.default_root_dir}/images")
