# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The example that looks at a camera's frames."""

import csv
import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from anomalib_genclip import Inferencer

EXAMPLE = Path(__file__).parents[2] / "examples" / "camera.py"
SIZE = (64, 48)


@pytest.fixture(scope="module")
def main():
    return runpy.run_path(str(EXAMPLE))["main"]


def frames(count=5):
    for number in range(count):
        frame = np.full((SIZE[1], SIZE[0], 3), 90, np.uint8)
        yield cv2.rectangle(frame, (4 + 8 * number, 10), (14 + 8 * number, 20), (255, 255, 255), -1)


def rows(folder):
    with (folder / "scores.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_second_frame_of_a_video_has_a_score_and_an_overlay(main, tmp_path):
    source = tmp_path / "line.avi"
    video = cv2.VideoWriter(str(source), cv2.VideoWriter.fourcc(*"MJPG"), 10, SIZE)
    for frame in frames():
        video.write(frame)
    video.release()
    main([str(source), "--weights", "tiny-demo", "--out", str(tmp_path), "--every", "2"])
    found = rows(tmp_path)
    assert [(row["frame"], row["seconds"]) for row in found] == [("0", "0.000"), ("2", "0.200"), ("4", "0.400")]
    overlays = cv2.VideoCapture(str(tmp_path / "overlay.avi"))
    assert overlays.get(cv2.CAP_PROP_FPS) == 5
    shown = [overlays.read()[1] for _ in range(3)]
    assert overlays.read()[1] is None
    assert [picture.shape for picture in shown] == 3 * [(48, 64, 3)]
    assert all(np.ptp(picture, axis=2).max() > 50 for picture in shown)  # grey frames, coloured heat


def test_frames_of_a_folder_have_the_scores_of_their_images(main, tmp_path):
    (tmp_path / "frames").mkdir()
    for number, frame in enumerate(frames(2)):
        exif = Image.Exif()
        exif[0x0112] = 6  # a quarter turn, which nobody applies
        picture = Image.fromarray(frame[..., ::-1])
        if number:  # colours that transparency hides
            picture.putalpha(Image.linear_gradient("L").resize(picture.size))
        picture.save(tmp_path / "frames" / f"{number}.png", exif=exif)
    (tmp_path / "frames" / "notes.txt").touch()
    main([str(tmp_path / "frames"), "--weights", "tiny-demo", "--class_name", "leather", "--out", str(tmp_path)])
    records = Inferencer("tiny-demo", "leather").predict(sorted((tmp_path / "frames").glob("*.png")))
    for row, record in zip(rows(tmp_path), records, strict=True):
        assert float(row["score"]) == pytest.approx(record.score, abs=1e-5)
        assert bool(int(row["anomalous"])) == record.anomalous


def test_what_opencv_cannot_open_is_named(main, tmp_path):
    (tmp_path / "empty").mkdir()
    for source, message in ((tmp_path / "none.mp4", "cannot open .*none.mp4"), (tmp_path / "empty", "no frames in")):
        with pytest.raises(SystemExit, match=message):
            main([str(source), "--weights", "tiny-demo", "--out", str(tmp_path)])
