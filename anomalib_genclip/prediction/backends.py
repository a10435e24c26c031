# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Run the model with torch, ONNX Runtime or OpenVINO, behind one interface."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from anomalib.pre_processing import PreProcessor
from torch import Tensor
from torchvision.transforms.v2 import Compose, InterpolationMode, Resize, ToDtype

from anomalib_genclip.components.class_names import GENERIC, clean_class_name, suffix_ids
from anomalib_genclip.lightning_model import GenCLIP
from anomalib_genclip.persistence.prompts_file import BUNDLED, prompts_path
from anomalib_genclip.processing.post_processor import NATURAL_THRESHOLD, RawScorePostProcessor
from anomalib_genclip.trained_model import load_trained
from anomalib_genclip.utils.files import is_file
from anomalib_genclip.utils.precision import choose_precision

from .images import Transform
from .settings import TILES, ScoringSettings

_BACKENDS = {".onnx": "onnx", ".xml": "openvino"}
_READABLE = {"onnx": {".onnx"}, "openvino": {".xml", ".onnx"}}
_OUTPUTS = ("anomaly_map", "pred_score")
_INSTALL = "Install it with: pip install onnxruntime openvino."
_TO_FLOAT = ToDtype(torch.float32, scale=True)


class Prediction(NamedTuple):
    """Output of a model for a batch.

    Args:
        anomaly_map (np.ndarray): ``(B, H, W)``, float32, in [0, 1].
        score (np.ndarray): ``(B,)``, in [0, 1].
        mask (np.ndarray): ``(B, H, W)``, bool.
        anomalous (np.ndarray): ``(B,)``, bool.
        class_names (list[str | None]): Class names in the prompts, ``None`` if unknown.
        class_name_filter (list[str | None]): "kept" or "replaced", ``None`` if no name was filtered.
    """

    anomaly_map: np.ndarray
    score: np.ndarray
    mask: np.ndarray
    anomalous: np.ndarray
    class_names: list[str | None]
    class_name_filter: list[str | None]


class Backend(ABC):
    """A model and its runtime.

    Attributes:
        transform (Transform): Applied to each image, ``(3, H, W)``, uint8, before images are stacked to a batch.
        image_threshold (float | None): Images with a higher score are anomalous; ``None`` if the threshold is inside
            the model.
        pixel_threshold (float | None): The same for pixels.
        on_gpu (bool): Whether batches are copied to a GPU.
    """

    transform: Transform
    image_threshold: float | None
    pixel_threshold: float | None
    on_gpu = False

    @abstractmethod
    def __call__(self, images: Tensor, class_names: Sequence[str | None]) -> Prediction:
        """Predict a batch.

        Args:
            images (Tensor): Transformed images of one size, ``(B, 3, H, W)``.
            class_names (Sequence[str | None]): Class name of each image; ``None`` for the model's own.

        Returns:
            Prediction: Scores, maps and masks.
        """

    def why_no_class_name(self, name: str) -> str:
        """Return why the model cannot use a class name, ``""`` if it can."""
        del name
        return ""


class TorchBackend(Backend):
    """GenCLIP in torch.

    Args:
        model (GenCLIP): The model.
        settings (ScoringSettings): Device, precision and thresholds.

    Raises:
        ValueError: If there is no such device.
    """

    def __init__(self, model: GenCLIP, settings: ScoringSettings) -> None:
        self.device = choose_device(settings.accelerator)
        self.precision = model_precision(settings, self.device)
        self.on_gpu = self.device.type != "cpu"
        self.lightning_model = model.eval().to(self.device)
        self.model = model.model
        self.transform = _transform_of(model.pre_processor)
        own = model.post_processor if isinstance(model.post_processor, RawScorePostProcessor) else None
        self.image_threshold, self.pixel_threshold = (
            given if given is not None else float(getattr(own, f"normalized_{name}_threshold", NATURAL_THRESHOLD))
            for name, given in (("image", settings.image_threshold), ("pixel", settings.pixel_threshold))
        )

    def __call__(self, images: Tensor, class_names: Sequence[str | None]) -> Prediction:
        """Predict a batch, and report the decisions of Class Name Filtering."""
        model, own = self.model, self.lightning_model
        names = [name or own.class_name or GENERIC for name in class_names]
        given = model.class_index([own.class_names.get(name, name) for name in names])
        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"),
        ):
            references = model.references.index(class_names, own.class_name)
            parts = model.score_parts(images.to(self.device, non_blocking=True), given, references)
            score = model.image_score(parts).float().cpu().numpy()
            anomaly_map = parts.anomaly_map[:, 0].float().cpu().numpy()
        filtered, used = model.class_name_filter and model.branches != "query", parts.branches.class_index
        decisions = [
            None if not filtered or before == 0 else "kept" if before == after else "replaced"
            for before, after in zip(given.tolist(), used.tolist(), strict=True)
        ]
        return Prediction(
            anomaly_map,
            score,
            anomaly_map > np.float32(self.pixel_threshold),
            score > np.float32(self.image_threshold),
            [GENERIC if model.branches == "query" else model.class_names.names[index] for index in used.tolist()],
            decisions,
        )

    def why_no_class_name(self, name: str) -> str:
        """Return an error if a class name is empty, has no or too many tokens, or has no references."""
        try:
            self.model.references.index([name], self.lightning_model.class_name)
            name = clean_class_name(self.lightning_model.class_names.get(name, name))
            suffix_ids(name, self.model.class_names.max_tokens)
        except ValueError as error:
            return str(error)
        return ""


