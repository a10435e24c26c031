# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""GenCLIP as a model of anomalib.

Paper:
    GenCLIP: Generalizing CLIP Prompts for Zero-shot Anomaly Detection, https://arxiv.org/abs/2504.14919

Example:
    Train on one data set, test on another:

    >>> from anomalib.data import MVTecAD, Visa
    >>> from anomalib.engine import Engine
    >>> from anomalib_genclip import CrossDataset, GenCLIP  # doctest: +SKIP

    >>> datamodule = CrossDataset(
    ...     source=Visa(), source_categories="all", target=MVTecAD(), target_categories="all"
    ... )  # doctest: +SKIP
    >>> Engine().train(model=GenCLIP(), datamodule=datamodule)  # doctest: +SKIP
"""

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import IO, Any

import torch
from anomalib import LearningType
from anomalib.data import ImageBatch
from anomalib.data.utils import ValSplitMode
from anomalib.engine.plugins import AnomalibCheckpointIO
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor, nn
from torchmetrics.functional.classification import binary_auroc
from torchvision.transforms.v2 import Compose, InterpolationMode, Normalize, Resize

from .callbacks.epoch_seeds import EpochSeeds
from .callbacks.input_checks import InputChecks
from .callbacks.synthetic_anomalies import ANOMALY_SOURCES, PerlinAnomalies
from .clip.backbone import DEFAULT_BACKBONE, DEFAULT_PRETRAINED, backbone_spec, resolve_image_size, resolve_layers
from .clip.frozen_clip import ImageTokens
from .components.class_names import GENERIC, ClassNames, check_class_names
from .components.loss import GenCLIPLoss
from .evaluation import CategoryEvaluator
from .feature_cache.callback import FeatureBatch, FeatureCache
from .persistence.checkpoint_io import FROZEN, GenCLIPCheckpointIO, check_checkpoint, describe_checkpoint
from .persistence.prompts_file import LearnedWeights, ModelSignature, load_weights
from .processing.post_processor import RawScorePostProcessor
from .processing.pre_processor import AntialiasedPreProcessor
from .processing.visualizer import CategoryVisualizer
from .torch_model import SCORE_WEIGHTS, GenCLIPModel, check_branches, check_prompt_lengths
from .utils.files import atomic_write_folder
from .utils.loaders import origin_of, running_loaders
from .utils.settings import check_flags, check_numbers, check_paths, check_whole_numbers

logger = logging.getLogger(__name__)

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
PROMPT_LENGTH = 4  # n and q (ours)
ONNX_OPSET = 18  # the oldest that torch's exporter writes
_LIGHTNING_DEFAULT_EPOCHS = 1000


class GenCLIP(AnomalibModule):
    """GenCLIP: zero-shot anomaly detection with general prompts learned on another data set.

    Args:
        backbone (str | None): An open_clip ViT such as ``"ViT-L-14-336"`` or ``"ViT-B-16-quickgelu"``, or ``"tiny"``,
            the bundled demonstration CLIP. Defaults to ``None``: what ``weights`` was trained with, else
            ``"ViT-L-14-336"``.
        pretrained (str | None): An open_clip tag, a local weights file (``.safetensors`` or ``.pt``), or ``None`` for
            random weights. Defaults to ``"openai"``.
        image_size (int | Sequence[int] | None): Side, or height and width, that images are resized to, in pixels:
            multiples of the patch size. Defaults to ``None``: as ``weights``, else 518 rounded down to whole patches.
        layers (list[int] | None): Tapped blocks of the vision tower, counted from 1. Defaults to ``None``: as
            ``weights``, else the four quarters (6, 12, 18, 24 for ViT-L/14).
        state_length (int | None): Tokens of the normal and of the abnormal prompt, ``n``. Defaults to ``None``: as
            ``weights``, else 4.
        query_length (int | None): Tokens of the general query prompt and of the vision prompts, ``q``. Defaults to
            ``None``: as ``weights``, else 4.
        class_name (str | None): Class name for all images. Defaults to ``None``: the category in the batch, else the
            datamodule's category (for ``Folder`` its name), else ``"object"``.
        class_names (dict[str, str] | None): Names for categories that say nothing, such as ``{"01": "cable"}``.
            Defaults to ``None``.
        branches (str): ``"both"``, ``"vision"`` (vision-enhanced only) or ``"query"`` (query-only only) make map and
            score. Defaults to ``"both"``.
        class_name_filter (bool): Class Name Filtering: replace the class name by "object" for images that it does
            not fit. Defaults to ``True``.
        smoothing_sigma (float): Standard deviation of a Gaussian on the anomaly map, in input pixels; 0 for none.
            Defaults to ``0.0``.
        weights (str | Path | None): A prompts file written by :meth:`save_weights`, or ``"tiny-demo"``. The model is
            then zero-shot: it is used as it is, and training leaves it alone. Defaults to ``None``.
        fine_tune (bool): Train on from ``weights``. Defaults to ``False``.
        learning_rate (float): Adam's learning rate for prompts and ``φ`` at the start; it falls to zero in a line.
            Defaults to ``1e-3``.
        projection_learning_rate (float): The same for ``ψ``. Defaults to ``1e-4``.
        query_only_prob (float): Share of the training images that see the query-only prompt instead of the
            vision-enhanced one (ours; the paper's is 0). Defaults to ``0.3``.
        image_loss_weight (float): Weight of the cross-entropy on the CLS token (ours; the paper's is 0). Defaults to
            ``0.5``.
        anomaly_source (str): Where anomalous training images come from: ``"labels"`` of the training set,
            ``"synthetic"`` (anomalib's Perlin generator on normal images), or ``"auto"``: labels if the set has
            anomalous images. Defaults to ``"auto"``.
        epochs (int): Epochs of a run whose trainer was given no limit. Defaults to ``15``.
        feature_cache (str | Path | None): Folder in which training keeps the vision tower's features, so that the
            tower sees each image once and not once per epoch. It needs a datamodule without random augmentation, and
            disk space: 11 MB per image for ViT-L/14 at 518 px, 1.3 MB for ViT-B/16 at 224 px. Defaults to ``None``.
        pre_processor (nn.Module | bool): Pre-processor, or whether to use the default. Defaults to ``True``.
        post_processor (nn.Module | bool): Post-processor, or whether to use the default, which keeps thresholds and
            does not normalise. Defaults to ``True``.
        evaluator (Evaluator | bool): Evaluator, or whether to use the default, which evaluates per category. Defaults
            to ``True``.
        visualizer (Visualizer | bool): Visualizer, or whether to use the default, which writes one picture per image.
            Defaults to ``True``.

    Raises:
        ValueError: If an argument is unknown or does not fit the backbone, before any weight is loaded.
        FileNotFoundError: If ``weights`` does not exist.
        ConnectionError: If CLIP's weights cannot be downloaded.

    Example:
        >>> from anomalib_genclip import GenCLIP
        >>> model = GenCLIP(backbone="ViT-B-16", pretrained="laion2b_s34b_b88k")  # doctest: +SKIP
        >>> model = GenCLIP(weights="prompts.safetensors")  # doctest: +SKIP
    """

    def __init__(
        self,
        backbone: str | None = None,
        pretrained: str | None = DEFAULT_PRETRAINED,
        image_size: int | Sequence[int] | None = None,
        layers: list[int] | None = None,
        state_length: int | None = None,
        query_length: int | None = None,
        class_name: str | None = None,
        class_names: dict[str, str] | None = None,
        branches: str = "both",
        class_name_filter: bool = True,
        smoothing_sigma: float = 0.0,
        weights: str | Path | None = None,
        fine_tune: bool = False,
        learning_rate: float = 1e-3,
        projection_learning_rate: float = 1e-4,
        query_only_prob: float = 0.3,
        image_loss_weight: float = 0.5,
        anomaly_source: str = "auto",
        epochs: int = 15,
        feature_cache: str | Path | None = None,
        pre_processor: nn.Module | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        check_flags(fine_tune=fine_tune, class_name_filter=class_name_filter)
        check_paths(weights=weights, feature_cache=feature_cache)
        learned = load_weights(weights) if weights is not None else None
        if learned is None and fine_tune:
            msg = "fine_tune=True starts from trained prompts: give their file as weights."
            raise ValueError(msg)
        if learned is not None:
            backbone = _given(backbone, learned.signature.backbone)
            pretrained = learned.pretrained if pretrained == DEFAULT_PRETRAINED else pretrained
            image_size = _given(image_size, learned.image_size)
            layers = _given(layers, learned.signature.layers)
            state_length = _given(state_length, learned.signature.state_length)
            query_length = _given(query_length, learned.signature.query_length)
        # The settings are resolved in place, because Lightning saves these variables as hyperparameters: a checkpoint
        # then stands for itself, without the prompts file.
        zero_shot = learned is not None and not fine_tune
        weights, fine_tune = None, False
        backbone = _given(backbone, DEFAULT_BACKBONE)
        spec = backbone_spec(backbone)
        image_size = resolve_image_size(spec, image_size)
        layers = resolve_layers(spec, layers)
        state_length = _given(state_length, PROMPT_LENGTH)
        query_length = _given(query_length, PROMPT_LENGTH)
        check_branches(branches)
        check_prompt_lengths(state_length, query_length, spec.context_length)
        class_names = check_class_names(class_name, class_names, spec.context_length - 1 - state_length - query_length)
        check_numbers(
            # The blur reaches four standard deviations to each side, and mirrors the map no further than its own size.
            smoothing_sigma=(smoothing_sigma, 0, (min(image_size) - 1) / 4),
            learning_rate=(learning_rate, 0, None),
            projection_learning_rate=(projection_learning_rate, 0, None),
            query_only_prob=(query_only_prob, 0, 1),
            image_loss_weight=(image_loss_weight, 0, None),
        )
        check_whole_numbers(epochs=(epochs, 1, None))
        # numpy's numbers would make the checkpoint one that is read with weights_only=False alone.
        epochs, smoothing_sigma, learning_rate = int(epochs), float(smoothing_sigma), float(learning_rate)
        projection_learning_rate, query_only_prob = float(projection_learning_rate), float(query_only_prob)
        image_loss_weight = float(image_loss_weight)
        if anomaly_source not in ANOMALY_SOURCES:
            msg = f"anomaly_source={anomaly_source!r} is unknown. Choose one of {', '.join(ANOMALY_SOURCES)}."
            raise ValueError(msg)
        # A path object would make the checkpoint one that cannot be read with weights_only=True.
        feature_cache = None if feature_cache is None else str(feature_cache)
        cache = None if feature_cache is None else FeatureCache(feature_cache)
        if pre_processor is True:
            pre_processor = self.configure_pre_processor(image_size)

        super().__init__(
            pre_processor=pre_processor, post_processor=post_processor, evaluator=evaluator, visualizer=visualizer
        )
        self.model = GenCLIPModel(
            backbone=backbone,
            pretrained=pretrained,
            image_size=image_size,
            layers=layers,
            state_length=state_length,
            query_length=query_length,
            branches=branches,
            class_name_filter=class_name_filter,
            smoothing_sigma=smoothing_sigma,
        )
        self.loss = GenCLIPLoss(image_weight=image_loss_weight)
        self.pretrained = pretrained
        self.class_name = class_name
        self.class_names = class_names
        self.learning_rate = learning_rate
        self.projection_learning_rate = projection_learning_rate
        self.query_only_prob = query_only_prob
        self.anomaly_source = anomaly_source
        self.epochs = epochs
        self._feature_cache = cache
        self.trained_on = ""
        self._zero_shot = zero_shot
        self._held_out: list[tuple[Tensor, Tensor, Tensor]] = []
        # Each process of a distributed run meets the class names in its own order, so the first one's table must not
        # be copied over the others'. torch reads this attribute when it makes the module a distributed one.
        self._ddp_params_and_buffers_to_ignore = [f"model.class_names.{name}" for name in ClassNames.__annotations__]
        if learned is not None:
            self.load_prompts(learned)
        if class_name is not None:
            self.model.set_default_class(class_names.get(class_name, class_name))

    # Steps

    def training_step(self, batch: ImageBatch, *args, **kwargs) -> STEP_OUTPUT:
        """Compute the loss of the vision-enhanced branch (paper), for some images of the query-only prompt (ours)."""
        del args, kwargs
        if batch.gt_mask is None:
            msg = f"Training needs masks, and {_first_path(batch)} comes without one. Use a source with masks."
            raise ValueError(msg)
        query_only = torch.rand(len(batch), device=self.device) < self.query_only_prob
        maps, cls = self.model.training_logits(self._images(batch), self._class_index(batch), query_only)
        loss = self.loss(maps, cls, batch.gt_mask, batch.gt_label)
        if not torch.isfinite(loss):
            msg = (
                f"The loss is {loss.item()} at step {self.global_step}. Training has diverged: lower learning_rate and "
                "projection_learning_rate, or train in another precision. The last checkpoint is from before."
            )
            raise ValueError(msg)
        self.log("train_loss", loss.detach(), on_epoch=True, prog_bar=True, logger=True, batch_size=len(batch))
        return {"loss": loss}

    def validation_step(self, batch: ImageBatch, batch_idx: int = 0, dataloader_idx: int = 0) -> STEP_OUTPUT:
        """Predict; while training, keep the parts of the image score: their weight is chosen when all are seen."""
        del batch_idx
        if self._nothing_to_validate:
            return batch
        parts = self.model.score_parts(self._images(batch), self._class_index(batch, dataloader_idx))
        if batch.gt_label is not None and self._chooses_score_weight:
            self._held_out.append((parts.top, parts.cls, batch.gt_label))
        return batch.update(pred_score=self.model.image_score(parts), anomaly_map=parts.anomaly_map)

    def test_step(  # type: ignore[override]
        self, batch: ImageBatch, batch_idx: int = 0, dataloader_idx: int = 0
    ) -> STEP_OUTPUT:
        """Predict with the class names that belong to the images."""
        del batch_idx
        predictions = self.model(self._images(batch), self._class_index(batch, dataloader_idx))
        return batch.update(**predictions._asdict())

    def predict_step(  # type: ignore[override]
        self, batch: ImageBatch, batch_idx: int = 0, dataloader_idx: int = 0
    ) -> STEP_OUTPUT:
        """Predict with the class names that belong to the images."""
        return self.test_step(batch, batch_idx, dataloader_idx)

    @property
    def _nothing_to_validate(self) -> bool:
        """Whether nobody asks for validation's predictions: anomalib validates zero-shot models before each test."""
        kept = isinstance(self.post_processor, RawScorePostProcessor) and self.post_processor.keep_thresholds
        return self._zero_shot and kept and not getattr(self.evaluator, "val_metrics", None)

    @property
    def _chooses_score_weight(self) -> bool:
        """Whether ``w`` is chosen: while training, and not on what will be the test images."""
        if self._trainer is None:
            return False
        split = getattr(getattr(self.trainer, "datamodule", None), "val_split_mode", None)
        return self.trainer.state.fn == TrainerFn.FITTING and split != ValSplitMode.SAME_AS_TEST

    def _images(self, batch: ImageBatch) -> Tensor | ImageTokens:
        """Images of a batch, or their features where :class:`FeatureCache` has put those in their place."""
        dtype = self.model.projections[0].dtype
        if isinstance(batch, FeatureBatch):
            return batch.tokens(dtype)
        images: Tensor = batch.image
        return images.to(dtype)  # anomalib's batches make float32 of them whatever the trainer's precision is

    # Class names

    def _class_index(self, batch: ImageBatch, dataloader_idx: int = 0) -> Tensor:
        """Find each image's class name: argument, batch, data set or datamodule of its loader, "object"."""
        size = len(batch)
        fallback = self._loader_category(dataloader_idx)
        own = [self.class_name] * size if self.class_name is not None else getattr(batch, "category", None)
        names = [name or fallback for name in own or [None] * size]
        return self.model.class_index([self.class_names.get(name, name) for name in names])

    def _loader_category(self, dataloader_idx: int) -> str:
        """Category of a running loader, or "object"."""
        if self._trainer is None:
            return GENERIC
        return origin_of(self.trainer, running_loaders(self.trainer)[dataloader_idx]).category or GENERIC

    # Training: anomalous images, epochs, optimiser

    def configure_callbacks(self) -> Sequence[Callback]:
        """Check images and add anomalies before the pre-processor, add the feature cache, and seed after all."""
        cache = [] if self._feature_cache is None else [self._feature_cache]
        first = [InputChecks(), PerlinAnomalies(self.anomaly_source)]
        return [*first, *cache, *super().configure_callbacks(), EpochSeeds()]

    def setup(self, stage: str) -> None:
        """Have checkpoints written whole and read with care, and bound the number of epochs.

        Raises:
            ValueError: If training is to be done in float16 alone.
        """
        _share_results_folder(self.trainer)
        strategy = self.trainer.strategy
        if type(strategy.checkpoint_io) is AnomalibCheckpointIO:  # nobody gave another
            strategy.checkpoint_io = GenCLIPCheckpointIO(strategy.checkpoint_io.extra_safe_globals)
        self._warn_of_unused_class_names()
        if stage != "fit":
            return
        if self.trainer.precision == "16-true":
            msg = (
                "precision='16-true' cannot train: Adam's small numbers are zero in float16. Choose '16-mixed', "
                "'bf16-mixed' or 'bf16-true'; testing and prediction work with '16-true'."
            )
            raise ValueError(msg)
        # Lightning's default of 1000 epochs means that nobody gave a limit. anomalib's trainer_arguments would
        # override a limit that somebody did give.
        if self.trainer.max_epochs == _LIGHTNING_DEFAULT_EPOCHS and self.trainer.max_steps == -1:
            self.trainer.fit_loop.max_epochs = self.epochs
        datamodule = getattr(self.trainer, "datamodule", None)
        self.trained_on = " ".join(filter(None, (getattr(datamodule, key, "") for key in ("name", "category"))))

    def _warn_of_unused_class_names(self) -> None:
        """Say so if ``class_names`` knows none of the data's categories."""
        datamodule = getattr(self.trainer, "datamodule", None)
        if datamodule is None:
            return
        subsets = [getattr(datamodule, key, None) for key in ("train_data", "val_data", "test_data")]
        tables = [samples for data in subsets if (samples := getattr(data, "samples", None)) is not None]
        own = (self.class_name, getattr(datamodule, "category", None), getattr(datamodule, "name", None))
        categories = {str(next(filter(None, own), GENERIC))}
        categories |= {str(name) for table in tables if "category" in table for name in table["category"].unique()}
        if self.class_names and not categories & self.class_names.keys():
            logger.warning(
                "class_names has none of the categories of the data (%s): %s. They must be the same texts.",
                ", ".join(sorted(categories)),
                ", ".join(self.class_names),
            )

    def configure_optimizers(self) -> dict[str, Any]:
        """Adam with one learning rate for prompts and ``φ``, another for ``ψ``, both falling to zero evenly (ours)."""
        optimizer = torch.optim.Adam([
            {"params": self.model.prompts.parameters(), "lr": self.learning_rate},
            {"params": self.model.projections.parameters(), "lr": self.projection_learning_rate},
        ])
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._learning_rate_share)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _learning_rate_share(self, step: int) -> float:
        """Share of the learning rates that is left at a step."""
        # The number of steps is asked for late: asking makes the loaders, and the feature cache replaces their data.
        return 1.0 if step == 0 else max(0.0, 1 - step / self.trainer.estimated_stepping_batches)

    def on_validation_epoch_end(self) -> None:
        """Choose ``w`` by the image AUROC on the held-out images (ours), and fit the threshold to it."""
        held_out, self._held_out = self._held_out, []
        if not held_out or self.trainer.sanity_checking:
            return
        top, cls, label = (self._gather(torch.cat(parts)) for parts in zip(*held_out, strict=True))
        if label.min() == label.max():
            return
        old = self.model.score_weight.item()
        scores = {weight: torch.lerp(top, cls, weight) for weight in SCORE_WEIGHTS}
        # The middle weight wins ties: it is the least extreme.
        best = max(
            scores, key=lambda weight: (binary_auroc(scores[weight], label.int()).item(), weight == SCORE_WEIGHTS[1])
        )
        self.model.score_weight.fill_(best)
        if best != old:
            self._refit_image_threshold(scores[best], label)

    def _gather(self, values: Tensor) -> Tensor:
        """Collect values of all processes, ``(n,)``."""
        return self.all_gather(values).flatten() if self.trainer.world_size > 1 else values

    def _refit_image_threshold(self, scores: Tensor, labels: Tensor) -> None:
        """Have the post-processor find its image threshold anew: it has seen scores of the former weight."""
        if not isinstance(self.post_processor, PostProcessor):
            return
        batch = ImageBatch(image=torch.zeros(len(scores), 3, 1, 1), pred_score=scores, gt_label=labels)
        self.post_processor.on_validation_batch_end(self.trainer, self, batch)
        self.post_processor.on_validation_epoch_end(self.trainer, self)

    def val_dataloader(self) -> list:
        """No images of its own. anomalib validates zero-shot models even where there is nothing to validate on."""
        return []

    # Learned weights and checkpoints

    @property
    def signature(self) -> ModelSignature:
        """What the learned tensors fit to."""
        model = self.model
        return ModelSignature(
            backbone=model.backbone,
            fingerprint=model.fingerprint,
            layers=model.layers,
            state_length=len(model.prompts.normal),
            query_length=len(model.prompts.query),
        )

    def save_weights(self, path: str | Path) -> Path:
        """Write the learned tensors and thresholds, without CLIP, into a prompts file.

        In a distributed run the first process writes it.

        Args:
            path (str | Path): A ``*.safetensors`` file.

        Returns:
            Path: The file.

        Raises:
            ValueError: If the name has another ending, or a tensor is not finite.
        """
        tensors = {key: value for key, value in self.model.state_dict().items() if not key.startswith("clip.")}
        thresholds = dict.fromkeys(("image", "pixel"), torch.tensor(float("nan")))
        if isinstance(self.post_processor, RawScorePostProcessor):
            thresholds = self.post_processor.raw_thresholds()
        path = Path(path)
        weights = LearnedWeights(
            signature=self.signature,
            pretrained=None if self.pretrained is None else Path(self.pretrained).name,
            image_size=self.model.image_size,
            trained_on=self.trained_on,
            tensors=tensors,
            thresholds=thresholds,
        )
        return weights.save(path) if getattr(self._trainer, "is_global_zero", True) else path

    def load_prompts(self, learned: LearnedWeights) -> None:
        """Take over the contents of a prompts file."""
        self.signature.check(learned.signature, learned.source)
        state = {f"model.{key}": value for key, value in learned.tensors.items()}
        own = {key: value for key, value in self.state_dict().items() if key.startswith("model.")}
        for key in own.keys() - state.keys():
            if not key.startswith(FROZEN):
                msg = f"{learned.source} lacks the tensor {key!r}."
                raise ValueError(msg)
        for key, value in state.items():
            learnable = key in own and not key.startswith(FROZEN)
            if not learnable or own[key].shape != value.shape:
                expected = tuple(own[key].shape) if learnable else "no such tensor"
                msg = f"{learned.source}: tensor {key!r} has shape {tuple(value.shape)}, the model has {expected}."
                raise ValueError(msg)
        super().load_state_dict(state, strict=False)
        self.trained_on = learned.trained_on
        if self._zero_shot and isinstance(self.post_processor, RawScorePostProcessor):
            self.post_processor.set_thresholds(**learned.thresholds)

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: str | Path | IO, *args: Any, **kwargs: Any) -> "GenCLIP":  # noqa: ANN401
        """Load a model from a checkpoint.

        Args:
            checkpoint_path (str | Path | IO): The checkpoint.
            *args (Any): As in anomalib.
            **kwargs (Any): As in anomalib, which passes unknown ones to the model in place of the checkpoint's.

        Returns:
            GenCLIP: The model.

        Raises:
            ValueError: If the checkpoint is damaged, holds what could run code, or belongs to another model.
        """
        # Refuses what must not be used, before Lightning reads the file once more.
        GenCLIPCheckpointIO(cls.checkpoint_safe_globals()).load_checkpoint(checkpoint_path, map_location="cpu")
        # The file must not choose where this machine reads prompts and keeps features.
        here = {"weights": None, "fine_tune": False, "feature_cache": None}
        return super().load_from_checkpoint(checkpoint_path, *args, **{**here, **kwargs})  # type: ignore[arg-type]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave CLIP out of the checkpoint and say what the rest fits to."""
        super().on_save_checkpoint(checkpoint)
        describe_checkpoint(checkpoint, {**asdict(self.signature), "trained_on": self.trained_on})

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse checkpoints of another backbone or other layers, and damaged ones."""
        source = f"The checkpoint {getattr(self._trainer, 'ckpt_path', None) or ''}".rstrip()
        check_checkpoint(checkpoint, source)  # here, too: the trainer may have been given another reader
        description = checkpoint["genclip"]
        self.signature.check(ModelSignature.parse(description, source), source)
        self.trained_on = str(description["trained_on"])
        super().on_load_checkpoint(checkpoint)

    def load_state_dict(self, state_dict: dict[str, Any], strict: bool = True, assign: bool = False) -> Any:  # noqa: ANN401
        """Load a state that may lack the frozen CLIP, and nothing else.

        Raises:
            RuntimeError: If a learned tensor is missing, or there are unknown ones.
        """
        result = super().load_state_dict(state_dict, strict=False, assign=assign)
        missing = [key for key in result.missing_keys if not key.startswith(FROZEN)]
        if strict and (missing or result.unexpected_keys):
            msg = f"Wrong tensors in the state of GenCLIP: missing {missing}, unknown {result.unexpected_keys}."
            raise RuntimeError(msg)
        return result

    # Export

    def to_torch(self, export_root: Path | str, model_file_name: str = "model") -> Path:
        """Export as a torch file, as anomalib does, whole or not at all."""
        self._warn_of_generic_class_name()
        write = partial(super().to_torch, model_file_name=model_file_name)
        return atomic_write_folder(Path(export_root), write)

    def to_onnx(
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        **kwargs: Any,  # noqa: ANN401  # torch.onnx.export's
    ) -> Path:
        """Export to ONNX as anomalib does, but whole or not at all, and with the opset that torch's exporter writes.

        anomalib asks for opset 14, and torch then prints the traceback of a conversion that fails.
        """
        self._warn_of_generic_class_name()
        # anomalib's command line shows all loggers' notes, and this one writes a thousand about merged constants.
        logging.getLogger("onnx_ir").setLevel(logging.WARNING)
        kwargs = {"opset_version": ONNX_OPSET, **kwargs}
        write = partial(super().to_onnx, model_file_name=model_file_name, input_size=input_size, **kwargs)
        return atomic_write_folder(Path(export_root), write)

    def to_openvino(self, export_root: Path | str, *args: Any, **kwargs: Any) -> Path:  # noqa: ANN401  # anomalib's
        """Export to OpenVINO as anomalib does, whole or not at all."""
        export = super().to_openvino
        return atomic_write_folder(Path(export_root), lambda folder: export(folder, *args, **kwargs))

    def _warn_of_generic_class_name(self) -> None:
        """Say that an export has no class name: ``anomalib export --ckpt_path`` takes the checkpoint's, if any."""
        if self.model.branches != "query" and int(self.model.default_class) == 0:
            logger.warning(
                "Exported without a class name: the model takes every image for an %r. Give class_name where the model "
                "is built, or to GenCLIP.load_from_checkpoint(path, class_name=...).",
                GENERIC,
            )

    # What anomalib asks of a model

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """No sanity validation: it would look at untrained prompts only."""
        return {"num_sanity_val_steps": 0}

    @property
    def learning_type(self) -> LearningType:
        """Zero-shot with ``weights``, unless they are fine-tuned; otherwise the model is trained."""
        # The base class asks before __init__ is through.
        return LearningType.ZERO_SHOT if getattr(self, "_zero_shot", False) else LearningType.ONE_CLASS

    @staticmethod
    def configure_pre_processor(image_size: tuple[int, int] | None = None) -> PreProcessor:
        """Resize (bicubic) and normalise as CLIP does.

        Args:
            image_size (tuple[int, int] | None): Height and width; ``None`` gives the default backbone's.

        Returns:
            PreProcessor: The pre-processor.
        """
        size = image_size or resolve_image_size(backbone_spec(DEFAULT_BACKBONE), None)
        return AntialiasedPreProcessor(
            Compose([
                Resize(size, interpolation=InterpolationMode.BICUBIC, antialias=True),
                Normalize(mean=CLIP_MEAN, std=CLIP_STD),
            ])
        )

    def configure_post_processor(self) -> PostProcessor:
        """Thresholds on raw scores: see :class:`RawScorePostProcessor`."""
        return RawScorePostProcessor()

    @staticmethod
    def configure_evaluator() -> Evaluator:
        """Metrics per category and as the mean over categories."""
        return CategoryEvaluator()

    @classmethod
    def configure_visualizer(cls) -> Visualizer:
        """One picture per image, sorted by data set and category."""
        return CategoryVisualizer()


def _share_results_folder(trainer: Trainer) -> None:
    """Make "latest" lead to the first process's results.

    anomalib makes each process of a distributed run a results folder, of which the last one becomes the latest.
    """
    if trainer.world_size == 1:
        return
    own = Path(trainer.default_root_dir)
    first = Path(trainer.strategy.broadcast(str(own)))
    if own != first:
        with suppress(OSError):  # there is something in it, or nothing at all
            own.rmdir()
    latest = first.parent / "latest"
    if trainer.is_global_zero and latest.is_symlink() and latest.resolve() != first.resolve():
        latest.unlink()
        latest.symlink_to(first, target_is_directory=True)


def _given(value: Any, default: Any) -> Any:  # noqa: ANN401
    """Return a setting, or its default if it was not given; 0 and [] are given, and wrong."""
    return default if value is None else value


def _first_path(batch: ImageBatch) -> str:
    """Name the first image of a batch for a message."""
    paths = getattr(batch, "image_path", None)
    return str(paths[0]) if paths else "an image"
