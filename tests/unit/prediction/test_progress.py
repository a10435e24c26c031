# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The progress bar."""

import io
import time

from helpers.predictions import settings_for, write_images
from rich.console import Console

from anomalib_genclip.prediction.progress import showing_progress


def shown(root, *, terminal):
    text = io.StringIO()
    with showing_progress(settings_for(root), Console(file=text, force_terminal=terminal, width=100)) as show:
        show(3)
        time.sleep(0.3)  # for the thread that counts the images
        show(5)
        show(7)
    return text.getvalue()


def test_images_rate_and_time_left_are_shown_on_a_terminal_only(tmp_path):
    write_images(tmp_path / "images", 7)
    assert shown(tmp_path, terminal=False) == ""
    text = shown(tmp_path, terminal=True)
    assert "7/7" in text
    assert "/s" in text
    assert "0:00:00" in text
