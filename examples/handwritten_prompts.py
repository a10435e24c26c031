# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The usual CLIP baseline through GenCLIP's own code: hand-written prompts instead of learned ones.

    python examples/handwritten_prompts.py --backbone tiny --layers 8

Everything but the text is GenCLIP's: patch features through CLIP's own projection, temperature, map, image score,
evaluation. The text is "a photo of a perfect {class}" and "a photo of a damaged {class}". Tested on the categories
of the quickstart.
"""

import argparse

import torch
from anomalib.data import SyntheticDefects
from anomalib.engine import Engine
from torch import Tensor

from anomalib_genclip import CrossDataset, GenCLIP
from anomalib_genclip.clip.frozen_clip import ImageTokens
from anomalib_genclip.demo.synthetic import SOURCE, TARGET
from anomalib_genclip.model_settings import ModelSettings
from anomalib_genclip.torch_model import GenCLIPModel

TEMPLATES = ("a photo of a perfect {}", "a photo of a damaged {}")


class HandWrittenPrompts(GenCLIPModel):
    """GenCLIP with written text in place of both branches; nothing in it was trained."""

    def _branch_text(self, image: ImageTokens, class_index: Tensor) -> dict[str, list[Tensor]]:
        del image
        names = [self.class_names.names[i] for i in class_index.tolist()]
        pairs = {name: self._pair(name) for name in dict.fromkeys(names)}
        return {"written": [torch.stack([pairs[name] for name in names])] * len(self.layers)}

    def _pair(self, name: str) -> Tensor:
        return torch.stack([self.clip.encode_text(template.format(name)) for template in TEMPLATES])


def main() -> None:
    """Test the written prompts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="tiny")
    parser.add_argument("--pretrained", default="openai")
    parser.add_argument("--layers", type=int, nargs="+", help="tapped blocks, from 1; the four quarters if left out")
    args = parser.parse_args()
    model = GenCLIP(args.backbone, args.pretrained, layers=args.layers, visualizer=False)
    settings = ModelSettings.resolve(args.backbone, args.pretrained, layers=args.layers)
    model.model = HandWrittenPrompts(model.model.clip.model, settings)
    data = CrossDataset(
        source=SyntheticDefects(),
        source_categories=list(SOURCE),
        target=SyntheticDefects(),
        target_categories=list(TARGET),
        num_workers=0,
    )
    Engine().test(model=model, datamodule=data)


if __name__ == "__main__":
    main()