class ExportedBackend(Backend):
    """An exported model. Resizing and normalization are part of its graph, and its class name is fixed.

    Args:
        settings (ScoringSettings): The settings.
        load (Callable): Opens the file. Returns the shape of its input (names or ``None`` for dynamic sizes), the names
            of its outputs, and a function that maps images ``(B, 3, H, W)``, float32, in [0, 1], to outputs by name.

    Raises:
        ValueError: If the file cannot be opened, is not an exported anomaly model, or does not fit the settings.
        FileNotFoundError: If there is no such file.
    """

    def __init__(
        self,
        settings: ScoringSettings,
        load: Callable[[str, ScoringSettings], tuple[list[Any], list[str], Callable[[np.ndarray], dict]]],
    ) -> None:
        path = settings.weights
        for name in ("class_name", "class_from", "pretrained", *TILES):
            if getattr(settings, name) is not None:
                msg = f"{name} is fixed in an exported model, such as {path}: export it with another one."
                raise ValueError(msg)
        try:
            shape, outputs, self.run = load(path, settings)
        except ImportError as error:
            msg = f"{path} needs a package that is not installed: {error}. {_INSTALL}"
            raise ValueError(msg) from error
        except Exception as error:
            # Each runtime has exception types of its own, without a common base.
            msg = f"{path} cannot be opened as a model: {str(error).strip().splitlines()[-1]}"
            raise ValueError(msg) from error
        missing = [name for name in _OUTPUTS if name not in outputs]
        if missing or len(shape) != 4 or shape[1] != 3:
            what = f"has no output {' and '.join(missing)}" if missing else f"takes {shape} instead of (N, 3, H, W)"
            msg = f"{path} is not an exported model for anomaly detection: it {what}."
            raise ValueError(msg)
        if isinstance(shape[0], int) and shape[0] != settings.batch_size:
            msg = f"{path} was exported for batches of {shape[0]}: give batch_size={shape[0]}."
            raise ValueError(msg)
        self.batch_size = shape[0] if isinstance(shape[0], int) else None
        fixed = [side for side in shape[2:] if isinstance(side, int)]
        self.transform: Transform = _as_it_is
        if len(fixed) == 2:
            resize = Resize(fixed, interpolation=InterpolationMode.BICUBIC, antialias=True)
            self.transform = Compose([_TO_FLOAT, resize])
        self.image_threshold, self.pixel_threshold = settings.image_threshold, settings.pixel_threshold

    def __call__(self, images: Tensor, class_names: Sequence[str | None]) -> Prediction:
        """Predict a batch, with the model's own labels and masks unless thresholds were given."""
        del class_names
        values = _TO_FLOAT(images).numpy()
        short = 0 if self.batch_size is None else self.batch_size - len(values)
        outputs = self.run(np.concatenate([values, *[values[-1:]] * short]))
        outputs = {name: value[: len(values)] for name, value in outputs.items()}
        anomaly_map, score = outputs["anomaly_map"], outputs["pred_score"]
        anomaly_map = anomaly_map.reshape(-1, *anomaly_map.shape[-2:])
        mask = _decided(anomaly_map, self.pixel_threshold, outputs.get("pred_mask")).reshape(anomaly_map.shape)
        anomalous = _decided(score, self.image_threshold, outputs.get("pred_label"))
        unknown: list[str | None] = [None] * len(values)
        return Prediction(anomaly_map, score.reshape(-1), mask, anomalous.reshape(-1), unknown, unknown)


def load_backend(settings: ScoringSettings) -> Backend:
    """Load the model.

    Args:
        settings (ScoringSettings): The settings.

    Returns:
        Backend: The model and its runtime.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file does not fit the settings or the backend.
        ConnectionError: If CLIP's weights cannot be downloaded.
    """
    name = backend_name(settings)
    weights_files(settings.weights)
    if name == "torch":
        given = {name: getattr(settings, name) for name in ("pretrained", "class_name", *TILES)}
        chosen = {name: value for name, value in given.items() if value is not None}
        return TorchBackend(load_trained(settings.weights, **chosen), settings)
    return ExportedBackend(settings, _open_onnx if name == "onnx" else _open_openvino)


