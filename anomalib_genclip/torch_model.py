# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""GenCLIP's torch model: anomaly maps and scores of a batch of images."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from anomalib.data import InferenceBatch
from anomalib.data.utils.tiler import Tiler
from kornia.filters import GaussianBlur2d
from open_clip.model import CLIP
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .clip.backbone import fingerprint, full_name
from .clip.frozen_clip import FrozenCLIP, ImageTokens
from .components.anomaly_map import abnormal_probability, similarity_logits, spread, top_mean, upsample
from .components.class_names import GENERIC, ClassNames, clean_class_name
from .components.ignore_mask import AnyMask, IgnoreMask, counting_cells
from .components.prompt_learner import PromptLearner
from .components.references import CLS_SHARE, References, RelativeDistance, join_map, join_score
from .components.tiles import TileGrid, join_tiles
from .model_settings import ModelSettings
from .utils.tensors import nearest, resize


class BranchMaps(NamedTuple):
    """Outputs of the active branches, "vision" (``M_V``) and "query" (``M_Q``), before they are averaged."""

    maps: dict[str, Tensor]  # of each branch, mean of the layers on the patch grid, (B, 1, h, w), in [0, 1]
    cls: Tensor  # abnormal probability of the last tapped layer's CLS token, mean of the branches, (B,)
    class_index: Tensor  # indices of the class names after CNF, (B,)
    layers: dict[str, Tensor]  # of each branch, the layer-wise maps on the patch grid, (M, B, 1, h, w)
    text: Mapping[str, Sequence[Tensor]]  # of each branch, text features for each layer, (B, 2, d) or (2, d)
    embedding: Tensor  # CLIP's image embeddings, (B, d), unit length


class ScoreParts(NamedTuple):
    """Anomaly map and what the image score is made of."""

    anomaly_map: Tensor  # (B, 1, H, W), in [0, 1], 0 where pixels do not count
    top: Tensor  # mean of the highest 1 % of the map, with tiles of as many pixels as 1 % of a tile, (B,)
    branches: BranchMaps  # what the branches found in the whole image
    distance: RelativeDistance | None = None  # to the references, None without references
    masked: bool = False  # whether there are pixels that do not count

    def cls_weight(self, score_weight: float) -> float:
        """Return the CLS token's share in the image score, from ``w``.

        It has none with an ignore mask, because it sees what does not count, and less with references.
        """
        return 0.0 if self.masked else score_weight if self.distance is None else score_weight * CLS_SHARE


