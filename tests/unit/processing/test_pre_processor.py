# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The resize is the same in the engine and in exported models, which ``integration/test_export.py`` runs."""

import torch
from anomalib.pre_processing import PreProcessor
from torch.nn import functional as F  # noqa: N812
from torchvision.transforms.v2 import Compose, InterpolationMode, Normalize, Resize
from torchvision.tv_tensors import Mask

from anomalib_genclip import GenCLIP
from anomalib_genclip.data.category_dataset import CategoryBatch
from anomalib_genclip.processing.pre_processor import AntialiasedPreProcessor
from anomalib_genclip.utils.tensors import IGNORED


def test_exported_transform_is_the_engines():
    transform = GenCLIP.configure_pre_processor((112, 126)).transform
    smooth = F.interpolate(torch.rand(1, 3, 5, 7), (310, 420), mode="bicubic")
    image = (smooth + 0.2 * torch.randn_like(smooth)).clamp(0, 1)  # fine grain shows antialiasing
    expected = transform(image)
    torch.testing.assert_close(AntialiasedPreProcessor(transform)(image), expected, atol=1e-4, rtol=0)
    assert (PreProcessor(transform)(image) - expected).abs().max() > 0.1  # anomalib's own: no antialiasing


def test_other_transforms_are_exported_as_anomalib_does():
    resize = Resize((8, 8), InterpolationMode.BILINEAR, antialias=True)
    exported_form = AntialiasedPreProcessor(Compose([resize, Normalize([0.0], [1.0])])).export_transform
    assert not exported_form.transforms[0].antialias
    assert resize.antialias
    assert AntialiasedPreProcessor()(torch.ones(1)) == 1


def test_training_at_the_models_size_keeps_pixels_that_do_not_count():
    pre_processor = AntialiasedPreProcessor(Compose([Normalize([0.5], [0.5])]))
    pre_processor.keep_size(None, (4, 4))
    mask = torch.zeros(1, 8, 8, dtype=torch.uint8)
    mask[0, :4], mask[0, 4:, :4] = IGNORED, 1
    batch = CategoryBatch(image=torch.rand(1, 3, 8, 8), gt_mask=Mask(mask))
    pre_processor.on_train_batch_start(None, None, batch, 0)
    assert batch.image.shape[-2:] == (4, 4)
    assert torch.equal(batch.gt_mask, mask[:, ::2, ::2])