def backend_name(settings: ScoringSettings) -> str:
    """Return the name of the backend for the weights.

    Raises:
        ValueError: If the backend cannot run these weights, or not in the requested precision.
    """
    ending = Path(settings.weights).suffix
    name = _BACKENDS.get(ending, "torch") if settings.backend == "auto" else settings.backend
    if ending not in _READABLE.get(name, {ending} - {".onnx", ".xml", ".bin", ".pt", ".pth"}):
        known = "torch reads prompts files (.safetensors) and checkpoints (.ckpt), onnx .onnx, openvino .xml and .onnx"
        msg = f"The backend {name} does not run {settings.weights}: {known}."
        raise ValueError(msg)
    if name == "onnx" and settings.precision == "bf16":
        msg = "ONNX Runtime runs a file in the precision it was exported in: leave precision=bf16 out."
        raise ValueError(msg)
    return name


def model_precision(settings: ScoringSettings, device: torch.device) -> Literal["float32", "bf16"]:
    """Resolve precision "auto" for a backend.

    Args:
        settings (ScoringSettings): The settings.
        device (torch.device): Device of the model.

    Returns:
        Literal["float32", "bf16"]: Precision of the computation.
    """
    name = backend_name(settings)
    if name == "onnx":
        return "float32"  # ONNX Runtime computes as the file says
    return choose_precision(settings.precision, torch.device("cpu") if name == "openvino" else device)


def weights_files(weights: str) -> list[Path]:
    """Return the files of a model.

    Raises:
        FileNotFoundError: If there are none.
    """
    path = prompts_path(weights)
    if not is_file(path):
        msg = f"There are no weights {weights}. Bundled are: {', '.join(BUNDLED)}."
        raise FileNotFoundError(msg)
    others = {".onnx": [Path(f"{path}.data")], ".xml": [path.with_suffix(".bin")]}.get(path.suffix, [])
    return [path, *(other for other in others if other.is_file())]


def choose_device(accelerator: str) -> torch.device:
    """Return the device for a setting.

    Raises:
        ValueError: If there is no such device.
    """
    gpu = torch.accelerator.current_accelerator(check_available=True)
    if accelerator == "gpu" and gpu is None:
        msg = "accelerator=gpu: torch finds no GPU on this machine."
        raise ValueError(msg)
    return torch.device("cpu") if gpu is None or accelerator == "cpu" else gpu


def _transform_of(pre_processor: PreProcessor | None) -> Transform:
    """Return the pre-processor's transform, which gives the same result for one image as for a batch."""
    own = None if pre_processor is None else pre_processor.transform
    return Compose([_TO_FLOAT] if own is None else [_TO_FLOAT, own])


def _as_it_is(image: Tensor) -> Tensor:
    return image


def _decided(values: np.ndarray, threshold: float | None, own: np.ndarray | None) -> np.ndarray:
    """Compare values with a threshold; without one, take the model's own decisions."""
    if threshold is None and own is not None:
        return own.astype(bool)
    return values > np.float32(NATURAL_THRESHOLD if threshold is None else threshold)


def _open_onnx(path: str, settings: ScoringSettings) -> tuple[list[Any], list[str], Callable[[np.ndarray], dict]]:
    """Open a file with ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    wanted = ["CPUExecutionProvider"] if settings.accelerator == "cpu" else onnxruntime.get_available_providers()
    session = onnxruntime.InferenceSession(path, options, providers=wanted)
    (entry,) = session.get_inputs()
    outputs = [output.name for output in session.get_outputs()]
    return entry.shape, outputs, lambda images: dict(zip(outputs, session.run(None, {entry.name: images}), strict=True))


def _open_openvino(path: str, settings: ScoringSettings) -> tuple[list[Any], list[str], Callable[[np.ndarray], dict]]:
    """Open a file with OpenVINO; anomalib's inferencer would leave a cache in the current folder."""
    import openvino

    # By default OpenVINO computes in bfloat16 if the processor supports it.
    hint = {"float32": "f32", "bf16": "bf16"}[model_precision(settings, torch.device("cpu"))]
    options = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    device = {"auto": "CPU", "cpu": "CPU", "gpu": "GPU"}[settings.accelerator]
    model = openvino.Core().compile_model(path, device, options)
    (entry,) = model.inputs
    shape = [side.get_length() if side.is_static else str(side) for side in entry.get_partial_shape()]
    outputs = [output.any_name for output in model.outputs]
    return shape, outputs, lambda images: dict(zip(outputs, model(images).to_tuple(), strict=True))
