# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The one door from an image to what is known about it: score, label, map, mask and regions."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anomalib.pre_processing import PreProcessor
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import Compose

from .components.class_names import GENERIC
from .data.images import pixels_of, read_image
from .lightning_model import GenCLIP
from .persistence.exported_model import SUFFIXES, TO_FLOAT, ExportedModel
from .persistence.weights_files import resolve_weights
from .processing.post_processor import NATURAL_THRESHOLD, RawScorePostProcessor
from .records import Parts, Record
from .settings import TileSettings
from .torch_model import GenCLIPModel, ScoreParts
from .utils.precision import Precision, choose_device, choose_precision
from .utils.settings import UnitFloat, checked

AnyImage = str | os.PathLike | Image.Image | np.ndarray | Tensor
_BATCH_SIZE = 8  # images of a list that the model sees at once


class Inferencer:
    """A trained model that predicts images.

    Args:
        weights (str | Path | GenCLIP): A prompts file, a checkpoint, ``"tiny-demo"``, ``"hf://owner/name/file"``, an
            exported model (``.onnx``, ``.xml``), or a model.
        class_name (str | None): Class name of all images. Defaults to ``None``: each image's own, else that of the
            weights, else "object".
        device (str | torch.device): "auto", "cpu", "gpu", or a device of torch. Defaults to ``"auto"``; a model that is
            given stays where it is.
        precision (str): "float32", "bf16", or "auto": bf16 on devices with instructions for it. Defaults to ``"auto"``.
        pretrained (str | None): CLIP's weights, if the model was trained with a file that has been moved. Defaults to
            ``None``.
        tiles (TileSettings | None): Tiles of large images. Defaults to ``None``: those of the weights.
        image_threshold (float | None): Images with a higher score are anomalous. Defaults to ``None``: that of the
            weights.
        pixel_threshold (float | None): The same for the pixels of the map. Defaults to ``None``.

    Attributes:
        model (GenCLIP | None): The model, ``None`` for an exported one.
        transform (Callable): Applied to an image ``(3, H, W)``, uint8, before images are stacked for
            :meth:`predict_batch`; it can be pickled.
        device (torch.device): Where the model computes.

    Raises:
        FileNotFoundError: If there are no such weights.
        ValueError: If a setting is wrong or does not fit the weights.
        ConnectionError: If weights cannot be downloaded.

    Example:
        >>> from anomalib_genclip import Inferencer
        >>> inferencer = Inferencer("tiny-demo", class_name="leather")
        >>> record = inferencer.predict("part.png")  # doctest: +SKIP
        >>> record.score, record.label, record.regions  # doctest: +SKIP
    """

    def __init__(
        self,
        weights: str | Path | GenCLIP,
        class_name: str | None = None,
        device: str | torch.device = "auto",
        precision: Precision = "auto",
        *,
        pretrained: str | None = None,
        tiles: TileSettings | None = None,
        image_threshold: float | None = None,
        pixel_threshold: float | None = None,
    ) -> None:
        thresholds = {"image_threshold": image_threshold, "pixel_threshold": pixel_threshold}
        given = {name: checked(name, value, UnitFloat | None) for name, value in thresholds.items()}
        self.model: GenCLIP | None = None
        own: Any = None
        if not isinstance(weights, GenCLIP) and (path := resolve_weights(weights)).suffix in SUFFIXES:
            fixed = {"class_name": class_name, "pretrained": pretrained, "tiles": tiles}
            if wrong := [name for name, value in fixed.items() if value is not None]:
                msg = f"{wrong[0]} is fixed in an exported model, such as {weights}: export it with another one."
                raise ValueError(msg)
            self.device, self.class_name = torch.device("cpu"), None
            self.precision = "float32" if path.suffix == ".onnx" else choose_precision(precision, self.device)
            wanted = "bf16" if precision == "bf16" else self.precision
            self._exported = ExportedModel(path, str(device), wanted)  # type: ignore[arg-type]
            self.transform: Callable[[Tensor], Tensor] = self._exported.transform
        else:
            model = (
                weights
                if isinstance(weights, GenCLIP)
                else load_trained(str(weights), pretrained, **({} if tiles is None else {"tiles": tiles}))
            )
            keep = isinstance(weights, GenCLIP) and device == "auto"
            self.device = model.device if keep else choose_device(device)
            self.precision = choose_precision(precision, self.device)
            self.model = model.eval().to(self.device)
            self.transform = _transform_of(model.pre_processor)
            self.class_name = class_name or model.names.given or model.names.of_file
            self._given_name = class_name
            own = model.post_processor if isinstance(model.post_processor, RawScorePostProcessor) else None
            if class_name is not None:
                model.look_up([None], class_name)  # raises here if the name cannot be used
        self.calibration: dict[str, Any] | None = own and own.calibration
        # Exported models have thresholds of their own in the graph.
        self.image_threshold, self.pixel_threshold = (
            given[f"{name}_threshold"]
            if given[f"{name}_threshold"] is not None or self.model is None
            else float(getattr(own, f"normalized_{name}_threshold", NATURAL_THRESHOLD))
            for name in ("image", "pixel")
        )

    def predict(self, image: AnyImage | Sequence[AnyImage], class_name: str | None = None, parts: bool = False) -> Any:  # noqa: ANN401
        """Predict one image or several.

        Args:
            image (AnyImage | Sequence[AnyImage]): A path or URL, an image of Pillow, an array ``(H, W, 3)`` or a tensor
                ``(3, H, W)``, both RGB and uint8 (a tensor also float in [0, 1]); or a list of them, of any sizes.
            class_name (str | None): Class name of these images. Defaults to ``None``: the inferencer's.
            parts (bool): Whether records tell what the score is made of. Defaults to ``False``.

        Returns:
            Record | list[Record]: One record per image, a list for a list.

        Raises:
            OSError: If a file cannot be read.
            ValueError: If an image or a class name cannot be used.
        """
        several = isinstance(image, (list, tuple))
        images = [_pixels(one) for one in (image if several else [image])]
        groups: dict[torch.Size, list[tuple[int, Tensor]]] = {}
        for number, (pixels, _) in enumerate(images):
            transformed = self.transform(pixels)
            groups.setdefault(transformed.shape, []).append((number, transformed))
        records: dict[int, Record] = {}
        for group in groups.values():
            for start in range(0, len(group), _BATCH_SIZE):
                numbers, batch = zip(*group[start : start + _BATCH_SIZE], strict=True)
                found = self.predict_batch(
                    torch.stack(batch),
                    [images[number][1] for number in numbers],
                    [(images[number][0].shape[1], images[number][0].shape[2]) for number in numbers],
                    [None] * len(numbers),
                    class_name=class_name,
                    parts=parts,
                )
                records |= zip(numbers, found, strict=True)
        if errors := [record.error for record in records.values() if record.error]:
            raise ValueError(errors[0])
        return [records[number] for number in range(len(images))] if several else records[0]

    __call__ = predict

    def predict_batch(
        self,
        images: Tensor,
        paths: Sequence[str],
        sizes: Sequence[tuple[int, int]],
        categories: Sequence[str | None],
        *,
        class_name: str | None = None,
        parts: bool = False,
    ) -> list[Record]:
        """Predict transformed images.

        Args:
            images (Tensor): Images of one size after :attr:`transform`, ``(B, 3, H, W)``.
            paths (Sequence[str]): Where they come from.
            sizes (Sequence[tuple[int, int]]): Height and width before the transform.
            categories (Sequence[str | None]): Each image's own class name, ``None`` if it has none.
            class_name (str | None): Class name of all of them. Defaults to ``None``: the inferencer's.
            parts (bool): Whether records tell what the score is made of. Defaults to ``False``.

        Returns:
            list[Record]: One per image. An image whose class name cannot be used has an ``error`` and no score.
        """
        records = [Record(path, tuple(size)) for path, size in zip(paths, sizes, strict=True)]
        if self.model is None:
            outputs = self._exported(images)
            return [
                self._judged(record, {key: value[i] for key, value in outputs.items()})
                for i, record in enumerate(records)
            ]
        given = class_name or self._given_name
        errors = self._errors_of(categories, given)
        for row, category in enumerate(categories):
            if category in errors:
                records[row] = replace(records[row], error=f"{paths[row]}: {errors[category]}".removeprefix(": "))
        rows = [row for row, record in enumerate(records) if not record.error]
        if rows:
            used = images if len(rows) == len(images) else images[rows]
            scores = self._score(used, self.model.look_up([categories[row] for row in rows], given), parts)
            for row, found in zip(rows, scores, strict=True):
                records[row] = self._judged(records[row], found)
        return records

    def _errors_of(self, categories: Iterable[str | None], given: str | None) -> dict[str | None, str]:
        """Return the errors of the names that cannot be used."""
        errors = {}
        for category in dict.fromkeys(categories):
            try:
                self.model.look_up([category], given)  # type: ignore[union-attr]
            except ValueError as error:  # noqa: PERF203  # one image's
                errors[category] = str(error)
        return errors

    def _score(self, images: Tensor, indices: tuple[Tensor, Tensor | None], parts: bool) -> list[dict[str, Any]]:
        """Score a batch with torch: the fields of each image's record, before thresholds."""
        model: Any = self.model.model  # type: ignore[union-attr]
        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"),
        ):
            result = model.score_parts(images.to(self.device, non_blocking=True), *indices)
            score = model.image_score(result).float().cpu().numpy()
            maps = result.anomaly_map[:, 0].float().cpu().numpy()
        filtering, names = model.class_name_filter and model.branches != "query", model.class_names.names
        before, after = indices[0].tolist(), result.branches.class_index.tolist()
        return [
            {
                "class_name": GENERIC if model.branches == "query" else names[after[row]],
                "class_name_filter": (
                    None if not filtering or not before[row] else "kept" if before[row] == after[row] else "replaced"
                ),
                "pred_score": score[row],
                "anomaly_map": maps[row],
                "parts": _parts(model, result, row, before[row]) if parts else None,
            }
            for row in range(len(score))
        ]

    def _judged(self, record: Record, found: dict[str, Any]) -> Record:
        """Compare an image's score and map with the thresholds; an exported model without any has judged them."""
        score, anomaly_map = float(found["pred_score"]), found["anomaly_map"]
        return replace(
            record,
            class_name=found.get("class_name"),
            class_name_filter=found.get("class_name_filter"),
            score=score,
            anomalous=bool(_above(np.float32(score), self.image_threshold, found.get("pred_label"))),
            image_threshold=self.image_threshold,
            pixel_threshold=self.pixel_threshold,
            anomaly_map=anomaly_map,
            mask=np.asarray(_above(anomaly_map, self.pixel_threshold, found.get("pred_mask"))),
            parts=found.get("parts"),
        )


