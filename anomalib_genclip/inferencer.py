# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The one door from an image to what is known about it: score, label, map, mask and regions."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import Compose

from .callbacks.reference_images import draw_references
from .components.class_names import GENERIC
from .components.ignore_mask import AnyMask, IgnoreMask
from .components.references import UNNAMED
from .data.images import AnyImage, FileFaults, as_pixels
from .data.normal_images import images_of_folder
from .evaluation.good_parts import DriftMonitor, p_value
from .lightning_model import GenCLIP
from .persistence.export_metadata import copy_with_metadata, thresholds_of
from .persistence.exported_model import SUFFIXES, TO_FLOAT, ExportedModel
from .persistence.weights_files import SCHEME, resolve_weights
from .processing.post_processor import NATURAL_THRESHOLD
from .records import Parts, Record
from .torch_model import GenCLIPModel, ScoreParts, set_ignore_mask
from .utils.devices import Precision, choose_device, choose_precision
from .utils.settings import UnitFloat, checked
from .utils.tensors import nearest

logger = logging.getLogger(__name__)

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
        image_threshold (float | None): Images with a higher score are anomalous. Defaults to ``None``: the weights'.
        pixel_threshold (float | None): The same for the pixels of the map. Defaults to ``None``.
        ignore_mask (AnyMask | None): White in it does not count: a PNG or an array for all images, or a folder with a
            PNG of the same stem for each image; one without is an error. Defaults to ``None``: that of the weights.
        **settings (Any): Further arguments of :class:`~anomalib_genclip.GenCLIP` for weights of torch, such as
            ``pretrained``, ``tiles``, or ``k_shot`` with ``few_shot_source``: references are then drawn at once.

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
        image_threshold: float | None = None,
        pixel_threshold: float | None = None,
        ignore_mask: AnyMask | None = None,
        **settings: Any,  # noqa: ANN401
    ) -> None:
        thresholds = {"image_threshold": image_threshold, "pixel_threshold": pixel_threshold}
        given = {name: checked(name, value, UnitFloat | None) for name, value in thresholds.items()}
        settings = {name: value for name, value in settings.items() if value is not None}
        self.model: GenCLIP | None = None
        self.given_name = class_name
        self._told: set[str] = set()  # faults of images, each once
        path = None if isinstance(weights, GenCLIP) else resolve_weights(weights)
        if path is not None and path.suffix in SUFFIXES:
            fixed = {**settings, "class_name": class_name, "ignore_mask": ignore_mask}
            known = self._open_export(path, str(device), precision, fixed)
        else:
            source = path if str(weights).startswith(SCHEME) else weights  # a branch of the hub may move
            model = weights if isinstance(weights, GenCLIP) else load_trained(str(source), **settings)
            stays = isinstance(weights, GenCLIP) and device == "auto"
            self.device = model.device if stays else choose_device(device)
            known = self._use(model, precision, ignore_mask)
        self.set_thresholds(known | {name: value for name, value in given.items() if value is not None})
        self._is_given = image_threshold is not None
        # What the transform makes of black and white, per channel: gray values are the same for torch and exports.
        plain = (torch.full((3, 9, 9), value, dtype=torch.uint8) for value in (0, 255))
        self._black, self._white = (self.transform(image).float().mean((1, 2)) for image in plain)

    def _open_export(self, path: Path, device: str, precision: Precision, given: dict[str, Any]) -> dict[str, Any]:
        """Open an exported model; return its thresholds."""
        if fixed := [name for name, value in given.items() if value is not None]:
            what = "export a prompts file or a checkpoint again, with another one"
            msg = f"{fixed[0]} is fixed in an exported model, such as {path}: {what}."
            raise ValueError(msg)
        self.device = torch.device("cpu")
        default = "float32" if path.suffix == ".onnx" else choose_precision(precision, self.device)
        self.precision = default if precision == "auto" else precision
        self._exported = ExportedModel(path, device, self.precision)
        self.transform: Callable[[Tensor], Tensor] = self._exported.transform
        self.class_name = self._exported.metadata.get("class_name")
        return self._exported.metadata

    def _use(self, model: GenCLIP, precision: Precision, ignore_mask: AnyMask | None) -> dict[str, Any]:
        """Prepare a model of torch; return its thresholds."""
        self.precision = choose_precision(precision, self.device)
        self.model = model.eval().to(self.device)
        if ignore_mask is not None:
            set_ignore_mask(model.model, ignore_mask)
        own = getattr(model.pre_processor, "transform", None)  # gives the same for one image as for a batch
        self.transform = Compose([TO_FLOAT] if own is None else [TO_FLOAT, own])
        self.class_name = self.given_name or model.names.given or model.names.of_file
        if model.k_shot and (source := model.hparams["few_shot_source"]) is not None:
            draw_references(model, {self.class_name or UNNAMED: images_of_folder(source, "few_shot_source")})
        if self.given_name is not None:
            model.look_up([None], self.given_name)  # raises here if the name cannot be used
        return thresholds_of(model)

    def set_thresholds(self, known: Mapping[str, Any]) -> None:
        """Judge by other thresholds and another calibration, as ``export_metadata.thresholds_of`` gives them.

        Missing ones are unknown, as in exported files of other packages, which judge themselves.
        """
        self._is_given = False
        self.image_threshold: float | None = known.get("image_threshold")
        self.pixel_threshold: float | None = known.get("pixel_threshold")
        self.calibration: dict[str, Any] | None = known.get("calibration")
        self._mask_note = "" if self.model is None else self.model.model.ignore_mask.note_on(self.calibration)
        self.drift = DriftMonitor(self.calibration or {})

    def watch(self, records: Iterable[Record]) -> None:
        """Warn that the calibration does not fit: another ignore mask, once, and scores or gray values that moved."""
        scored = [(record.score, record.gray_value or 0.0) for record in records if record.score is not None]
        for note in filter(None, [self._mask_note, *(self.drift.add(*part) for part in scored)]):
            logger.warning(note)
        self._mask_note = ""

    def save(self, path: str | Path) -> Path:
        """Save with thresholds and references to ``*.safetensors``, an exported model to a file of its suffix.

        Returns the file; a ``ValueError`` says that the name has another suffix.
        """
        if self.model is not None:
            return self.model.save_weights(path, references=bool(self.model.model.references.memories))
        thresholds = {name: getattr(self, name) for name in ("image_threshold", "pixel_threshold", "calibration")}
        return copy_with_metadata(self._exported.path, Path(path), self._exported.metadata | thresholds)

    @property
    def alarm_level(self) -> str:
        """Where the image threshold comes from: "given", "calibrated", or "source", the data of the training."""
        return "given" if self._is_given else "source" if self.calibration is None else "calibrated"

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
        if self.model is None and (parts or class_name not in {None, self.class_name}):
            msg = "An exported model has one class name, and does not tell what its score is made of."
            raise ValueError(msg)
        several = isinstance(image, (list, tuple))
        given: Any = image if several else [image]
        unused: list[list[str]] = [[] for _ in given]
        images = [as_pixels(one, own) for one, own in zip(given, unused, strict=True)]
        faults = FileFaults()
        for number, ((_, path), own) in enumerate(zip(images, unused, strict=True)):
            faults.add(path or f"image {number}", own)
        faults.report(self._told)
        groups: dict[torch.Size, list[tuple[int, Tensor]]] = {}
        for number, (pixels, _) in enumerate(images):
            transformed = self.transform(pixels)
            groups.setdefault(transformed.shape, []).append((number, transformed))
        records: dict[int, Record] = {}
        options: dict[str, Any] = {"class_name": class_name, "parts": parts}
        for group in groups.values():
            for start in range(0, len(group), _BATCH_SIZE):
                numbers, batch = zip(*group[start : start + _BATCH_SIZE], strict=True)
                paths = [images[number][1] for number in numbers]
                sizes = [(images[number][0].shape[1], images[number][0].shape[2]) for number in numbers]
                found = self.predict_batch(torch.stack(batch), paths, sizes, [None] * len(paths), **options)
                records |= zip(numbers, found, strict=True)
        if errors := [record.error for record in records.values() if record.error]:
            raise ValueError(errors[0])
        self.watch(records.values())
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
        """Predict images of one size after :attr:`transform`, ``(B, 3, H, W)``; other arguments as in :meth:`predict`.

        Their sizes are height and width before the transform, their categories each image's own class name, ``None``
        without one. An image whose name or mask cannot be used has an ``error`` and no score. Nothing is watched.
        """
        records = [Record(path, (size[0], size[1])) for path, size in zip(paths, sizes, strict=True)]
        given, model = class_name or self.given_name, self.model
        own: IgnoreMask = self._exported.ignore_mask if model is None else model.model.ignore_mask
        look_up = cache(lambda category: (None, None) if model is None else model.look_up([category], given))
        mask_of, known = cache(own.of), dict[int, tuple[Any, ...]]()
        for row, category in enumerate(categories):
            try:
                found = look_up(category)
                mask = mask_of(paths[row] if own.folder else "", sizes[row], images.shape[-2:])
            except ValueError as error:  # noqa: PERF203  # one image's
                where = "" if paths[row] in str(error) else f"{paths[row]}: "
                records[row] = replace(records[row], error=f"{where}{error}")
            else:
                known[row] = (*found, mask)
        if rows := list(known):
            classes, references, masks = zip(*known.values(), strict=True)
            # Either all images have references or a mask, or none has. One mask for all is the same for each.
            indices = (None if each[0] is None else torch.cat(each) for each in (classes, references))
            ignored = None if masks[0] is None else torch.stack(masks if own.folder else masks[:1])
            used = images if len(rows) == len(images) else images[rows]
            scored = self._score(used, (*indices, ignored), parts)
            if model is None and own.size:  # a graph's mask: nothing else is exactly 0
                ignored = torch.from_numpy(np.stack([scores["anomaly_map"] for scores in scored]) == 0)[:, None]
            each: Any = [None] * len(rows) if ignored is None else ignored[:, 0].expand(len(rows), -1, -1).cpu().numpy()
            for row, scores, gray, mask in zip(rows, scored, self._gray_values(used, ignored), each, strict=True):
                records[row] = self._compared(replace(records[row], gray_value=gray, ignored=mask), scores)
        return records

    def _gray_values(self, images: Tensor, ignored: Tensor | None) -> list[float]:
        """Average the pixels that count."""
        if ignored is None:  # the usual case, without a copy of the batch
            means = images.mean((2, 3), dtype=torch.float32)  # exported files take bytes
        else:
            counting = (~nearest(ignored, images.shape[-2:])).to(images)
            means = (images * counting).sum((2, 3)) / counting.sum((2, 3)).clamp(min=1)
        return ((means.cpu() - self._black) / (self._white - self._black)).mean(1).tolist()

    def _score(self, images: Tensor, given: tuple[Any, ...], parts: bool) -> list[dict[str, Any]]:
        """Score a batch, given what torch's model takes: the fields of each image's record, before thresholds."""
        if self.model is None:
            outputs = self._exported(images)
            return [{key: value[row] for key, value in outputs.items()} for row in range(len(images))]
        model: Any = self.model.model
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            result = model.score_parts(images.to(self.device, non_blocking=True), *given)
            score = model.image_score(result).float().cpu().numpy()
            maps = result.anomaly_map[:, 0].float().cpu().numpy()
        filtering, names = model.class_name_filter and model.branches != "query", model.class_names.names
        before, after = given[0].tolist(), result.branches.class_index.tolist()
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

    def _compared(self, record: Record, found: dict[str, Any]) -> Record:
        """Compare an image's score and map with the thresholds; an exported model without any has judged them."""
        score, anomaly_map = float(found["pred_score"]), found["anomaly_map"]
        good = (self.calibration or {}).get("scores")
        return replace(
            record,
            class_name=found.get("class_name", None if self.model else self.class_name),
            class_name_filter=found.get("class_name_filter"),
            score=score,
            anomalous=bool(_above(np.float32(score), self.image_threshold, found.get("pred_label"))),
            p_value=p_value(score, good) if good else None,
            alarm_level=self.alarm_level,
            image_threshold=self.image_threshold,
            pixel_threshold=self.pixel_threshold,
            anomaly_map=anomaly_map,
            mask=np.asarray(_above(anomaly_map, self.pixel_threshold, found.get("pred_mask"))),
            parts=found.get("parts"),
        )


