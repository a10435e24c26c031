# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""GenCLIP (https://arxiv.org/abs/2504.14919) as a model of anomalib."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import IO, Any

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
from torch import Tensor, nn

from .callbacks.epoch_seeds import EpochSeeds
from .callbacks.input_checks import InputChecks
from .callbacks.reference_images import ReferenceImages
from .callbacks.run_setup import RunSetup, TileSetup
from .callbacks.synthetic_anomalies import PerlinAnomalies
from .clip.backbone import DEFAULT_BACKBONE, backbone_spec, load_clip, resolve_image_size
from .clip.frozen_clip import PatchAttention
from .components.class_names import ClassNames, NameRule
from .components.ignore_mask import read_ignore_mask
from .components.loss import GenCLIPLoss
from .evaluation import CategoryEvaluator
from .feature_cache.callback import FeatureCache
from .feature_cache.dataset import images_of
from .model_settings import Branches, ModelSettings
from .persistence.export import ONNX_OPSET, check_dynamic_size, export_atomically
from .persistence.learned_state import (
    check_keys,
    load_prompts,
    read_checkpoint,
    save_weights,
    settings_for_checkpoint,
    write_checkpoint,
)
from .persistence.prompts_file import LearnedWeights, load_weights
from .processing.post_processor import RawScorePostProcessor
from .processing.pre_processor import clip_pre_processor
from .processing.visualizer import CategoryVisualizer
from .settings import TileSettings, TrainingSettings, as_settings, refuse_unknown, tiles_of
from .torch_model import GenCLIPModel, set_ignore_mask
from .utils.loaders import categories_of
from .utils.settings import NonNegativeFloat, NonNegativeInt, PositiveInt, UnitFloat, checked, checked_path


