# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Loading of a trained model from whichever file it was saved to."""

from typing import Any

from .lightning_model import GenCLIP


def load_trained(weights: str, pretrained: str | None = None, **settings: Any) -> GenCLIP:  # noqa: ANN401
    """Load a trained model.

    Args:
        weights (str): A checkpoint (``.ckpt``), a prompts file (``.safetensors``), or ``"tiny-demo"``.
        pretrained (str | None): CLIP weights; needed if the model was trained with a file that is not here. ``None``
            takes those that the model was trained with.
        **settings (Any): Further arguments of :class:`~anomalib_genclip.lightning_model.GenCLIP`.

    Returns:
        GenCLIP: The model.
    """
    if pretrained is not None:
        settings["pretrained"] = pretrained
    if weights.endswith(".ckpt"):
        return GenCLIP.load_from_checkpoint(weights, map_location="cpu", **settings)
    return GenCLIP(weights=weights, **settings)
