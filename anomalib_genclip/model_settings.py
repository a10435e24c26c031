# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Settings of the torch model, resolved once from the user's arguments and the prompts file."""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from .clip.backbone import (
    DEFAULT_BACKBONE,
    BackboneSpec,
    backbone_spec,
    check_pretrained,
    default_pretrained,
    plain_name,
    resolve_image_size,
    resolve_layers,
)
from .clip.frozen_clip import PatchAttention
from .utils.settings import NonNegativeFloat, UnitFloat, check_fields

if TYPE_CHECKING:
    from .persistence.prompts_file import LearnedWeights

Branches = Literal["both", "vision", "query"]
PROMPT_LENGTH = 4  # n and q (ours)
SHORTEST_SUFFIX = 3  # "damaged", "object", [EOS]
# Of inference; w, share of the CLS token in the image score, is ours.
DEFAULTS: dict[str, Any] = {"branches": "both", "class_name_filter": True, "smoothing_sigma": 0.0, "score_weight": 0.5}


@dataclass(frozen=True)
class ModelSettings:
    """Complete settings of a :class:`~anomalib_genclip.torch_model.GenCLIPModel`; created by :meth:`resolve`."""

    spec: BackboneSpec  # dimensions of the architecture
    backbone: str  # name of the architecture, with "-quickgelu" if the user gave it
    pretrained: str  # an open_clip tag, a weights file, "bundled" or "random"
    image_size: tuple[int, int]  # height and width in pixels
    layers: tuple[int, ...]  # feature layers: blocks of the vision tower, counted from 1, ascending
    patch_attention: PatchAttention  # patch features of these layers
    prompt_length: int  # n = q, tokens of state prompts, general query prompt and vision prompts
    branches: Branches  # that compute map and score
    class_name_filter: bool  # whether CNF may replace a class name by "object"
    smoothing_sigma: NonNegativeFloat  # standard deviation of the filter on the map, in input pixels; 0 for none
    score_weight: UnitFloat  # w, share of the CLS token in the image score, in [0, 1]

    @classmethod
    def resolve(
        cls, backbone: str | None = None, *, prompts: "LearnedWeights | None" = None, **given: object
    ) -> "ModelSettings":
        """Fill in missing settings (``None``), from the prompts file if there is one, and check all of them.

        Arguments as for :class:`~anomalib_genclip.lightning_model.GenCLIP`. CLIP's weights are not read. A
        ``ValueError`` names a setting that is invalid, or does not fit the backbone or the prompts file.
        """
        theirs = DEFAULT_BACKBONE if prompts is None else prompts.signature.backbone
        backbone = theirs if backbone is None else backbone
        if prompts is not None and plain_name(backbone) != plain_name(theirs):
            what = f"{prompts.source} was trained with backbone {theirs!r} and does not fit backbone={backbone!r}"
            msg = f"{what}. Leave backbone out, or give prompts that were trained with {backbone!r}."
            raise ValueError(msg)
        spec = backbone_spec(backbone)
        chosen = {**DEFAULTS, "patch_attention": "clip", "prompt_length": PROMPT_LENGTH}
        chosen |= {"pretrained": default_pretrained(spec), "image_size": None, "layers": None}
        chosen |= prompts.settings if prompts else {}
        chosen |= {name: value for name, value in given.items() if value is not None}
        try:
            check_pretrained(spec, chosen["pretrained"])
        except ValueError as error:
            if prompts is None or given.get("pretrained") is not None:
                raise
            msg = f"{prompts.source} was trained with other CLIP weights, which must be given as pretrained: {error}"
            raise ValueError(msg) from error
        chosen["pretrained"] = str(chosen["pretrained"])
        chosen["image_size"] = resolve_image_size(spec, chosen["image_size"])
        chosen["layers"] = tuple(resolve_layers(spec, chosen["layers"]))
        return cls(spec=spec, backbone=backbone, **chosen)

    def __post_init__(self) -> None:
        """Check the settings and convert them to plain types."""
        check_fields(self)
        most = (self.spec.context_length - 1 - SHORTEST_SUFFIX) // 2
        length = self.prompt_length
        if not isinstance(length, int) or isinstance(length, bool) or not 1 <= length <= most:
            what = f"prompt_length={length!r} does not fit: it must be a whole number from 1 to {most}"
            msg = f"{what}, so that a class name fits into the text tower's {self.spec.context_length} tokens."
            raise ValueError(msg)
        object.__setattr__(self, "prompt_length", int(length))  # jsonargparse's are a subclass
        # The filter's kernel extends four sigma to each side, and padding is limited to the map.
        widest = (min(self.image_size) - 1) / 4
        if self.smoothing_sigma > widest:
            limit = f"images of {self.image_size} pixels allow at most {widest}"
            msg = f"smoothing_sigma={self.smoothing_sigma!r} is out of range: {limit}."
            raise ValueError(msg)

    @property
    def max_suffix_tokens(self) -> int:
        """Maximum number of tokens of ``damaged {class} [EOS]`` after [SOS] and the learnable tokens."""
        return self.spec.context_length - 1 - 2 * self.prompt_length

    def as_hparams(self) -> dict[str, Any]:
        """Return the settings under the names of the model's arguments, as plain data for checkpoints."""
        names = [field.name for field in fields(self) if field.name != "spec"]
        return {name: getattr(self, name) for name in names} | {"layers": list(self.layers)}
