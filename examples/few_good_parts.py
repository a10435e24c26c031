# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""From a few good parts to alarms, on rendered images: ``python examples/few_good_parts.py leather``.

Renders good and damaged parts of one product, draws references, sets the alarm level, tests, and draws the maps of some
damaged parts with 0, 1 and 4 references.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
from anomalib.data import Folder, PredictDataset
from anomalib.engine import Engine

from anomalib_genclip import GenCLIP, Inferencer
from anomalib_genclip.demo.synthetic import DEFECTS_OF, render
from anomalib_genclip.pipelines.calibration import calibrate

SIZE = 112  # pixels, as the demonstration CLIP sees them


def write(folder: Path, category: str, kinds: list[str | None], count: int, rng: np.random.Generator) -> Path:
    """Write ``count`` renders of each kind of defect (``None``: a good part), with masks beside them."""
    masks = folder.with_name(f"{folder.name}_masks")
    for path in (folder, masks):
        path.mkdir(parents=True, exist_ok=True)
    for kind in kinds:
        for number in range(count):
            image, mask = render(category, kind, SIZE, rng)
            cv2.imwrite(str(folder / f"{kind}_{number:03}.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
            cv2.imwrite(str(masks / f"{kind}_{number:03}.png"), mask)
    return folder


def draw(category: str, folder: Path, references: Path, images: Path, picture: Path) -> None:
    """Draw each image with its mask's outline, and its anomaly map with 0, 1 and 4 references, on one color scale."""
    columns = [[cv2.imread(str(file)) for file in sorted(images.glob("*.png"))]]
    for part, file in zip(columns[0], sorted(images.glob("*.png")), strict=True):
        mask = cv2.imread(str(images.with_name(f"{images.name}_masks") / file.name), cv2.IMREAD_GRAYSCALE)
        outline, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(part, outline, -1, (200, 0, 255), 1)
    for k_shot in (0, 1, 4):
        few = {"k_shot": k_shot, "few_shot_source": references} if k_shot else {}
        model = GenCLIP(weights="tiny-demo", class_name=category, seed=0, visualizer=False, **few)
        engine = Engine(default_root_dir=folder / "results", logger=False)
        batches = engine.predict(model, dataset=PredictDataset(images))
        maps = [(255 * one).byte().numpy() for batch in batches for one in batch.anomaly_map.squeeze(1)]
        columns.append([cv2.applyColorMap(one, cv2.COLORMAP_TURBO) for one in maps])
    strips = []
    for title, column in zip(("image", "k = 0", "k = 1", "k = 4"), columns, strict=True):
        framed = [cv2.copyMakeBorder(one, 3, 3, 3, 3, cv2.BORDER_CONSTANT, value=(255, 255, 255)) for one in column]
        head = np.full((16, framed[0].shape[1], 3), 255, np.uint8)
        cv2.putText(head, title, (4, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
        strips.append(np.vstack([head, *framed]))
    cv2.imwrite(str(picture), np.hstack(strips))


def main(category: str = "leather", folder: Path = Path("results/few_good_parts")) -> None:
    """Run the recipe."""
    rng = np.random.default_rng(0)
    defects = list(DEFECTS_OF[category])
    references = write(folder / "references", category, [None], 4, rng)
    shown = write(folder / "shown", category, defects[:3], 1, rng)
    calibration = write(folder / "calibration", category, [None], 99, rng)
    good = write(folder / "good", category, [None], 100, rng)
    damaged = write(folder / "damaged", category, defects, 10, rng)

    few = {"k_shot": 4, "few_shot_source": references, "class_name": category}
    model = GenCLIP(weights="tiny-demo", visualizer=False, **few)
    print(calibrate(Inferencer(model), calibration, false_alarm_rate=0.05))
    weights = model.save_weights(folder / "line.safetensors", references=True)

    data = {"normal_dir": references.name, "normal_test_dir": good.name, "abnormal_dir": damaged.name}
    options = {"mask_dir": "damaged_masks", "val_split_mode": "same_as_test", "num_workers": 0}
    test = Folder(name=category, root=folder, **data, **options)
    Engine(default_root_dir=folder / "results", logger=False).test(GenCLIP(weights=weights), datamodule=test)
    draw(category, folder, references, shown, folder / "shots.png")


if __name__ == "__main__":
    main(*sys.argv[1:2])