def load_trained(weights: str, pretrained: str | None = None, **settings: Any) -> GenCLIP:  # noqa: ANN401
    """Load a checkpoint (``.ckpt``), a prompts file (``.safetensors``, or an ``hf://`` URL), or ``"tiny-demo"``.

    ``pretrained`` are CLIP weights instead of those that the model was trained with; needed if these were a file that
    is not here. Other settings are further arguments of :class:`~anomalib_genclip.GenCLIP`.
    """
    settings |= {} if pretrained is None else {"pretrained": pretrained}
    if weights.endswith(".ckpt"):
        return GenCLIP.load_from_checkpoint(weights, map_location="cpu", **settings)
    return GenCLIP(weights=weights, **settings)


def _above(values: Any, threshold: float | None, own: Any) -> Any:  # noqa: ANN401  # numbers or arrays
    """Compare values with a threshold; without one, take the model's own decisions."""
    if threshold is None and own is not None:
        return own.astype(bool)
    return values > np.float32(NATURAL_THRESHOLD if threshold is None else threshold)


def _parts(model: GenCLIPModel, result: ScoreParts, row: int, given: int) -> Parts:
    """Collect what one image's score is made of."""
    branches, distance, names = result.branches, result.distance, model.class_names
    similarity = (names.features[[given, 0]].float() @ branches.embedding[row].float()).tolist()
    grids = {branch: grid[row, 0].float().cpu().numpy() for branch, grid in branches.maps.items()}
    layers = {branch: grids[:, row, 0].float().cpu().numpy() for branch, grids in branches.layers.items()}
    return Parts(
        maps=grids,
        layers={branch: dict(zip(model.map_layers, own, strict=True)) for branch, own in layers.items()},
        top=float(result.top[row]),
        cls=float(branches.cls[row]),
        score_weight=result.cls_weight(model.score_weight),
        class_name=names.names[given],
        used_name=names.names[int(branches.class_index[row])],
        filtering=model.class_name_filter,
        similarity=similarity[0],
        generic_similarity=similarity[1],
        distance=None if distance is None else distance.patches[row].sigmoid().view(model.clip.grid_size).cpu().numpy(),
        cls_distance=None if distance is None or result.masked else float(distance.image[row].exp()),
    )