class GenCLIPModel(nn.Module):
    """GenCLIP (arXiv 2504.14919): learned general prompts on a frozen CLIP.

    Example:
        >>> settings = ModelSettings.resolve("tiny")
        >>> model = GenCLIPModel(load_clip(settings.spec, settings.pretrained, settings.image_size), settings)
    """

    text_prefix: Tensor
    query_features: Tensor
    default_class: Tensor

    def __init__(self, clip: CLIP, settings: ModelSettings) -> None:
        super().__init__()
        self.spec = spec = settings.spec
        self.image_size = settings.image_size
        self.layers = list(settings.layers)
        self.map_layers = self.layers  # used for the map at inference; the ablation takes a subset
        self.branches = settings.branches
        self.class_name_filter = settings.class_name_filter
        self.score_weight = settings.score_weight
        self.tiler: Tiler | None = None  # size and stride of tiles; anomalib's TilerConfigurationCallback sets it
        self.tile_batch_size = 1
        self.backbone = full_name(spec, clip)
        self.fingerprint = fingerprint(clip)  # computed now, because training in half precision rounds the weights

        self.clip = FrozenCLIP(clip, self.layers, settings.patch_attention)
        self.prompts = PromptLearner(spec.vision_width, spec.text_width, len(self.layers), settings.prompt_length)
        # ψ is initialized with CLIP's own projection, so that an untrained model compares features as CLIP does.
        self.projections = nn.ParameterList(clip.visual.proj.detach().clone() for _ in self.layers)
        self.class_names = ClassNames(self.clip, settings.max_suffix_tokens)
        self.references = References()
        self.ignore_mask = IgnoreMask()
        self.smoothing = gaussian_blur(settings.smoothing_sigma) if settings.smoothing_sigma else nn.Identity()
        self.register_buffer("sos", self.clip.embed([self.clip.sos_id])[0].clone(), persistent=False)
        self.register_buffer("default_class", torch.zeros((), dtype=torch.long), persistent=False)
        self.register_buffer("query_features", torch.zeros(2, spec.embed_dim), persistent=False)
        self.register_buffer("text_prefix", torch.zeros(0), persistent=False)
        self.register_load_state_dict_post_hook(_refresh_text)

    def train(self, mode: bool = True) -> "GenCLIPModel":
        """Set the mode; switching to evaluation computes what depends on the prompts alone."""
        super().train(mode)
        if not mode:
            _refresh_text(self)
        return self

    def class_index(self, names: Sequence[str]) -> Tensor:
        """Convert one class name per image to indices ``(B,)``; ``ValueError`` for an empty or a too long name."""
        cleaned = [clean_class_name(name) for name in names]
        self.class_names.add(cleaned, self.clip)
        return self.class_names.index(cleaned)

    def set_default_class(self, name: str = GENERIC) -> None:
        """Set the class name of images without one, which includes all images of an exported model."""
        self.default_class.fill_(int(self.class_index([name])))

    @torch.no_grad()
    def forward(
        self,
        images: Tensor,
        class_index: Tensor | None = None,
        reference_index: Tensor | None = None,
        ignored: Tensor | None = None,
    ) -> InferenceBatch:
        """Predict anomaly maps ``(B, 1, H, W)`` and image scores ``(B,)``, both in [0, 1].

        Images ``(B, 3, H, W)`` are normalized, with tiles of any size. Indices ``(B,)`` are from :meth:`class_index`
        and :meth:`References.index`, ``None`` for the defaults; ``ignored`` as in :meth:`score_parts`.
        """
        parts = self.score_parts(images, class_index, reference_index, ignored)
        return InferenceBatch(pred_score=self.image_score(parts), anomaly_map=parts.anomaly_map)

    def image_score(self, parts: ScoreParts) -> Tensor:
        """Combine the parts of the image score: ``(1 - w) top + w cls``, joined with the references, ``(B,)``."""
        score = torch.lerp(parts.top, parts.branches.cls, parts.cls_weight(self.score_weight))
        return score if parts.distance is None or parts.masked else join_score(score, parts.distance)

    def score_parts(
        self,
        images: Tensor | ImageTokens,
        class_index: Tensor | None = None,
        reference_index: Tensor | None = None,
        ignored: Tensor | None = None,
    ) -> ScoreParts:
        """Compute the map and the parts of the image score; arguments as in :meth:`branch_maps` and :meth:`forward`.

        Pixels that do not count are ``ignored`` ``(B or 1, 1, H, W)``, bool, else those of :attr:`ignore_mask`.
        """
        tiles = tile_grid(images, self.tiler)
        whole = images if tiles is None else resize(images, self.image_size)
        image = whole if isinstance(whole, ImageTokens) else self.clip.encode_image(whole)
        result = self.branch_maps(image, class_index)
        distance = self.references(image, reference_index)
        grid, size = _joined(result, distance), self.image_size if tiles is None else tiles.size
        ignored = self.ignore_mask(size) if ignored is None else ignored.to(grid.device)
        cells = None if ignored is None else counting_cells(nearest(ignored, self.image_size), self.clip.grid_size)
        anomaly_map = spread(grid, cells, lambda maps: upsample(maps, size))
        if tiles is not None:
            anomaly_map = join_tiles(anomaly_map, self._tile_map(images, tiles, result, reference_index, ignored))
        anomaly_map = spread(anomaly_map, None if ignored is None else (~ignored).float(), self.smoothing).clamp(0, 1)
        top = top_mean(anomaly_map, None if tiles is None else tiles.tile_area, ignored)
        anomaly_map = anomaly_map if ignored is None else anomaly_map.masked_fill(ignored, 0)
        return ScoreParts(anomaly_map, top, result, distance, masked=ignored is not None)

    def _tile_map(
        self, images: Tensor, tiles: TileGrid, whole: BranchMaps, references: Tensor | None, ignored: Tensor | None
    ) -> Tensor:
        """Merge the maps of all tiles, which are compared with the prompts of their whole image: ``(B, 1, H, W)``."""
        maps = []
        for batch, image in tiles.cut(images, self.image_size, self.tile_batch_size):
            tokens = self.clip.encode_image(batch)
            text = {
                branch: [layer[image] if layer.dim() == 3 else layer for layer in layers]
                for branch, layers in whole.text.items()
            }
            result = self.branch_maps(tokens, whole.class_index[image], text)
            own = None if references is None else references.to(image.device)[image]
            maps.append(_joined(result, self.references(tokens, own)))
        if ignored is None:
            return tiles.merge(torch.cat(maps))
        masks = tiles.cut(ignored.float().expand(images.shape[0], -1, -1, -1), self.image_size, self.tile_batch_size)
        cells = torch.cat([counting_cells(batch > 0.5, self.clip.grid_size) for batch, _ in masks])
        return spread(torch.cat(maps), cells, tiles.merge)

    def branch_maps(
        self,
        images: Tensor | ImageTokens,
        class_index: Tensor | None = None,
        text: Mapping[str, Sequence[Tensor]] | None = None,
    ) -> BranchMaps:
        """Compute the maps of each branch, and the CLS score; ``text`` of other images is taken as it is, without CNF.

        Images are normalized, ``(B, 3, H, W)``, or their vision-encoder outputs; ``class_index`` as in :meth:`forward`.
        """
        image = images if isinstance(images, ImageTokens) else self.clip.encode_image(images)
        # Not len(), a Python integer that would fix the batch size of exported models.
        class_index = self.default_class.expand(image.cls.shape[0]) if class_index is None else class_index
        if self.class_name_filter and text is None:
            class_index = self.class_names.filter(image.embedding, class_index)
        text = self._branch_text(image, class_index) if text is None else text
        features, layers = _project(image, self.projections), {}
        for branch, features_of_states in text.items():
            own = [
                abnormal_probability(similarity_logits(patches, features_of_states[i]))
                for i, patches in enumerate(features)
                if self.layers[i] in self.map_layers
            ]
            layers[branch] = torch.stack(own).unflatten(-1, self.clip.grid_size).unsqueeze(2)
        cls = torch.stack([abnormal_probability(self.cls_logits(image, own[-1])) for own in text.values()]).mean(dim=0)
        maps = {branch: own.mean(dim=0) for branch, own in layers.items()}
        return BranchMaps(maps, cls, class_index, layers, text, image.embedding)

    def cls_logits(self, image: ImageTokens, text: Tensor) -> Tensor:
        """Compare the last tapped layer's CLS token with its text features ``(B, 2, d)`` or ``(2, d)``: ``(B, 2)``."""
        cls = image.pooled @ self.projections[-1]
        # Of (2, d), OpenVINO's INT8_PTQ would fix the batch size.
        return similarity_logits(cls.unsqueeze(1), text.expand(cls.shape[0], -1, -1))[:, 0]

    def training_logits(
        self,
        images: Tensor | ImageTokens,
        class_index: Tensor | None,
        query_only: Tensor | None = None,
        vision_dropout: float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        """Compute the loss's logits without CNF: of layers ``(M, B, 2, h, w)`` and of the CLS token ``(B, 2)``.

        Images with ``query_only`` ``(B,)`` are trained with the query-only prompt (no ``V``, class "object"), not the
        vision-enhanced one; ``V^i`` is zero with the probability ``vision_dropout``, others are scaled up (both ours).
        """
        image = images if isinstance(images, ImageTokens) else self.clip.encode_image(images)
        class_index = self.default_class.expand(image.cls.shape[0]) if class_index is None else class_index
        if query_only is not None:
            class_index = torch.where(query_only, torch.zeros_like(class_index), class_index)
        text = self._vision_text(image, class_index, self.encode_prefix(), query_only, vision_dropout)
        maps = [similarity_logits(patches, text[i]) for i, patches in enumerate(_project(image, self.projections))]
        return torch.stack(maps).transpose(-1, -2).unflatten(-1, self.clip.grid_size), self.cls_logits(image, text[-1])

    def _branch_text(self, image: ImageTokens, class_index: Tensor) -> dict[str, Sequence[Tensor]]:
        """Compute the text features of the active branches: for each layer ``(B, 2, d)`` or ``(2, d)``."""
        text: dict[str, Sequence[Tensor]] = {}
        prefix = self.encode_prefix() if self.training else self.text_prefix
        if self.branches != "query":
            text["vision"] = self._vision_text(image, class_index, prefix, None, 0.0)
        if self.branches != "vision":
            features = self.compute_query_features(prefix) if self.training else self.query_features
            text["query"] = [features] * len(self.layers)
        return text

    def _vision_text(
        self, image: ImageTokens, class_index: Tensor, prefix: Tensor, query_only: Tensor | None, vision_dropout: float
    ) -> Tensor:
        """Compute ``F_T``, the text features of the vision-enhanced prompts: ``(M, B, 2, d)``."""
        vision = self.prompts.vision_prompts(image.cls)
        if vision_dropout:
            vision = vision * F.dropout(torch.ones_like(vision[..., :1, :1]), vision_dropout)
        if query_only is not None:
            vision = vision.masked_fill(query_only.view(-1, 1, 1, 1), 0)
        suffix = self.class_names.suffix[class_index].unsqueeze(1).expand(-1, len(self.layers), -1, -1, -1)
        eos = self.class_names.eos[class_index].unsqueeze(1).expand(-1, len(self.layers), -1)
        features = self._encode(self.prompts(suffix, vision).flatten(0, 1), eos.flatten(0, 1), prefix)
        return features.unflatten(0, (-1, len(self.layers))).transpose(0, 1)

    def encode_prefix(self) -> Tensor:
        """Compute keys and values of ``[SOS] N_p`` and ``[SOS] A_p``, the same for all images."""
        return self.clip.encode_prefix(self.prompts.prefix(self.sos))

    def _encode(self, embeddings: Tensor, suffix_eos: Tensor, prefix: Tensor) -> Tensor:
        """Encode pairs of prompts, normal and abnormal in one sequence: ``(S, L, d_t)`` to ``(S, 2, d)``."""
        lengths = embeddings.shape[1] // 2, (embeddings.shape[1] + 1) // 2
        normal, abnormal = (suffix_eos + len(self.prompts.query)).unbind(-1)
        return self.clip.encode_prompts(embeddings, lengths, torch.stack([normal, lengths[0] + abnormal], -1), prefix)

    def compute_query_features(self, prefix: Tensor) -> Tensor:
        """Compute ``F_Q``, the text features of the query-only prompt, the same for all images: ``(2, d)``."""
        return self._encode(self.prompts(self.class_names.suffix[:1]), self.class_names.eos[:1], prefix)[0]


@torch.inference_mode(mode=False)
@torch.no_grad()
def _refresh_text(model: GenCLIPModel, *_: object) -> None:
    """Recompute what depends on the prompts alone, in full precision even under autocast."""
    with torch.autocast(model.sos.device.type, enabled=False):
        model.text_prefix = model.encode_prefix()
        model.query_features = model.compute_query_features(model.text_prefix)


def _project(image: ImageTokens, projections: Iterable[Tensor]) -> list[Tensor]:
    """Apply ``ψ_i`` to each layer's patch tokens: ``M`` tensors ``(B, N, d)``."""
    return [patches @ psi for patches, psi in zip(image.patches, projections, strict=True)]


def _joined(result: BranchMaps, distance: RelativeDistance | None) -> Tensor:
    """Average the branches, and join them with the distances to the references: ``(B, 1, h, w)``."""
    # Both branches have the same weight (ours). Averaging before upsampling is exact, because both are linear.
    grid = torch.stack(list(result.maps.values())).mean(dim=0)
    return grid if distance is None else join_map(grid, distance)


def tile_grid(images: Tensor | ImageTokens, tiler: Tiler | None) -> TileGrid | None:
    """Lay out the tiles of images; ``None`` without a tiler, and for images that are features already."""
    if tiler is None or isinstance(images, ImageTokens):
        return None
    return TileGrid.of(images.shape[-2:], (tiler.tile_size_h, tiler.tile_size_w), (tiler.stride_h, tiler.stride_w))


def set_ignore_mask(model: GenCLIPModel, mask: AnyMask | None) -> None:
    """Set the pixels that do not count, as a mask or a folder of masks: see :meth:`IgnoreMask.set`."""
    # Tiles show more than an image of the model's size does.
    model.ignore_mask.set(mask, None if model.tiler else model.image_size, model.sos.device)


def gaussian_blur(sigma: float) -> nn.Module:
    """Build a Gaussian filter that extends four standard deviations to each side."""
    side = 2 * round(4 * sigma) + 1
    return GaussianBlur2d((side, side), (sigma, sigma))
