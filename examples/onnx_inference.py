# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Predict on a folder of images with an exported model, without torch.

Needs only ``pip install onnxruntime numpy pillow`` and the files written by ``anomalib export --export_type onnx``:
``model.onnx`` and, in the same folder, ``model.onnx.data``.

Example:
    python onnx_inference.py model.onnx images/ --out results/
"""

import argparse
import csv
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
HEAT_SHARE = 0.5  # opacity of the heat map on the image


def find_images(source: Path) -> list[Path]:
    """List the images of a folder and its subfolders, or the given image.

    Raises:
        SystemExit: If there are none.
    """
    paths = [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not paths:
        sys.exit(f"No images in {source}. Supported suffixes: {', '.join(sorted(SUFFIXES))}.")
    return paths


def load_model(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """Load an exported model.

    Args:
        path (Path): The ``.onnx`` file.
        threads (int): Number of threads; 0 for ONNX Runtime's default.

    Raises:
        SystemExit: If the file is missing or is not an anomaly model.
    """
    if not path.is_file():
        sys.exit(f"There is no model {path}.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    missing = {"anomaly_map", "pred_score"} - {output.name for output in session.get_outputs()}
    if missing:
        sys.exit(f"{path} is not an exported anomaly model: it has no output {' and '.join(sorted(missing))}.")
    return session


def read_image(path: Path) -> Image.Image:
    """Read an image as `genclip predict` does: RGB, as it is stored (no EXIF orientation), transparent pixels white.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it has more than 8 bits per channel, which Pillow would clip.
    """
    with Image.open(path) as image:
        if image.mode.startswith(("I", "F")):
            msg = f"more than 8 bits per pixel (mode {image.mode}): convert it to 8 bits"
            raise ValueError(msg)
        if not image.has_transparency_data:
            return image.convert("RGB")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def prepare(image: Image.Image, shape: list[int | str]) -> np.ndarray:
    """Convert an image to the model's input.

    Args:
        image (Image.Image): Image of any size.
        shape (list[int | str]): Shape of the model's input, ``(N, 3, H, W)``; dynamic dimensions are names. The image
            is resized here if height and width are fixed, otherwise in the model.

    Returns:
        np.ndarray: ``(1, 3, H, W)``, float32, in [0, 1].
    """
    height, width = shape[2:]
    if isinstance(height, int) and isinstance(width, int):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image, np.float32).transpose(2, 0, 1)[None] / 255


def heat_map(image: Image.Image, anomaly_map: np.ndarray) -> Image.Image:
    """Overlay an anomaly map on its image, from blue (0) to red (1).

    Args:
        image (Image.Image): RGB image.
        anomaly_map (np.ndarray): ``(h, w)``, in [0, 1], of any size.

    Returns:
        Image.Image: Heat map of the image's size.
    """
    values = np.asarray(Image.fromarray(anomaly_map).resize(image.size, Image.Resampling.BILINEAR))
    centres = np.array([0.75, 0.5, 0.25])  # positions of red, green and blue on the scale
    colours = np.clip(1.5 - 4 * np.abs(values[..., None] - centres), 0, 1) * 255
    mixed = HEAT_SHARE * colours + (1 - HEAT_SHARE) * np.asarray(image)
    return Image.fromarray(mixed.astype(np.uint8))


def predict(session: onnxruntime.InferenceSession, paths: list[Path], root: Path, output: Path) -> Iterator[dict]:
    """Run the model on images, one by one because their sizes may differ, and write heat maps.

    Args:
        session (onnxruntime.InferenceSession): The model.
        paths (list[Path]): Images.
        root (Path): Folder that names in the table are relative to.
        output (Path): Folder for the heat maps.

    Yields:
        dict: A row of the table for each image; an image that cannot be read has an error instead of a score.
    """
    model_input, names = session.get_inputs()[0], [output.name for output in session.get_outputs()]
    for number, path in enumerate(paths, start=1):
        name = path.relative_to(root)
        start = time.perf_counter()
        try:
            image = read_image(path)
        except (OSError, ValueError) as error:
            print(f"\r\033[K{name}: {error}", file=sys.stderr)
            yield {"image": name, "error": error}
            continue
        values = session.run(None, {model_input.name: prepare(image, model_input.shape)})
        result = dict(zip(names, values, strict=True))
        seconds = time.perf_counter() - start
        score = float(result["pred_score"].squeeze())
        target = output / f"{name}.png"  # the suffix is kept, because a.jpg and a.png may both exist
        target.parent.mkdir(parents=True, exist_ok=True)
        heat_map(image, result["anomaly_map"].squeeze()).save(target)
        label = int(result["pred_label"].squeeze()) if "pred_label" in result else ""
        print(f"\r\033[K{number}/{len(paths)}  {score:.3f}  {name}", end="", flush=True)
        yield {"image": name, "score": f"{score:.6f}", "anomalous": label, "seconds": f"{seconds:.3f}"}
    print()


def main() -> None:
    """Parse the command line, run the model, write ``scores.csv`` and ``heat_maps/``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="the exported .onnx file")
    parser.add_argument("images", type=Path, help="a folder with images, or one image")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for the results (%(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="number of threads; 0: all cores (%(default)s)")
    arguments = parser.parse_args()

    paths = find_images(arguments.images)
    session = load_model(arguments.model, arguments.threads)
    root = arguments.images if arguments.images.is_dir() else arguments.images.parent
    arguments.out.mkdir(parents=True, exist_ok=True)
    table = arguments.out / "scores.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["image", "score", "anomalous", "seconds", "error"])
        writer.writeheader()
        for row in predict(session, paths, root, arguments.out / "heat_maps"):
            writer.writerow(row)
            file.flush()  # keeps finished rows if the run is interrupted
    print(f"Scores: {table}\nHeat maps: {arguments.out / 'heat_maps'}")


if __name__ == "__main__":
    main()
