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

from .examples import write_examples
from .handlers import Handlers
from .page import Page
from .scoring import Scorer
from .uploads import MAX_FILE_SIZE


@contextmanager
def running(weights: str, pretrained: str | None, host: str, port: int | None) -> Iterator[gr.Blocks]:
    """Run the page in the background, at a host and a port, ``None`` for any free one; ``local_url`` is its address.

    Errors are those of :class:`~anomalib_genclip.app.scoring.Scorer`, and an ``OSError`` if the port is taken.
    """
    with TemporaryDirectory(prefix="genclip-app-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # what visitors upload is gone when the page is closed
        scorer = Scorer(weights, pretrained)
        note = ": a demonstration, not for photographs of real products" if weights == "tiny-demo" else ""
        title = f"# GenCLIP\nPrompts `{Path(weights).name}` on {scorer.model.model.backbone}{note}"
        page = Page(title, Handlers(scorer, write_examples(Path(folder)))).blocks
        # gradio's own fonts come from the internet.
        theme = gr.themes.Default(primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["monospace"])
        page.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            max_file_size=MAX_FILE_SIZE,
            state_session_capacity=32,  # visitors whose images are in memory
            enable_monitoring=False,
            run_history=False,
            footer_links=["api"],
            theme=theme,
            css_paths=Path(__file__).with_name("style.css"),
        )
        try:
            yield page
        finally:
            page.close(verbose=False)


def serve(weights: str, pretrained: str | None, host: str, port: int) -> None:
    """Run the page until it is interrupted or terminated; arguments and errors as in :func:`running`."""
    with running(weights, pretrained, host, port) as page:
        print(f"GenCLIP with {weights} is at {page.local_url} (Ctrl+C ends it).", flush=True)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # else the visitors' files would be left behind
        page.block_thread()
