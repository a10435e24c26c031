# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""GenCLIP as a model of anomalib.

Paper:
    GenCLIP: Generalizing CLIP Prompts for Zero-shot Anomaly Detection, https://arxiv.org/abs/2504.14919

Example:
    Train on one dataset, test on another:

    >>> from anomalib.data import MVTecAD, Visa
    >>> from anomalib.engine import Engine
    >>> from anomalib_genclip import CrossDataset, GenCLIP  # doctest: +SKIP

    >>> datamodule = CrossDataset(
    ...     source=Visa(), source_categories="all", target=MVTecAD(), target_categories="all"
    ... )  # doctest: +SKIP
    >>> Engine().train(model=GenCLIP(), datamodule=datamodule)  # doctest: +SKIP
"""

from collections import ChainMap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from anomalib import LearningType
from anomalib.data import ImageBatch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from lightning.pytorch import Callback
from lightning.pytorch.utilities.types import STEP_OUTPUT
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import Tensor, nn
from torchvision.transforms.v2 import Compose, InterpolationMode, Normalize, Resize

from .callbacks.epoch_seeds import EpochSeeds
from .callbacks.input_checks import InputChecks
from .callbacks.reference_images import ReferenceImages
from .callbacks.run_setup import RunSetup
from .callbacks.synthetic_anomalies import PerlinAnomalies
from .callbacks.tile_setup import TileSetup
from .clip.backbone import DEFAULT_BACKBONE, DEFAULT_PRETRAINED, backbone_spec, load_clip, resolve_image_size
from .clip.frozen_clip import PatchAttention
from .components.class_names import GENERIC, ClassNames, check_class_names
from .components.loss import GenCLIPLoss
from .evaluation import CategoryEvaluator
from .evaluation.calibration import CalibrationMixin
from .feature_cache.callback import FeatureCache
from .feature_cache.dataset import images_of
from .model_settings import AnomalySource, Branches, ModelSettings, ProductSettings, TileSettings, TrainingSettings
from .persistence.export import AtomicExportMixin
from .persistence.learned_state import LearnedStateMixin
from .persistence.prompts_file import LearnedWeights, load_weights
from .processing.post_processor import RawScorePostProcessor
from .processing.pre_processor import AntialiasedPreProcessor
from .processing.visualizer import CategoryVisualizer
from .torch_model import GenCLIPModel
from .utils.loaders import categories_of
from .utils.settings import NonNegativeFloat, NonNegativeInt, PositiveInt, UnitFloat, checked, checked_path


class GenCLIP(LearnedStateMixin, AtomicExportMixin, CalibrationMixin, AnomalibModule):
    """GenCLIP: zero-shot anomaly detection with general prompts learned on another dataset.

    Args:
        backbone (str | None): An open_clip ViT such as ``"ViT-L-14-336"`` or ``"ViT-B-16-quickgelu"``, or ``"tiny"``,
            the bundled demonstration CLIP. Defaults to ``None``: the backbone of ``weights``, else
            ``"ViT-L-14-336"``.
        pretrained (str | None): An open_clip tag, a local weights file (``.safetensors`` or ``.pt``), or ``None`` for
            random weights. Defaults to ``"openai"``, which stands for the weights that ``weights`` was trained with
            if it is given, and for the bundled ones of ``"tiny"``.
        image_size (int | Sequence[int] | None): Side, or height and width, that images are resized to, in pixels;
            multiples of the patch size. Defaults to ``None``: that of ``weights``, else 518 rounded down to whole
            patches.
        layers (list[int] | None): Feature layers: blocks of the vision tower, counted from 1. Defaults to ``None``:
            those of ``weights``, else the four quarters (6, 12, 18, 24 for ViT-L/14).
        patch_attention (str | None): Patch features: ``"clip"`` for the blocks' outputs, ``"value"`` for value-value
            attention (ours). Defaults to ``None``: that of ``weights``, else ``"clip"``.
        state_length (int | None): Tokens of the normal and of the abnormal prompt, ``n``. Defaults to ``None``: that
            of ``weights``, else 4.
        query_length (int | None): Tokens of the general query prompt and of the vision prompts, ``q``. Defaults to
            ``None``: that of ``weights``, else 4.
        class_name (str | None): Class name for all images. Defaults to ``None``: the category in the batch, else the
            datamodule's category (for ``Folder`` its name), else ``"object"``.
        class_names (dict[str, str] | None): Class names for categories without a meaningful name, such as
            ``{"01": "cable"}``. Defaults to ``None``.
        branches (str | None): Branches that compute map and score: ``"both"``, ``"vision"`` (vision-enhanced) or
            ``"query"`` (query-only). Defaults to ``None``: that of ``weights``, else ``"both"``.
        class_name_filter (bool | None): Class Name Filtering: replace the class name by "object" for images that it
            does not fit. Defaults to ``None``: that of ``weights``, else ``True``.
        smoothing_sigma (float | None): Standard deviation of a Gaussian filter on the anomaly map, in input pixels; 0
            for none. Defaults to ``None``: that of ``weights``, else 0.
        weights (str | Path | None): A prompts file written by :meth:`save_weights`, ``"tiny-demo"``, or
            ``"hf://owner/name[@revision]/file.safetensors"``. The model is then zero-shot and not trained, unless
            ``fine_tune`` is set. Defaults to ``None``.
        fine_tune (bool): Train, starting from ``weights``. Defaults to ``False``.
        learning_rate (float): Adam's initial learning rate for prompts and ``φ``; it decays linearly to zero.
            Defaults to ``1e-3``.
        projection_learning_rate (float): The same for ``ψ``. Defaults to ``1e-3``.
        query_only_prob (float): Probability that a training image is trained with the query-only prompt instead of
            the vision-enhanced one (ours; 0 in the paper). Defaults to ``0.3``.
        vision_dropout (float): Probability that the vision prompts of an image and a layer are dropped in training
            (ours; 0 in the paper). Defaults to ``0.5``.
        image_loss_weight (float): Weight of the cross-entropy on the CLS token (ours; 0 in the paper). Defaults to
            ``0.5``.
        anomaly_source (str): Source of anomalous training images: ``"labels"`` of the training set, ``"synthetic"``
            (anomalib's Perlin generator on normal images), or ``"auto"``: labels if the set has anomalous images.
            Defaults to ``"auto"``.
        epochs (int): Epochs of a run whose trainer has no limit; Lightning's default of 1000 counts as none. Defaults
            to ``15``.
        seed (int | None): Seed of the prompts' initialization, of all random numbers of training and of the drawn
            references, for runs that are reproducible to the last digit on one machine; anomalib's command line reads
            ``seed_everything`` but does not apply it. Defaults to ``None``: torch's current random state.
        feature_cache (str | Path | None): Folder for the vision tower's outputs, so that training runs the tower once
            per image instead of once per epoch. It needs a datamodule without random augmentation, and disk space:
            11 MB per image for ViT-L/14 at 518 px, 1.3 MB for ViT-B/16 at 224 px. Defaults to ``None``.
        k_shot (int): Reference images per category, drawn before testing and prediction from ``few_shot_source``; 0
            for none. Defaults to ``0``.
        few_shot_source (str | Path | None): Folder of normal images of the tested product. Defaults to ``None``: the
            datamodule's normal training images of each category, for ``CrossDataset`` the target's.
        max_reference_patches (int): Maximum number of patches that are kept of a category's reference images. A larger
            number is reduced to a coreset of that size. Defaults to ``10000``.
        image_threshold (float | None): Image score above which an image is anomalous. Defaults to ``None``: that of
            ``weights``, else the one found in validation, else 0.5.
        pixel_threshold (float | None): The same for the map. Defaults to ``None``.
        tile_size (int | Sequence[int] | None): Side, or height and width, of overlapping tiles that large images are
            cut into, in pixels; see the guide on large images. Defaults to ``None``: images are seen whole.
        tile_stride (int | Sequence[int] | None): Maximum distance of tiles. Defaults to ``None``: ¾ of ``tile_size``.
        working_size (int | Sequence[int] | None): Longer side, or height and width, that images are scaled to before
            they are cut, in pixels. Defaults to ``None``: their own size.
        tile_batch_size (int): Tiles that the model sees at once, which bounds memory. Defaults to ``16``.
        tile_training (bool): Replace half of the training images by tiles. Defaults to ``False``.
        pre_processor (nn.Module | bool): Pre-processor, or whether to use the default. Defaults to ``True``.
        post_processor (nn.Module | bool): Post-processor, or whether to use the default, which applies thresholds and
            does not normalize. Defaults to ``True``.
        evaluator (Evaluator | bool): Evaluator, or whether to use the default, which evaluates per category. Defaults
            to ``True``.
        visualizer (Visualizer | bool): Visualizer, or whether to use the default, which saves one visualization per
            image. Defaults to ``True``.

    Raises:
        ValueError: If an argument is invalid or does not fit the backbone; raised before weights are loaded.
        FileNotFoundError: If ``weights`` does not exist.
        ConnectionError: If CLIP's weights cannot be downloaded.

    Example:
        >>> from anomalib_genclip import GenCLIP
        >>> model = GenCLIP(backbone="ViT-B-16", pretrained="laion2b_s34b_b88k")  # doctest: +SKIP
        >>> model = GenCLIP(weights="prompts.safetensors")  # doctest: +SKIP
    """

    torch_model: Callable[[Any, ModelSettings], GenCLIPModel] = GenCLIPModel

    def __init__(
        self,
        backbone: str | None = None,
        pretrained: str | None = DEFAULT_PRETRAINED,
        image_size: int | Sequence[int] | None = None,
        layers: list[int] | None = None,
        patch_attention: PatchAttention | None = None,
        state_length: PositiveInt | None = None,
        query_length: PositiveInt | None = None,
        class_name: str | None = None,
        class_names: dict[str, str] | None = None,
        branches: Branches | None = None,
        class_name_filter: bool | None = None,
        smoothing_sigma: NonNegativeFloat | None = None,
        weights: str | Path | None = None,
        fine_tune: bool = False,
        learning_rate: NonNegativeFloat = 1e-3,
        projection_learning_rate: NonNegativeFloat = 1e-3,
        query_only_prob: UnitFloat = 0.3,
        vision_dropout: UnitFloat = 0.5,
        image_loss_weight: NonNegativeFloat = 0.5,
        anomaly_source: AnomalySource = "auto",
        epochs: PositiveInt = 15,
        seed: NonNegativeInt | None = None,
        feature_cache: str | Path | None = None,
        k_shot: NonNegativeInt = 0,
        few_shot_source: str | Path | None = None,
        max_reference_patches: PositiveInt = 10_000,
        image_threshold: UnitFloat | None = None,
        pixel_threshold: UnitFloat | None = None,
        tile_size: int | Sequence[int] | None = None,
        tile_stride: int | Sequence[int] | None = None,
        working_size: int | Sequence[int] | None = None,
        tile_batch_size: PositiveInt = 16,
        tile_training: bool = False,
        pre_processor: nn.Module | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        prompts = load_weights(path) if (path := checked_path("weights", weights)) else None
        if checked("fine_tune", fine_tune, bool) and prompts is None:
            msg = "fine_tune=True starts from trained prompts: give their file as weights."
            raise ValueError(msg)
        settings = ModelSettings.resolve(
            backbone,
            pretrained,
            image_size,
            layers,
            patch_attention,
            state_length,
            query_length,
            branches,
            class_name_filter,
            smoothing_sigma,
            prompts=prompts,
        )
        cache = checked_path("feature_cache", feature_cache)
        training = TrainingSettings(
            learning_rate,
            projection_learning_rate,
            query_only_prob,
            vision_dropout,
            image_loss_weight,
            anomaly_source,
            epochs,
            seed,
            cache,
        )
        source = checked_path("few_shot_source", few_shot_source)
        self.product = ProductSettings(k_shot, source, max_reference_patches, image_threshold, pixel_threshold)
        tiles = TileSettings(tile_size, tile_stride, working_size, tile_batch_size, tile_training)
        self.class_name = class_name
        self.class_names = check_class_names(class_name, class_names, settings.max_suffix_tokens)
        # Before CLIP is loaded, because it raises if the folder is a file.
        self._feature_cache = FeatureCache(cache) if cache else None
        self.is_zero_shot = prompts is not None and not fine_tune
        resize = self.configure_pre_processor(settings.image_size)
        super().__init__(resize if pre_processor is True else pre_processor, post_processor, evaluator, visualizer)
        # A checkpoint has the resolved settings, so that loading it needs no prompts file.
        groups = [group.as_hparams() for group in (settings, training, self.product, tiles)]
        self.save_hyperparameters(dict(ChainMap(*groups), weights=None, fine_tune=False))
        self._build(settings, training, prompts)
        self._tile_setup = TileSetup(tiles)
        self._tile_setup.apply(self)

    def _build(self, settings: ModelSettings, training: TrainingSettings, prompts: LearnedWeights | None) -> None:
        """Load CLIP, build the torch model and load the prompts."""
        clip = load_clip(settings.spec, settings.pretrained, settings.image_size)
        with torch.random.fork_rng(devices=[], enabled=training.seed is not None):
            if training.seed is not None:
                torch.manual_seed(training.seed)
            self.model = self.torch_model(clip, settings)
        self.loss = GenCLIPLoss(image_weight=training.image_loss_weight)
        self.training_settings = training
        self.pretrained = settings.pretrained
        self.trained_on = ""
        # Each process of a distributed run adds class names in the order of its own batches, so DDP must not
        # broadcast the table of rank 0. DistributedDataParallel reads this attribute.
        self._ddp_params_and_buffers_to_ignore = [f"model.class_names.{name}" for name in ClassNames.__annotations__]
        if prompts is not None:
            self.load_prompts(prompts)
        thresholds: dict[str, Any] = {}
        if prompts is not None and self.is_zero_shot:
            thresholds = {**prompts.thresholds, "calibration": prompts.calibration}
        if self.product.thresholds:
            thresholds |= {"calibration": None, **self.product.thresholds}
        if thresholds and isinstance(self.post_processor, RawScorePostProcessor):
            self.post_processor.set_thresholds(**thresholds)
        if self.class_name is not None:
            self.model.set_default_class(self.class_names.get(self.class_name, self.class_name))

    # Steps

    def training_step(self, batch: ImageBatch, *args, **kwargs) -> STEP_OUTPUT:
        """Compute the loss of the vision-enhanced branch (paper), for some images of the query-only branch (ours)."""
        del args, kwargs
        if batch.gt_mask is None:
            msg = f"Training needs masks, and {_first_path(batch)} has none. Use a source with masks."
            raise ValueError(msg)
        settings, images = self.training_settings, images_of(batch, self.model.projections[0].dtype)
        query_only = torch.rand(len(batch), device=self.device) < settings.query_only_prob
        indices = self._indices(batch)[0]
        maps, cls = self.model.training_logits(images, indices, query_only, settings.vision_dropout)
        loss = self.loss(maps, cls, batch.gt_mask, batch.gt_label)
        if not torch.isfinite(loss):
            msg = (
                f"The loss is {loss.item()} at step {self.global_step}. Training has diverged: lower learning_rate and "
                "projection_learning_rate, or train in another precision. The last checkpoint is unaffected."
            )
            raise ValueError(msg)
        self.log("train_loss", loss.detach(), on_epoch=True, prog_bar=True, logger=True, batch_size=len(batch))
        return {"loss": loss}

    def validation_step(self, batch: ImageBatch, batch_idx: int = 0, dataloader_idx: int = 0) -> STEP_OUTPUT:
        """Predict with the class names that belong to the images."""
        return self.test_step(batch, batch_idx, dataloader_idx)

    def test_step(  # type: ignore[override]
        self, batch: ImageBatch, batch_idx: int = 0, dataloader_idx: int = 0
    ) -> STEP_OUTPUT:
        """Predict with the class names that belong to the images."""
        del batch_idx
        predictions = self.model(
            images_of(batch, self.model.projections[0].dtype), *self._indices(batch, dataloader_idx)
        )
        return batch.update(**predictions._asdict())

    def predict_step(  # type: ignore[override]
        self, batch: ImageBatch, batch_idx: int = 0, dataloader_idx: int = 0
    ) -> STEP_OUTPUT:
        """Predict with the class names that belong to the images."""
        return self.test_step(batch, batch_idx, dataloader_idx)

    def _indices(self, batch: ImageBatch, dataloader_idx: int = 0) -> tuple[Tensor, Tensor | None]:
        """Look up each image's class name (argument, category or "object") and references (category or argument)."""
        categories = categories_of(batch, self._trainer, dataloader_idx)
        names = [self.class_name or category or GENERIC for category in categories]
        classes = self.model.class_index([self.class_names.get(name, name) for name in names])
        return classes, self.model.references.index(categories, self.class_name)

    # Training

    def configure_callbacks(self) -> Sequence[Callback]:
        """Add the callbacks: input checks and anomalies before the pre-processor, seeds and references last."""
        settings, cache = self.training_settings, [] if self._feature_cache is None else [self._feature_cache]
        first = [RunSetup(settings.epochs), self._tile_setup, InputChecks(), PerlinAnomalies(settings.anomaly_source)]
        last = [EpochSeeds(settings.seed), ReferenceImages(self.product, settings.seed)]
        return [*first, *cache, *super().configure_callbacks(), *last]

    def configure_optimizers(self) -> dict[str, Any]:
        """Adam with one learning rate for prompts and ``φ``, another for ``ψ``, both decaying linearly (ours)."""
        optimizer = torch.optim.Adam([
            {"params": self.model.prompts.parameters(), "lr": self.training_settings.learning_rate},
            {"params": self.model.projections.parameters(), "lr": self.training_settings.projection_learning_rate},
        ])

        def remaining(step: int) -> float:
            # Read late, because it creates the loaders, whose datasets the feature cache replaces first.
            return 1.0 if step == 0 else max(0.0, 1 - step / self.trainer.estimated_stepping_batches)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, remaining)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def val_dataloader(self) -> list:
        """Return no loaders. anomalib validates zero-shot models even if there are no validation images."""
        return []

    # What anomalib asks of a model

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """Disable the sanity validation, which would only see untrained prompts."""
        return {"num_sanity_val_steps": 0}

    @property
    def learning_type(self) -> LearningType:
        """Zero-shot or, with ``k_shot``, few-shot with ``weights``, unless they are fine-tuned; one-class otherwise."""
        if not self.is_zero_shot:
            return LearningType.ONE_CLASS
        return LearningType.FEW_SHOT if self.product.k_shot else LearningType.ZERO_SHOT

    @staticmethod
    def configure_pre_processor(image_size: tuple[int, int] | None = None) -> PreProcessor:
        """Resize (bicubic) and normalize as CLIP does.

        Args:
            image_size (tuple[int, int] | None): Height and width; ``None`` for the default backbone's.

        Returns:
            PreProcessor: The pre-processor.
        """
        size = image_size or resolve_image_size(backbone_spec(DEFAULT_BACKBONE), None)
        return AntialiasedPreProcessor(
            Compose([
                Resize(size, interpolation=InterpolationMode.BICUBIC, antialias=True),
                Normalize(mean=OPENAI_DATASET_MEAN, std=OPENAI_DATASET_STD),
            ])
        )

    def configure_post_processor(self) -> PostProcessor:
        """Apply thresholds to raw scores: see :class:`RawScorePostProcessor`."""
        return RawScorePostProcessor()

    @staticmethod
    def configure_evaluator() -> Evaluator:
        """Metrics per category and as the mean over categories."""
        return CategoryEvaluator()

    @classmethod
    def configure_visualizer(cls) -> Visualizer:
        """One visualization per image, in folders by dataset and category."""
        return CategoryVisualizer()


def _first_path(batch: ImageBatch) -> str:
    """Return the path of a batch's first image for a message."""
    paths = getattr(batch, "image_path", None)
    return str(paths[0]) if paths else "an image"
