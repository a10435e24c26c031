# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""GenCLIP's torch model: a batch of images in, anomaly maps and scores out."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from anomalib.data import InferenceBatch
from kornia.filters import GaussianBlur2d
from torch import Tensor, nn

from .clip.backbone import (
    backbone_spec,
    check_pretrained,
    fingerprint,
    full_name,
    load_clip,
    resolve_image_size,
    resolve_layers,
)
from .clip.frozen_clip import FrozenCLIP, ImageTokens
from .components.anomaly_map import abnormal_probability, similarity_logits, top_mean, upsample
from .components.class_names import GENERIC, ClassNames, clean_class_name
from .components.prompt_learner import PromptLearner

BRANCHES = ("both", "vision", "query")
SCORE_WEIGHTS = (0.0, 0.25, 0.5)  # candidates for w (ours)


class BranchMaps(NamedTuple):
    """The two branches' results before they are joined.

    Args:
        maps (dict[str, Tensor]): Mean of the layer-wise maps on the patch grid for each branch that ran ("vision" is
            ``M_V``, "query" is ``M_Q``), ``(B, 1, h, w)``, in [0, 1].
        cls (dict[str, Tensor]): Abnormal probability of the CLS token for the same branches, ``(B,)``.
        class_index (Tensor): Positions of the class names after CNF, ``(B,)``.
    """

    maps: dict[str, Tensor]
    cls: dict[str, Tensor]
    class_index: Tensor


class ScoreParts(NamedTuple):
    """Map and the two parts of the image score.

    Args:
        anomaly_map (Tensor): ``(B, 1, H, W)``, in [0, 1].
        top (Tensor): Mean of the map's highest hundredth, ``(B,)``.
        cls (Tensor): Abnormal probability of the CLS token, ``(B,)``.
    """

    anomaly_map: Tensor
    top: Tensor
    cls: Tensor