def load_trained(weights: str, pretrained: str | None = None, **settings: Any) -> GenCLIP:  # noqa: ANN401
    """Load a trained model.

    Args:
        weights (str): A checkpoint (``.ckpt``), a prompts file (``.safetensors``), ``"tiny-demo"``, or an ``hf://``
            URL.
        pretrained (str | None): CLIP weights; needed if the model was trained with a file that is not here. ``None``
            takes those that the model was trained with.
        **settings (Any): Further arguments of :class:`~anomalib_genclip.GenCLIP`.

    Returns:
        GenCLIP: The model.
    """
    if pretrained is not None:
        settings["pretrained"] = pretrained
    if weights.endswith(".ckpt"):
        return GenCLIP.load_from_checkpoint(weights, map_location="cpu", **settings)
    return GenCLIP(weights=weights, **settings)


def _transform_of(pre_processor: PreProcessor | None) -> Compose:
    """Return the pre-processor's transform, which gives the same result for one image as for a batch."""
    own = None if pre_processor is None else pre_processor.transform
    return Compose([TO_FLOAT] if own is None else [TO_FLOAT, own])


def _pixels(image: AnyImage) -> tuple[Tensor, str]:
    """Return an image as ``(3, H, W)``, uint8, and where it comes from.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If it is no RGB image.
    """
    if isinstance(image, str | os.PathLike):
        path = os.fspath(image)
        return read_image(path), path
    if isinstance(image, Image.Image):
        return pixels_of(image, "The image"), ""
    tensor = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1) if _is_array(image) else image
    if not isinstance(tensor, Tensor) or tensor.dim() != 3 or tensor.shape[0] != 3:
        what = f"{type(image).__name__} {tuple(getattr(image, 'shape', ()))}"
        msg = f"{what} is no image: give a path, an image of Pillow, an array (H, W, 3) or a tensor (3, H, W), in RGB."
        raise ValueError(msg)
    if tensor.dtype != torch.uint8 and not (tensor.is_floating_point() and 0 <= tensor.min() <= tensor.max() <= 1):
        msg = f"Pixels must be uint8, or floating-point numbers from 0 to 1: this image has {tensor.dtype}."
        raise ValueError(msg)
    return tensor, ""


