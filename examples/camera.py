# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Find defects in what a camera sees: a device, a video file, or a folder of frames.

    python examples/camera.py 0 --weights prompts.safetensors --class_name "bottle cap"
    python examples/camera.py line.mp4 --weights prompts.safetensors --every 10

Prints a score per frame, and writes scores.csv and overlay.avi, the frames with their heat maps. Ctrl-C ends it.
"""

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from anomalib.data.utils.image import is_image_file

from anomalib_genclip import Inferencer
from anomalib_genclip.data.images import read_image

FOLDER_RATE = 5.0  # frames per second of the overlays of a folder
HEAT_SHARE = 0.4  # of the colours in an overlay; the rest is the frame


def open_source(source: str) -> tuple[Iterator[np.ndarray | str], float]:
    """Open a source.

    Args:
        source (str): Number of a device, a folder, or whatever else OpenCV opens: a video file, an address of a stream.

    Returns:
        tuple[Iterator[np.ndarray | str], float]: Frames ``(H, W, 3)``, RGB, uint8, or their files, and how many there
        are in a second.

    Raises:
        SystemExit: If it cannot be opened.
    """
    if Path(source).is_dir():
        return (str(path) for path in sorted(Path(source).iterdir()) if is_image_file(path)), FOLDER_RATE
    capture = cv2.VideoCapture(int(source) if source.isdigit() else source)
    if not capture.isOpened():
        sys.exit(f"OpenCV cannot open {source}: give the number of a device, a video file, or a folder of frames.")
    return _frames(capture), capture.get(cv2.CAP_PROP_FPS) or FOLDER_RATE


def _frames(capture: cv2.VideoCapture) -> Iterator[np.ndarray]:
    while (frame := capture.read()[1]) is not None:
        yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


def overlay(frame: np.ndarray, anomaly_map: np.ndarray, text: str) -> np.ndarray:
    """Lay an anomaly map and a text over a frame, RGB; the result is BGR, as OpenCV writes it."""
    frame = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
    values = cv2.resize(anomaly_map, frame.shape[1::-1])
    heat = cv2.applyColorMap((255 * values).astype(np.uint8), cv2.COLORMAP_JET)
    mixed = cv2.addWeighted(heat, HEAT_SHARE, frame, 1 - HEAT_SHARE, 0)
    return cv2.putText(mixed, text, (8, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (255, 255, 255), 2)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and look at frames until there are no more."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="number of a device, a video file, or a folder of frames")
    parser.add_argument("--weights", required=True, help="a prompts file, or tiny-demo")
    parser.add_argument("--class_name", help="what the frames show; left out: object")
    parser.add_argument("--every", type=int, default=1, help="look at every n-th frame (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("results/camera"), help="folder (%(default)s)")
    args = parser.parse_args(arguments)

    frames, rate = open_source(args.source)
    inferencer = Inferencer(args.weights, args.class_name)
    args.out.mkdir(parents=True, exist_ok=True)
    video, size = None, (0, 0)
    with (args.out / "scores.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["frame", "seconds", "score", "anomalous"])
        try:
            for number, given in islice(enumerate(frames), 0, None, args.every):
                record = inferencer.predict(given)
                frame = read_image(given).permute(1, 2, 0).numpy() if isinstance(given, str) else given
                text = f"{record.score:.3f} {record.label}"
                print(f"{number:6}  {text}")
                table.writerow([number, f"{number / rate:.3f}", f"{record.score:.6f}", int(record.anomalous)])
                file.flush()  # what is done stays, whatever happens
                if video is None:
                    code, size = cv2.VideoWriter.fourcc(*"MJPG"), frame.shape[1::-1]
                    video = cv2.VideoWriter(str(args.out / "overlay.avi"), code, rate / args.every, size)
                video.write(cv2.resize(overlay(frame, record.anomaly_map, text), size))
        except KeyboardInterrupt:
            print("Stopped.")
    if video is None:
        sys.exit(f"There are no frames in {args.source}.")
    video.release()
    print(f"Scores: {args.out}/scores.csv, overlays: {args.out}/overlay.avi")


if __name__ == "__main__":
    main()
