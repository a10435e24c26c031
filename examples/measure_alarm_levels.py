# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Compare three alarm levels on datasets in MVTec AD's layout: the source's, a guess from the run, a calibrated one.

    python examples/measure_alarm_levels.py --weights tiny-demo --data FOLDER [FOLDER ...]

Each row: shares of good parts that raise an alarm and of anomalous ones that do not, in percent. The guess is made from
runs in which a third of the parts is anomalous, at most; the calibrated level from half of the good parts at a rate of
5 % (or the lowest that they allow), tested on the other half. Both are means of twenty random draws.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from anomalib_genclip import Inferencer
from anomalib_genclip.evaluation.good_parts import guess_alarm_level
from anomalib_genclip.pipelines.calibration import conformal_threshold

DRAWS = 20
RATE = 0.05


def image_scores(inferencer: Inferencer, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Compute the image scores of a dataset's good and anomalous parts."""
    good, anomalous = [], []
    for path in sorted(path for part in ("train", "test") for path in (folder / part).glob("*/*")):
        record = inferencer.predict(path, class_name=folder.name)
        (good if path.parent.name == "good" else anomalous).append(record.score)
    return np.array(good), np.array(anomalous)


def shares(good: np.ndarray, anomalous: np.ndarray, level: float) -> tuple[float, float]:
    """Compute false alarms and misses in percent."""
    return 100 * float((good > level).mean()), 100 * float((anomalous <= level).mean())


def measure(inferencer: Inferencer, folder: Path) -> dict[str, object]:
    """Compute a row."""
    good, anomalous = image_scores(inferencer, folder)
    guessed, calibrated = [], []
    for draw in range(DRAWS):
        rng = np.random.default_rng(draw)
        run = np.concatenate([good, rng.permutation(anomalous)[: len(good) // 2]])
        guessed.append(shares(good, anomalous, guess_alarm_level(run)))
        half, rest = np.array_split(rng.permutation(good), 2)
        level = float(conformal_threshold(torch.from_numpy(half), max(RATE, 1 / (len(half) + 1))))
        calibrated.append(shares(rest, anomalous, level))
    return {
        "set": folder.name,
        "good": len(good),
        "anomalous": len(anomalous),
        "source": shares(good, anomalous, inferencer.image_threshold),
        "guess": tuple(np.mean(guessed, 0)),
        "calibrated": tuple(np.mean(calibrated, 0)),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="tiny-demo")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of datasets")
    args = parser.parse_args()
    inferencer = Inferencer(args.weights)
    folders = sorted(path for root in args.data for path in root.iterdir() if (path / "train").is_dir())
    table = pd.DataFrame([measure(inferencer, folder) for folder in folders])
    for column in ("source", "guess", "calibrated"):
        table[column] = [f"{alarms:.0f} / {misses:.0f}" for alarms, misses in table[column]]
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