def _is_array(image: AnyImage) -> bool:
    return isinstance(image, np.ndarray) and image.ndim == 3


def _above(values: Any, threshold: float | None, own: Any) -> Any:  # noqa: ANN401  # numbers or arrays
    """Compare values with a threshold; without one, take the model's own decisions."""
    if threshold is None and own is not None:
        return own.astype(bool)
    return values > np.float32(NATURAL_THRESHOLD if threshold is None else threshold)


def _parts(model: GenCLIPModel, result: ScoreParts, row: int, given: int) -> Parts:
    """Collect what one image's score is made of."""
    branches, distance, names = result.branches, result.distance, model.class_names
    features = names.features[[given, 0]].float()
    similarity = (features @ branches.embedding[row].float()).tolist()
    grids = {branch: grid[row, 0].float().cpu().numpy() for branch, grid in branches.maps.items()}
    layers = {branch: grids[:, row, 0].float().cpu().numpy() for branch, grids in branches.layers.items()}
    return Parts(
        maps=grids,
        layers={branch: dict(zip(model.map_layers, own, strict=True)) for branch, own in layers.items()},
        top=float(result.top[row]),
        cls=float(branches.cls[row]),
        class_name=names.names[given],
        used_name=names.names[int(branches.class_index[row])],
        filtering=model.class_name_filter,
        similarity=similarity[0],
        generic_similarity=similarity[1],
        distance=None if distance is None else distance.patches[row].sigmoid().view(model.clip.grid_size).cpu().numpy(),
        cls_distance=None if distance is None else float(distance.image[row].exp()),
    )
