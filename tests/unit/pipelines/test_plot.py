# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The picture of accuracy against speed."""

import io

from matplotlib.figure import Figure
from PIL import Image

from anomalib_genclip.pipelines.plot import draw_accuracy_against_speed


def test_plot_leaves_out_and_names_models_without_figures(monkeypatch):
    titles, names = [], []
    title, legend = Figure.suptitle, Figure.legend
    monkeypatch.setattr(Figure, "suptitle", lambda self, text, **kw: titles.append(text) or title(self, text, **kw))
    monkeypatch.setattr(
        Figure,
        "legend",
        lambda self, handles, labels, **kw: names.extend(labels) or legend(self, handles, labels, **kw),
    )
    row = {"model": "a_b $x$", "images_per_second": 3.0, "image_AUROC": 0.5, "pixel_AUROC": None}
    picture = Image.open(io.BytesIO(draw_accuracy_against_speed([row, {"model": "c", "images_per_second": None}])))
    assert picture.format == "PNG"
    assert titles == ["Accuracy against speed (without a result: c)"]
    assert names == ["a_b $x$"]