class GenCLIP(AnomalibModule):
    """GenCLIP: zero-shot anomaly detection with general prompts learned on another dataset.

    Args:
        backbone (str | None): An open_clip ViT such as ``"ViT-L-14-336"`` or ``"ViT-B-16-quickgelu"``, or ``"tiny"``,
            the bundled demonstration CLIP. Defaults to ``None``: that of ``weights``, else ``"ViT-L-14-336"``.
        pretrained (str | None): CLIP's weights: an open_clip tag, a ``.safetensors`` or ``.pt`` file, or ``"random"``.
            Defaults to ``None``: those of ``weights``, else ``"openai"``, for ``"tiny"`` the bundled ones.
        image_size (int | Sequence[int] | None): Side, or height and width, that images are resized to, in pixels;
            multiples of the patch size. Defaults to ``None``: that of ``weights``, else 518 rounded down to patches.
        layers (list[int] | None): Feature layers: blocks of the vision tower, counted from 1. Defaults to ``None``:
            those of ``weights``, else the four quarters (6, 12, 18, 24 for ViT-L/14).
        patch_attention (str | None): Patch features: ``"clip"`` for the blocks' outputs, ``"value"`` for value-value
            attention (ours). Defaults to ``None``: that of ``weights``, else ``"clip"``.
        prompt_length (int | None): Tokens of the normal, the abnormal and the general query prompt and of the vision
            prompts, ``n = q``. Defaults to ``None``: that of ``weights``, else 4.
        class_name (str | dict[str, str] | None): Name for all images, or names for categories without a meaningful one,
            such as ``{"01": "cable"}``. Defaults to ``None``: the category, else that of ``weights``, else "object".
        branches (str | None): Branches that compute map and score: ``"both"``, ``"vision"`` (vision-enhanced) or
            ``"query"`` (query-only). Defaults to ``None``: that of ``weights``, else ``"both"``.
        class_name_filter (bool | None): Class Name Filtering: replace the class name by "object" for images that it
            does not fit. Defaults to ``None``: that of ``weights``, else ``True``.
        smoothing_sigma (float | None): Standard deviation of a Gaussian filter on the anomaly map, in input pixels; 0
            for none. Defaults to ``None``: that of ``weights``, else 0.
        score_weight (float | None): ``w``, share of the CLS token in the image score; the rest is the top of
            the map. Defaults to ``None``: that of ``weights``, else 0.5.
        weights (str | Path | None): A prompts file written by :meth:`save_weights`, ``"tiny-demo"``, or
            ``"hf://owner/name[@revision]/file.safetensors"``. The model is then zero-shot and not trained, unless
            ``fine_tune`` is set. Defaults to ``None``.
        fine_tune (bool): Train, starting from ``weights``. Defaults to ``False``.
        training (TrainingSettings | None): How it is trained. Defaults to ``None``: the defaults of that class.
        seed (int | None): Seed of the prompts' initialization, of training and of the drawn references, for runs that
            are reproducible to the last digit on one machine. Defaults to ``None``: torch's current random state.
        k_shot (int): Reference images per category, drawn before testing and prediction from ``few_shot_source``; 0
            for none. Defaults to ``0``.
        few_shot_source (str | Path | None): Folder of normal images of the tested product. Defaults to ``None``: the
            datamodule's normal training images of each category, for ``CrossDataset`` the target's.
        max_reference_patches (int): Most patches kept of a category's references, as a coreset. Defaults to ``10000``.
        tiles (TileSettings | None): Overlapping tiles that large images are cut into. Defaults to ``None``: those that
            ``weights`` was calibrated with, else images are seen whole.
        ignore_mask (str | Path | None): A PNG of the shape of the images, in which white does not count, or a folder of
            them: see :class:`~.components.ignore_mask.IgnoreMask`. Defaults to ``None``: that of ``weights``.
        pre_processor (nn.Module | bool): Pre-processor, or whether to use the default. Defaults to ``True``.
        post_processor (nn.Module | bool): Likewise; the default's thresholds are on raw scores. Defaults to ``True``.
        evaluator (Evaluator | bool): Evaluator, or whether to use the default, per category. Defaults to ``True``.
        visualizer (Visualizer | bool): Visualizer, or whether to use the default, per image. Defaults to ``True``.
        **unknown (Any): Arguments of earlier versions; the error says what they are called now.

    Raises:
        TypeError: If there is no such argument.
        ValueError: If an argument is invalid or does not fit the backbone; raised before weights are loaded.
        FileNotFoundError: If ``weights`` does not exist.
        ConnectionError: If CLIP's weights cannot be downloaded.
    """

    torch_model: Callable[[Any, ModelSettings], GenCLIPModel] = GenCLIPModel

    def __init__(
        self,
        backbone: str | None = None,
        pretrained: str | None = None,
        image_size: int | Sequence[int] | None = None,
        layers: list[int] | None = None,
        patch_attention: PatchAttention | None = None,
        prompt_length: PositiveInt | None = None,
        class_name: str | dict[str, str] | None = None,
        branches: Branches | None = None,
        class_name_filter: bool | None = None,
        smoothing_sigma: NonNegativeFloat | None = None,
        score_weight: UnitFloat | None = None,
        weights: str | Path | None = None,
        fine_tune: bool = False,
        training: TrainingSettings | None = None,
        seed: NonNegativeInt | None = None,
        k_shot: NonNegativeInt = 0,
        few_shot_source: str | Path | None = None,
        max_reference_patches: PositiveInt = 10_000,
        tiles: TileSettings | None = None,
        ignore_mask: str | Path | None = None,
        pre_processor: nn.Module | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
        **unknown: Any,  # noqa: ANN401
    ) -> None:
        refuse_unknown(unknown)
        prompts = load_weights(path) if (path := checked_path("weights", weights)) else None
        if checked("fine_tune", fine_tune, bool) and prompts is None:
            msg = "fine_tune=True starts from trained prompts: give their file as weights."
            raise ValueError(msg)
        given: dict[str, Any] = {"pretrained": pretrained, "image_size": image_size, "layers": layers}
        given |= {"patch_attention": patch_attention, "prompt_length": prompt_length, "branches": branches}
        given |= {"class_name_filter": class_name_filter, "smoothing_sigma": smoothing_sigma}
        settings = ModelSettings.resolve(backbone, prompts=prompts, score_weight=score_weight, **given)
        training = as_settings(TrainingSettings, "training", {} if training is None else training)
        product = (None, None) if prompts is None or fine_tune else prompts.product
        self.names = NameRule.of(class_name, product[0], settings.max_suffix_tokens)
        tiles = tiles_of(tiles, product[1])
        self.k_shot = checked("k_shot", k_shot, NonNegativeInt)
        source = checked_path("few_shot_source", few_shot_source)
        if source is not None and not self.k_shot:
            msg = "few_shot_source needs k_shot, the number of reference images that are drawn from it."
            raise ValueError(msg)
        if (mask := checked_path("ignore_mask", ignore_mask)) is not None and not Path(mask).is_dir():
            read_ignore_mask(mask)  # raises if it cannot be used
        max_patches = checked("max_reference_patches", max_reference_patches, PositiveInt)
        seed = checked("seed", seed, NonNegativeInt | None)
        # Before CLIP is loaded, because it raises if the folder is a file.
        self._feature_cache = FeatureCache(training.feature_cache) if training.feature_cache else None
        self.is_zero_shot = prompts is not None and not fine_tune
        resize = self.configure_pre_processor(settings.image_size)
        super().__init__(resize if pre_processor is True else pre_processor, post_processor, evaluator, visualizer)
        # A checkpoint has the resolved settings as plain data, so that loading it needs no prompts file.
        plain: dict[str, Any] = {"seed": seed, "k_shot": self.k_shot, "few_shot_source": source, "ignore_mask": mask}
        plain |= {"training": asdict(training), "tiles": tiles and asdict(tiles), "max_reference_patches": max_patches}
        plain |= {"class_name": self.names.given or dict(self.names.of_category) or None}
        self.save_hyperparameters({**settings.as_hparams(), **plain, "weights": None, "fine_tune": False})
        self._build(settings, training, prompts)
        self._tile_setup = TileSetup(tiles)
        self._tile_setup.apply(self)
        if mask is not None:
            set_ignore_mask(self.model, mask)

    def _build(self, settings: ModelSettings, training: TrainingSettings, prompts: LearnedWeights | None) -> None:
        """Load CLIP, build the torch model and load the prompts."""
        clip = load_clip(settings.spec, settings.pretrained, settings.image_size)
        seed = self.hparams["seed"]
        with torch.random.fork_rng(devices=[], enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(seed)
            self.model = self.torch_model(clip, settings)
        self.loss = GenCLIPLoss(image_weight=training.image_loss_weight)
        self.training_settings = training
        self.trained_on = ""
        # Each process adds class names in the order of its own batches, so DDP must not broadcast those of rank 0.
        self._ddp_params_and_buffers_to_ignore = [f"model.class_names.{name}" for name in ClassNames.__annotations__]
        if prompts is not None:
            load_prompts(self, prompts)
            if self.is_zero_shot and isinstance(self.post_processor, RawScorePostProcessor):
                self.post_processor.set_thresholds(**prompts.thresholds, calibration=prompts.description.calibration)
        self.model.set_default_class(self.names.name_of(None))

    def training_step(self, batch: ImageBatch, *_args, **_kwargs) -> STEP_OUTPUT:
        """Compute the loss of the vision-enhanced branch (paper), for some images of the query-only branch (ours)."""
        if batch.gt_mask is None:
            msg = f"Training needs masks, and {(batch.image_path or ['an image'])[0]} has none: use a source with some."
            raise ValueError(msg)
        settings, images = self.training_settings, images_of(batch, self.model.projections[0].dtype)
        query_only = torch.rand(len(batch), device=self.device) < settings.query_only_prob
        classes = self.model.class_index([self.names.name_of(name) for name in categories_of(batch, self._trainer, 0)])
        maps, cls = self.model.training_logits(images, classes, query_only, settings.vision_dropout)
        loss = self.loss(maps, cls, batch.gt_mask, batch.gt_label)
        if not torch.isfinite(loss):
            what = f"The loss is {loss.item()} at step {self.global_step}. Training has diverged; checkpoints are fine"
            msg = f"{what}: lower learning_rate and projection_learning_rate, or train in another precision."
            raise ValueError(msg)
        self.log("train_loss", loss.detach(), on_epoch=True, prog_bar=True, logger=True, batch_size=len(batch))
        return {"loss": loss}

    def test_step(self, batch: ImageBatch, batch_idx: int = 0, dataloader_idx: int = 0) -> STEP_OUTPUT:  # type: ignore[override]
        """Predict with the class names and ignore masks that belong to the images."""
        del batch_idx
        indices, model = self.look_up(categories_of(batch, self._trainer, dataloader_idx)), self.model
        ignored = None if batch.image is None else model.ignore_mask(batch.image.shape[-2:], batch.image_path)
        batch.ignored = ignored  # type: ignore[attr-defined]  # for the metrics
        return batch.update(**model(images_of(batch, model.projections[0].dtype), *indices, ignored)._asdict())

    validation_step = predict_step = test_step  # type: ignore[assignment]

    def look_up(self, categories: Sequence[str | None], class_name: str | None = None) -> tuple[Tensor, Tensor | None]:
        """Look up class names and references, from each image's category, to what the torch model takes.

        ``class_name`` replaces the model's own. A ``ValueError`` says if a name is blank or has too many tokens, or if
        there are references, but none for an image.
        """
        names = self.names if class_name is None else replace(self.names, given=class_name)
        used = [names.name_of(category) for category in categories]
        classes = self.model.class_index(used)
        references = self.model.references.index([names.products_of(category) for category in categories])
        if isinstance(self.post_processor, RawScorePostProcessor):
            self.post_processor.check_product(used)
        return classes, references

    def configure_callbacks(self) -> Sequence[Callback]:
        """Add the callbacks: input checks and anomalies before the pre-processor, seeds and references last."""
        settings, cache = self.training_settings, [] if self._feature_cache is None else [self._feature_cache]
        first = [RunSetup(settings.epochs), self._tile_setup, InputChecks(), PerlinAnomalies(settings.anomaly_source)]
        last = [EpochSeeds(self.hparams["seed"]), ReferenceImages()]
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

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """Disable the sanity validation, which would only see untrained prompts."""
        return {"num_sanity_val_steps": 0}

    @property
    def learning_type(self) -> LearningType:
        """Zero-shot or, with ``k_shot``, few-shot with ``weights``, unless they are fine-tuned; one-class otherwise."""
        if not self.is_zero_shot:
            return LearningType.ONE_CLASS
        return LearningType.FEW_SHOT if self.k_shot else LearningType.ZERO_SHOT

    @staticmethod
    def configure_pre_processor(image_size: tuple[int, int] | None = None) -> PreProcessor:
        """Resize (bicubic) to height and width, by default the default backbone's, and normalize as CLIP does."""
        return clip_pre_processor(image_size or resolve_image_size(backbone_spec(DEFAULT_BACKBONE), None))

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

    def save_weights(self, path: str | Path, references: bool = False) -> Path:
        """Write the learned tensors and thresholds, without CLIP, to a ``*.safetensors`` file, and return its path.

        ``references`` includes the features of the reference images; without them, thresholds that were found with
        references are left out. ``ValueError`` for another suffix, a tensor that is not finite, or no references.
        """
        return save_weights(self, path, references)

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: str | Path | IO, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Load a model from a checkpoint, or raise ``ValueError`` if it is damaged, could run code or does not fit.

        Arguments as in anomalib; others are init arguments that override the checkpoint's.
        """
        here = settings_for_checkpoint(checkpoint_path, cls.checkpoint_safe_globals())
        return super().load_from_checkpoint(checkpoint_path, *args, **{**here, **kwargs})  # type: ignore[arg-type]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remove CLIP from the checkpoint and add the signature."""
        super().on_save_checkpoint(checkpoint)
        write_checkpoint(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse checkpoints of another backbone or other layers."""
        read_checkpoint(self, checkpoint)
        super().on_load_checkpoint(checkpoint)

    def load_state_dict(self, state_dict: dict[str, Any], strict: bool = True, assign: bool = False) -> Any:  # noqa: ANN401
        """Load a state dict, in which only the tensors of the frozen CLIP may be missing."""
        result = super().load_state_dict(state_dict, strict=False, assign=assign)
        if strict:
            check_keys(result)
        return result

    def to_torch(self, export_root: Path | str, model_file_name: str = "model") -> Path:
        """Export as a torch file; arguments as in anomalib."""
        return export_atomically(self, export_root, partial(super().to_torch, model_file_name=model_file_name))

    def to_onnx(
        self, export_root: Path | str, model_file_name: str = "model", input_size: tuple[int, int] | None = None, **more
    ) -> Path:
        """Export to ONNX with the opset that torch's exporter writes; arguments as in anomalib."""
        if input_size is None:
            check_dynamic_size(self.model)
        options = {"model_file_name": model_file_name, "input_size": input_size, "opset_version": ONNX_OPSET, **more}
        return export_atomically(self, export_root, partial(super().to_onnx, **options))

    def to_openvino(self, export_root: Path | str, *args: Any, **kwargs: Any) -> Path:  # noqa: ANN401  # anomalib's
        """Export to OpenVINO; arguments as in anomalib."""
        export = super().to_openvino
        return export_atomically(self, export_root, lambda folder: export(folder, *args, **kwargs))
