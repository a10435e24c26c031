# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The server of the page."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import gradio as gr

from .answers import Answers
from .detector import Detector
from .examples import write_examples
from .page import build_page
from .uploads import MAX_FILE_SIZE

_STYLE = Path(__file__).with_name("style.css")
_SESSIONS = 32  # whose images are in memory


@contextmanager
def running(weights: str, pretrained: str | None, host: str, port: int | None) -> Iterator[gr.Blocks]:
    """Run the page in the background.

    Raises:
        FileNotFoundError: If there are no such weights.
        ValueError: If they cannot be used.
        OSError: If the port is taken.
    """
    with TemporaryDirectory(prefix="genclip-app-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # what visitors upload is gone when the page is closed
        answers = Answers(Detector(weights, pretrained), write_examples(Path(folder)))
        page = build_page(answers)
        # Fonts of the visitor's system: gradio's own come from the internet.
        theme = gr.themes.Default(
            primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
        )
        page.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            max_file_size=MAX_FILE_SIZE,
            state_session_capacity=_SESSIONS,
            enable_monitoring=False,
            run_history=False,
            ssr_mode=False,
            mcp_server=False,
            footer_links=["api"],
            theme=theme,
            css_paths=_STYLE,
        )
        try:
            yield page
        finally:
            page.close(verbose=False)


def serve(weights: str, pretrained: str | None, host: str, port: int) -> None:
    """Run the page until it is interrupted or terminated; arguments and errors as in :func:`running`."""
    with running(weights, pretrained, host, port) as page:
        print(f"GenCLIP with {weights} is at {page.local_url} (Ctrl+C ends it).", flush=True)
        before = signal.signal(signal.SIGTERM, _leave)  # which would leave the visitors' files behind
        try:
            page.block_thread()
        finally:
            signal.signal(signal.SIGTERM, before)


def _leave(*_: object) -> None:
    raise SystemExit
