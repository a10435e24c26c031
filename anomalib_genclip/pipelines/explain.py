# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Explanation of the score of one image, as a figure.

It shows the image, the maps of the vision-enhanced and of the query-only branch, the anomaly map (their mean, smoothed
if the model smooths), the mask if there is one, and the decision of Class Name Filtering.
"""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from anomalib.data.utils import read_image, read_mask
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from anomalib_genclip.components.anomaly_map import upsample
from anomalib_genclip.components.class_names import GENERIC
from anomalib_genclip.lightning_model import GenCLIP
from anomalib_genclip.processing.post_processor import RawScorePostProcessor
from anomalib_genclip.trained_model import load_trained
from anomalib_genclip.utils.files import atomic_write
from anomalib_genclip.utils.resize import resize

BRANCH_TITLES = {"vision": "vision-enhanced branch", "query": "query-only branch"}


class Decision(NamedTuple):
    """Score of an image and what it is based on.

    Args:
        image (Tensor): Image at the model's size, ``(3, H, W)``, in [0, 1].
        maps (dict[str, Tensor]): Map of each active branch by its title, ``(H, W)``, in [0, 1].
        layers (dict[str, dict[int, Tensor]]): Layer-wise maps of the same branches on the patch grid, ``(h, w)``,
            in [0, 1].
        top (float): Mean of the highest 1 % of the anomaly map.
        cls (float): Abnormal probability of the whole image from the frozen CLIP and written states.
        anomaly_map (Tensor): Anomaly map, ``(H, W)``, in [0, 1].
        score (float): Image score.
        threshold (float | None): Threshold of the image score, if the model has one.
        class_name (str): Class name before CNF.
        used_name (str): Class name in the prompts, after CNF.
        similarity (float): Cosine of the image and "a photo of a {class_name}".
        generic_similarity (float): Cosine of the image and "a photo of an object".
        distance (Tensor | None): ``r / (1 + r)`` with the distance ``r`` of each patch to the references, ``(h, w)``;
            ``None`` without references.
        cls_distance (float | None): ``r`` of the CLS token, likewise.
    """

    image: Tensor
    maps: dict[str, Tensor]
    layers: dict[str, dict[int, Tensor]]
    top: float
    cls: float
    anomaly_map: Tensor
    score: float
    threshold: float | None
    class_name: str
    used_name: str
    similarity: float
    generic_similarity: float
    distance: Tensor | None = None
    cls_distance: float | None = None


@torch.no_grad()
def decide(model: GenCLIP, image: Tensor, class_name: str | None = None) -> Decision:
    """Run a model on one image and keep the intermediate results.

    Args:
        model (GenCLIP): The model.
        image (Tensor): An RGB image of any size, ``(3, h, w)``, in [0, 1].
        class_name (str | None): Class name of the image. Defaults to ``None``: the model's, else ``"object"``.

    Returns:
        Decision: The score and what it is based on; its tensors are on the CPU.
    """
    model.eval()
    torch_model = model.model
    pixels = image[None].to(model.device)
    batch = pixels if model.pre_processor is None else model.pre_processor(pixels)
    references = torch_model.references.index([None], class_name or model.class_name)
    class_name = class_name or model.class_name or GENERIC
    given = torch_model.class_index([model.class_names.get(class_name, class_name)])
    # With tiles, the whole image is explained.
    tokens = torch_model.clip.encode_image(resize(batch, torch_model.image_size))
    result = torch_model.score_parts(tokens, given, references)
    parts = result.branches
    names = torch_model.class_names
    similarities = (names.features[[int(given), 0]] @ tokens.embedding[0]).tolist()
    labels = model.post_processor
    distance = result.distance
    threshold = float(labels.normalized_image_threshold) if isinstance(labels, RawScorePostProcessor) else None
    return Decision(
        image=F.interpolate(image[None], size=torch_model.image_size, mode="bilinear", antialias=True)[0].clamp(0, 1),
        maps={
            BRANCH_TITLES[name]: upsample(grid, torch_model.image_size)[0, 0].cpu() for name, grid in parts.maps.items()
        },
        layers={
            BRANCH_TITLES[name]: dict(zip(torch_model.map_layers, grids[:, 0, 0].cpu(), strict=True))
            for name, grids in parts.layers.items()
        },
        top=float(result.top),
        cls=float(parts.cls),
        anomaly_map=result.anomaly_map[0, 0].cpu(),
        score=float(torch_model.image_score(result)),
        threshold=threshold,
        class_name=names.names[int(given)],
        used_name=names.names[int(parts.class_index)],
        similarity=similarities[0],
        generic_similarity=similarities[1],
        distance=None if distance is None else distance.patches.sigmoid().view(torch_model.clip.grid_size).cpu(),
        cls_distance=None if distance is None else float(distance.image.exp()),
    )


def describe(decision: Decision, filtering: bool = True) -> str:
    """Describe a decision in words.

    Args:
        decision (Decision): The decision.
        filtering (bool): Whether CNF was enabled. Defaults to ``True``.

    Returns:
        str: Two lines: score and label, and the decision of CNF.
    """
    score = f"image score {decision.score:.3f}"
    if decision.threshold is not None:
        label = "anomalous" if decision.score > decision.threshold else "normal"
        score += f": {label} (threshold {decision.threshold:.3f})"
    name, cosines = decision.class_name, f"cosine {decision.similarity:.3f}, object {decision.generic_similarity:.3f}"
    if name == GENERIC:
        return f"{score}\nno class name was given"
    if not filtering:
        return f'{score}\nclass name "{name}", Class Name Filtering is off ({cosines})'
    if decision.used_name == name:
        return f'{score}\nClass Name Filtering kept "{name}" ({cosines})'
    return f'{score}\nClass Name Filtering replaced "{name}" by "{decision.used_name}" ({cosines})'


def draw(decision: Decision, caption: str, mask: Tensor | None = None) -> bytes:
    """Draw a decision.

    Args:
        decision (Decision): The decision.
        caption (str): Text above the figure, such as that of :func:`describe`.
        mask (Tensor | None): Ground truth, ``(h, w)`` of any size, 1 for anomalous. Defaults to ``None``.

    Returns:
        bytes: PNG image. All maps have the same color scale.
    """
    image = decision.image.permute(1, 2, 0).cpu().numpy()
    maps = {**decision.maps, "anomaly map": decision.anomaly_map}
    if len(decision.maps) == 1:
        maps = {next(iter(decision.maps)): decision.anomaly_map}
    count = 1 + len(maps) + (mask is not None)
    figure = Figure(figsize=(3.1 * count, 4.1), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panels = list(figure.subplots(1, count))
    _show(panels[0], image, "input")
    values = {title: np.asarray(values.float().cpu()) for title, values in maps.items()}
    low, high = min(map(np.min, values.values())), max(map(np.max, values.values()))
    for axes, (title, value) in zip(panels[1:], values.items(), strict=False):
        _show(axes, image, f"{title}\n{value.min():.2f} to {value.max():.2f}")
        shown = axes.imshow(value, cmap="inferno", vmin=low, vmax=max(high, low + 1e-6), alpha=0.75)
    figure.colorbar(shown, ax=panels, shrink=0.6, pad=0.01, label="abnormal probability")
    if mask is not None:
        _show(panels[-1], np.asarray(mask.cpu()), "mask (ground truth)", cmap="gray", vmin=0, vmax=1)
    figure.suptitle(caption, fontsize=10, parse_math=False)
    buffer = io.BytesIO()
    canvas.figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


def _show(axes, image: np.ndarray, title: str, **options) -> None:  # noqa: ANN001  # matplotlib's own
    """Show an image in a panel without ticks."""
    axes.imshow(image, **options)
    axes.set_title(title, fontsize=9)
    axes.set_axis_off()


def explain(
    weights: str,
    image: str,
    mask: str | None = None,
    class_name: str | None = None,
    output: str = "explanation.png",
    pretrained: str | None = None,
) -> str:
    """Explain the score of one image in a figure.

    Args:
        weights (str): As in :func:`anomalib_genclip.trained_model.load_trained`, like ``pretrained``.
        image (str): Image file.
        mask (str | None): File with the ground truth, if there is one.
        class_name (str | None): Class name of the image.
        output (str): Path of the figure; missing folders are created.
        pretrained (str | None): CLIP weights.

    Returns:
        str: The caption.
    """
    model = load_trained(weights, pretrained)
    decision = decide(model, read_image(image, as_tensor=True), class_name)
    caption = describe(decision, filtering=model.model.class_name_filter)
    truth = None if mask is None else read_mask(mask, as_tensor=True)
    path = Path(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, draw(decision, caption, truth))
    return caption
