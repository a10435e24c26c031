# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Sort DAGM 2007's test images into normal and anomalous ones, so that anomalib's ``Folder`` can read them.

DAGM has them in one folder: ``Class1/Test/0001.PNG`` is anomalous if ``Class1/Test/Label/0001_label.PNG`` exists. The
script creates links in ``Class1/sorted/{good,defect,mask}`` and changes nothing else. Run again, it adds missing links.

Example:
    python examples/sort_dagm.py datasets/DAGM
"""

import sys
from pathlib import Path


def sort_texture(folder: Path) -> tuple[int, int]:
    """Sort one texture's test images.

    Args:
        folder: The texture's folder, such as ``datasets/DAGM/Class1``.

    Returns:
        Numbers of normal and anomalous images.
    """
    counts = [0, 0]
    for image in sorted((folder / "Test").glob("*.PNG")):
        mask = image.parent / "Label" / f"{image.stem}_label.PNG"
        link(image, folder / "sorted" / ("defect" if mask.is_file() else "good"))
        if mask.is_file():
            link(mask, folder / "sorted" / "mask")
        counts[mask.is_file()] += 1
    return counts[0], counts[1]


def link(file: Path, folder: Path) -> None:
    """Create a link to a file in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / file.name
    if not target.is_symlink():
        target.symlink_to(file.resolve())


def main() -> None:
    """Sort every texture under the folder that the command line names."""
    root = Path(sys.argv[1])
    folders = sorted(path.parent for path in root.glob("*/Test"))
    if not folders:
        sys.exit(f"There is no */Test in {root}. Give the folder that has Class1, Class2 and so on.")
    for folder in folders:
        normal, anomalous = sort_texture(folder)
        print(f"{folder.name}: {normal} normal, {anomalous} anomalous")


if __name__ == "__main__":
    main()