class GenCLIPModel(nn.Module):
    """GenCLIP (arXiv 2504.14919): learned general prompts over a frozen CLIP.

    Args:
        backbone (str): A name of :func:`anomalib_genclip.clip.backbone.list_backbones`.
        pretrained (str | None): An open_clip tag, a weights file, or ``None`` for random weights.
        image_size (int | Sequence[int] | None): Side, or height and width, of the images in pixels. ``None`` gives
            518 px in whole patches.
        layers (Sequence[int] | None): Tapped blocks, counted from 1. ``None`` gives the four quarters.
        state_length (int): ``n``, tokens of the normal and of the abnormal prompt.
        query_length (int): ``q``, tokens of the general query prompt and of the vision prompts.
        branches (str): "both", "vision" or "query": which branches make map and score.
        class_name_filter (bool): Whether CNF may replace a class name by "object".
        smoothing_sigma (float): Standard deviation of the Gaussian on the map in pixels of the input; 0 for none.

    Raises:
        ValueError: If an argument does not fit the backbone. Nothing has been loaded then.
        ConnectionError: If the CLIP weights cannot be downloaded.
    """

    query_features: Tensor
    score_weight: Tensor
    default_class: Tensor

    def __init__(
        self,
        backbone: str,
        pretrained: str | None,
        image_size: int | Sequence[int] | None = None,
        layers: Sequence[int] | None = None,
        state_length: int = 4,
        query_length: int = 4,
        branches: str = "both",
        class_name_filter: bool = True,
        smoothing_sigma: float = 0.0,
    ) -> None:
        super().__init__()
        spec = backbone_spec(backbone)
        check_pretrained(spec, pretrained)
        self.image_size = resolve_image_size(spec, image_size)
        self.layers = resolve_layers(spec, layers)
        self.map_layers = self.layers  # those that make the map at inference; the ablation narrows them
        self.branches = check_branches(branches)
        self.class_name_filter = class_name_filter
        check_prompt_lengths(state_length, query_length, spec.context_length)
        self.spec = spec

        self.clip = FrozenCLIP(load_clip(spec, pretrained, self.image_size), self.layers)
        self.backbone = full_name(spec, self.clip.model)
        self.fingerprint = fingerprint(self.clip.model)  # now: training in half precision rounds the weights
        self.prompts = PromptLearner(spec.vision_width, spec.text_width, len(self.layers), state_length, query_length)
        # ψ starts as CLIP's own projection, so an untrained model compares as CLIP does.
        self.projections = nn.ParameterList(self.clip.model.visual.proj.detach().clone() for _ in self.layers)
        self.class_names = ClassNames(self.clip, spec.context_length - self.prompts.suffix_start)
        self.smoothing = gaussian_blur(smoothing_sigma) if smoothing_sigma else nn.Identity()
        self.register_buffer("sos", self.clip.embed([self.clip.sos_id])[0].clone(), persistent=False)
        self.register_buffer("default_class", torch.zeros((), dtype=torch.long), persistent=False)
        self.register_buffer("score_weight", torch.tensor(SCORE_WEIGHTS[1]))
        self.register_buffer("query_features", torch.zeros(2, spec.embed_dim), persistent=False)
        self._query_source: tuple[tuple[int, int], ...] = ()

    def train(self, mode: bool = True) -> "GenCLIPModel":
        """Switch the mode; on the way to evaluation compute what does not depend on the image."""
        super().train(mode)
        if not mode:
            self._refresh_query_features()
        return self

    def class_index(self, names: Sequence[str]) -> Tensor:
        """Turn class names into what :meth:`forward` takes.

        Args:
            names (Sequence[str]): One class name per image.

        Returns:
            Tensor: ``(len(names),)``.

        Raises:
            ValueError: If a name is empty or has too many tokens.
        """
        cleaned = [clean_class_name(name) for name in names]
        self.class_names.add(cleaned, self.clip)
        return self.class_names.index(cleaned)

    def set_default_class(self, name: str = GENERIC) -> None:
        """Choose the class name for images that come without one, as they do in exported models."""
        self.default_class.fill_(int(self.class_index([name])))

    @torch.no_grad()
    def forward(self, images: Tensor, class_index: Tensor | None = None) -> InferenceBatch:
        """Find anomalies.

        Args:
            images (Tensor): Normalised images, ``(B, 3, H, W)``.
            class_index (Tensor | None): From :meth:`class_index`, ``(B,)``; ``None`` takes the default class.

        Returns:
            InferenceBatch: ``anomaly_map`` ``(B, 1, H, W)`` and ``pred_score`` ``(B,)``, both in [0, 1].
        """
        parts = self.score_parts(images, class_index)
        return InferenceBatch(pred_score=self.image_score(parts), anomaly_map=parts.anomaly_map)

    def image_score(self, parts: ScoreParts) -> Tensor:
        """Join the parts of the image score: ``(1 - w) top + w cls``, ``(B,)``."""
        return torch.lerp(parts.top, parts.cls, self.score_weight.to(parts.top.dtype))

    def score_parts(self, images: Tensor | ImageTokens, class_index: Tensor | None = None) -> ScoreParts:
        """Compute the map and the parts of the image score; arguments as in :meth:`branch_maps`."""
        result = self.branch_maps(images, class_index)
        # The branches count alike (ours), are joined on the patch grid and enlarged once.
        grid = torch.stack(list(result.maps.values())).mean(dim=0)
        anomaly_map = self.smoothing(upsample(grid, self.image_size)).clamp(0, 1)
        cls = torch.stack(list(result.cls.values())).mean(dim=0)
        return ScoreParts(anomaly_map, top_mean(anomaly_map), cls)

    def branch_maps(self, images: Tensor | ImageTokens, class_index: Tensor | None = None) -> BranchMaps:
        """Run the branches separately.

        Args:
            images (Tensor | ImageTokens): Normalised images, ``(B, 3, H, W)``, or what the vision tower said of them.
            class_index (Tensor | None): As in :meth:`forward`.

        Returns:
            BranchMaps: Maps and CLS scores of each branch.
        """
        image = images if isinstance(images, ImageTokens) else self.clip.encode_image(images)
        if class_index is None:
            # Not len(): it is a number, and would fix the batch size of exported models.
            class_index = self.default_class.expand(image.cls.shape[0])
        if self.class_name_filter:
            class_index = self.class_names.filter(image.embedding, class_index)
        features = self._project(image)
        cls = (image.pooled @ self.projections[-1]).unsqueeze(1)
        maps, scores = {}, {}
        for branch, text in self._branch_text(image, class_index).items():
            layers = [
                abnormal_probability(similarity_logits(patches, text[i]))
                for i, patches in enumerate(features)
                if self.layers[i] in self.map_layers
            ]
            maps[branch] = torch.stack(layers).mean(dim=0).unflatten(-1, self.clip.grid_size).unsqueeze(1)
            scores[branch] = abnormal_probability(similarity_logits(cls, text[-1]))[:, 0]
        return BranchMaps(maps, scores, class_index)

    def training_logits(
        self, images: Tensor | ImageTokens, class_index: Tensor | None, query_only: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compute what the loss compares with the mask, without CNF.

        Args:
            images (Tensor | ImageTokens): As in :meth:`branch_maps`.
            class_index (Tensor | None): As in :meth:`forward`.
            query_only (Tensor | None): Images that see the query-only prompt (no ``V``, class "object") instead of
                the vision-enhanced one, ``(B,)``, bool (ours). ``None`` for no image.

        Returns:
            tuple[Tensor, Tensor]: Layer-wise logits ``(M, B, 2, h, w)`` and the CLS token's logits ``(B, 2)``.
        """
        image = images if isinstance(images, ImageTokens) else self.clip.encode_image(images)
        if class_index is None:
            class_index = self.default_class.expand(image.cls.shape[0])
        if query_only is not None:
            class_index = torch.where(query_only, torch.zeros_like(class_index), class_index)
        text = self._vision_text(image, class_index, query_only)
        maps = [similarity_logits(patches, text[i]) for i, patches in enumerate(self._project(image))]
        cls = similarity_logits((image.pooled @ self.projections[-1]).unsqueeze(1), text[-1])[:, 0]
        return torch.stack(maps).transpose(-1, -2).unflatten(-1, self.clip.grid_size), cls

    def _project(self, image: ImageTokens) -> list[Tensor]:
        """Apply ``ψ_i`` to each layer's patch tokens: M times ``(B, N, d)``."""
        return [patches @ psi for patches, psi in zip(image.patches, self.projections, strict=True)]

    def _branch_text(self, image: ImageTokens, class_index: Tensor) -> dict[str, Sequence[Tensor]]:
        """Text features of the branches that run: for each layer ``(B, 2, d)`` or ``(2, d)``."""
        text: dict[str, Sequence[Tensor]] = {}
        if self.branches != "query":
            text["vision"] = self._vision_text(image, class_index)
        if self.branches != "vision":
            text["query"] = [self._current_query_features()] * len(self.layers)
        return text

    def _vision_text(self, image: ImageTokens, class_index: Tensor, query_only: Tensor | None = None) -> Tensor:
        """``F_T``: text features of the vision-enhanced prompts, ``(M, B, 2, d)``."""
        vision = self.prompts.vision_prompts(image.cls)
        if query_only is not None:
            vision = vision.masked_fill(query_only.view(-1, 1, 1, 1), 0)
        suffix = self.class_names.suffix[class_index].unsqueeze(1).expand(-1, len(self.layers), -1, -1, -1)
        embeddings = self.prompts(self.sos, suffix, vision)
        eos = self.class_names.eos[class_index].unsqueeze(1).expand(-1, len(self.layers), -1)
        features = self._encode(embeddings, eos)
        return features.unflatten(0, embeddings.shape[:3]).transpose(0, 1)

    def _encode(self, embeddings: Tensor, suffix_eos: Tensor) -> Tensor:
        """Encode prompts of any leading shape in one pass: ``(*, L, d_t)`` to ``(prod(*), d)``."""
        return self.clip.encode_prompts(embeddings.flatten(0, -3), suffix_eos.flatten() + self.prompts.suffix_start)

    def compute_query_features(self) -> Tensor:
        """``F_Q``: text features of the query-only prompt, ``(2, d)``, the same for all images."""
        embeddings = self.prompts(self.sos, self.class_names.suffix[0])
        return self._encode(embeddings, self.class_names.eos[0])

    def _current_query_features(self) -> Tensor:
        """``F_Q`` from the last switch to evaluation, or anew if the prompts have changed since."""
        if not torch.compiler.is_compiling() and self._query_source != self._prompt_versions():
            self._refresh_query_features()
        return self.query_features

    def _prompt_versions(self) -> tuple[tuple[int, int], ...]:
        """Change whenever a tensor behind ``F_Q`` is replaced or written to."""
        tensors = (self.prompts.normal, self.prompts.abnormal, self.prompts.query)
        return tuple((id(tensor), tensor._version) for tensor in tensors)  # noqa: SLF001

    @torch.inference_mode(mode=False)
    @torch.no_grad()
    def _refresh_query_features(self) -> None:
        """Compute ``F_Q`` once, in full precision whatever autocast surrounds the call."""
        with torch.autocast(self.sos.device.type, enabled=False):
            self.query_features = self.compute_query_features()
        self._query_source = self._prompt_versions()


def gaussian_blur(sigma: float) -> nn.Module:
    """Gaussian blur over four standard deviations to each side."""
    side = 2 * round(4 * sigma) + 1
    return GaussianBlur2d((side, side), (sigma, sigma))


def check_branches(branches: str) -> str:
    """Return ``branches`` if it is one of :data:`BRANCHES`.

    Raises:
        ValueError: If it is not.
    """
    if branches not in BRANCHES:
        msg = f"branches={branches!r} is unknown. Choose one of {', '.join(BRANCHES)}."
        raise ValueError(msg)
    return branches


def check_prompt_lengths(state_length: int, query_length: int, context_length: int) -> None:
    """Check that prompts have tokens and leave room for a class name.

    Raises:
        ValueError: If a length is below 1, or if "damaged object" does not fit any more.
    """
    shortest_suffix = 3  # "damaged", "object", [EOS]
    most = context_length - 1 - shortest_suffix
    lengths = (state_length, query_length)
    whole = all(isinstance(length, int) and not isinstance(length, bool) for length in lengths)
    if not whole or min(lengths) < 1 or sum(lengths) > most:
        msg = (
            f"state_length={state_length!r} and query_length={query_length!r} do not fit: each must be at least 1 and "
            f"both together at most {most}, so that a class name fits into the text tower's {context_length} tokens."
        )
        raise ValueError(msg)
