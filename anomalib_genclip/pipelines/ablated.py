# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Trained models without some of their parts."""

from dataclasses import dataclass
from typing import Any

from anomalib_genclip.lightning_model import GenCLIP
from anomalib_genclip.persistence.checkpoint_io import GenCLIPCheckpointIO
from anomalib_genclip.persistence.prompts_file import load_weights
from anomalib_genclip.inferencer import load_trained


@dataclass(frozen=True)
class Variant:
    """Settings of a model without some of its parts.

    Args:
        branches (str): The model's argument of that name.
        class_name_filter (bool): The model's argument of that name.
        layers (list[int]): Layers whose maps are averaged. The image score always uses the CLS token of the model's
            last layer.
    """

    branches: str
    class_name_filter: bool
    layers: list[int]

    def apply(self, model: GenCLIP) -> None:
        """Disable parts of a model; nothing is trained."""
        model.model.branches = self.branches
        model.model.class_name_filter = self.class_name_filter
        model.model.map_layers = self.layers


def variants(layers: list[int]) -> list[Variant]:
    """List the variants: branches, with and without CNF, then single layers.

    CNF has no effect on the query-only branch, which has no class name.
    """
    branches = [("both", True), ("both", False), ("vision", True), ("vision", False), ("query", False)]
    one_by_one = [Variant("both", class_name_filter=True, layers=[layer]) for layer in layers]
    return [Variant(name, cnf, layers) for name, cnf in branches] + one_by_one


def ablated(weights: str, variant: dict[str, Any], pretrained: str | None = None) -> GenCLIP:
    """Load a trained model and disable parts of it.

    Args:
        weights (str): As in :func:`anomalib_genclip.inferencer.load_trained`, like ``pretrained``.
        variant (dict[str, Any]): Arguments of :class:`Variant`.
        pretrained (str | None): CLIP weights.

    Returns:
        GenCLIP: The model.
    """
    model = load_trained(weights, pretrained)
    Variant(**variant).apply(model)
    return model


def tapped_layers(weights: str) -> list[int]:
    """Read the feature layers of a trained model.

    Raises:
        ValueError: If the file is not a checkpoint or prompts file of GenCLIP, or is damaged.
    """
    if not weights.endswith(".ckpt"):
        return list(load_weights(weights).signature.layers)
    checkpoint = GenCLIPCheckpointIO().load_checkpoint(weights, map_location="cpu")
    return list(checkpoint["genclip"]["layers"])
