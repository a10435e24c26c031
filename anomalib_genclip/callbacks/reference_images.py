# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Few-shot reference images: which images are drawn, and their features."""

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from anomalib.models.components import KCenterGreedy
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from anomalib_genclip.components.anomaly_map import top_mean
from anomalib_genclip.components.ignore_mask import counting_cells
from anomalib_genclip.components.references import UNNAMED, ReferenceMemory, nearest_distance
from anomalib_genclip.data.images import FileFaults
from anomalib_genclip.data.normal_images import NormalImages, images_of_datamodule, images_of_folder
from anomalib_genclip.processing.post_processor import RawScorePostProcessor
from anomalib_genclip.torch_model import GenCLIPModel, set_ignore_mask, tile_grid
from anomalib_genclip.utils.files import file_hash
from anomalib_genclip.utils.loaders import datamodule_of, image_paths, origin_of, running_loaders
from anomalib_genclip.utils.messages import summarize
from anomalib_genclip.utils.tensors import resize

logger = logging.getLogger(__name__)

_FLIPS = ([-1], [-2], [-2, -1])  # axes; the last is a rotation by 180 degrees


class ReferenceImages(Callback):
    """Draw ``k_shot`` reference images of each category before testing, prediction and validation."""

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:  # noqa: ANN401  # GenCLIP
        """Remove references, what was found with them, and the weights' ignore mask: training sees other products."""
        pl_module.model.references.set({})
        if pl_module.hparams["ignore_mask"] is None:
            set_ignore_mask(pl_module.model, None)
        if isinstance(pl_module.post_processor, RawScorePostProcessor):
            pl_module.post_processor.reset()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the references, except in training."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self.on_test_start(trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: Any) -> None:  # noqa: ANN401  # GenCLIP
        """Draw the references from the folder or the datamodule of the running stage."""
        if not pl_module.k_shot:
            return
        loaders = running_loaders(trainer)
        found = images_of_datamodule(datamodule_of(trainer, loaders[0]))
        if (source := pl_module.hparams["few_shot_source"]) is not None:
            if len(found) > 1:
                what = f"few_shot_source={source} is one folder, and the test images are of {len(found)} categories"
                msg = f"{what}: leave it out to draw from the training images of each, or test them one by one."
                raise ValueError(msg)
            category = found[0][0] if found else origin_of(trainer, loaders[0]).category
            found = [(category or pl_module.names.given or UNNAMED, images_of_folder(source, "few_shot_source"))]
        images = dict(found)
        if not images:
            what = f"k_shot={pl_module.k_shot} has nothing to draw from: no datamodule with normal training images"
            msg = f"{what}. Give a folder of normal images as few_shot_source."
            raise ValueError(msg)
        if len(images) < len(found):
            msg = f"k_shot={pl_module.k_shot}: two target datasets share a category's name. Test them one by one."
            raise ValueError(msg)
        seed = trainer.strategy.broadcast(torch.initial_seed())  # all processes draw the same images
        drawn = {Path(file).resolve(): file for file in draw_references(pl_module, images, seed)}
        tested = {Path(file).resolve() for loader in loaders for file in image_paths(loader)}
        if shared := sorted(drawn[path] for path in drawn.keys() & tested):
            text = "Reference images that are also test images: %d. No defect will be found in them: %s."
            logger.warning(text, len(shared), summarize(shared))

    on_predict_start = on_test_start


@torch.inference_mode(mode=False)
@torch.no_grad()
def draw_references(module: Any, images: dict[str, NormalImages], seed: int | None = None) -> list[str]:  # noqa: ANN401
    """Draw references and set the model's, unless it has them; ``ValueError`` for too few or unusable images."""
    seed = next((value for value in (module.hparams["seed"], seed) if value is not None), torch.initial_seed())
    rows = {category: _choose(module, category, len(found.files), seed) for category, found in images.items()}
    files = {category: [found.files[row] for row in rows[category]] for category, found in images.items()}
    hashes = {category: [*map(file_hash, own)] for category, own in files.items()}
    drawn = [file for own in files.values() for file in own]
    model, drawn_with = module.model, _settings_of(module, drawn)
    wanted = [(own, drawn_with) for own in hashes.values()]
    if [(memory.images, memory.drawn_with) for memory in model.references.memories] == wanted:
        model.references.set(dict(zip(hashes, model.references.memories, strict=True)))  # under the category's name
        return drawn
    memories, faults = {}, FileFaults()
    for category, found in images.items():
        own = [(found.files[row], found.read(row, faults)) for row in rows[category]]
        pixels = [preprocessed(image, module) for _, image in own]  # all of one size
        ignored = [model.ignore_mask.of(file, image.shape[-2:], pixels[0].shape[-2:]) for file, image in own]
        parts = _remember(model, pixels, ignored, module.hparams["max_reference_patches"], seed)
        memories[category], patches = ReferenceMemory(*parts, hashes[category], drawn_with), parts[0]
        tag = f"References of {category}" if category else "References"
        logger.info("%s: images: %d, patches: %d, %.1f MB.", tag, module.k_shot, patches.shape[1], patches.nbytes / 1e6)
    faults.report()
    model.references.set(memories)
    if isinstance(module.post_processor, RawScorePostProcessor):
        module.post_processor.set_thresholds()  # the earlier ones were found on scores without references
    return drawn


def _settings_of(module: Any, files: list[str]) -> str:  # noqa: ANN401  # GenCLIP
    """Describe the settings that the features of references in these files depend on."""
    tiler, model = module.model.tiler, module.model
    tiles = tiler and [tiler.tile_size_h, tiler.tile_size_w, tiler.stride_h, tiler.stride_w]
    scaled = tiler and getattr(module.pre_processor, "working_size", None)
    parts = {"image_size": model.image_size, "tiles": tiles, "working_size": scaled}
    parts |= {"ignore_mask": masks} if (masks := model.ignore_mask.digest(files)) else {}
    return json.dumps(parts | {"max_reference_patches": module.hparams["max_reference_patches"]})


def _choose(module: Any, category: str, count: int, seed: int) -> list[int]:  # noqa: ANN401  # GenCLIP
    if count < module.k_shot:
        source = module.hparams["few_shot_source"]
        where = f"in few_shot_source={source}" if source else "among the datamodule's training images"
        what = f"k_shot={module.k_shot}, but there are only {count} normal images of {category!r} {where}"
        msg = f"{what}. Lower k_shot or give a folder with more images as few_shot_source."
        raise ValueError(msg)
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[: module.k_shot].tolist()


def _remember(
    model: GenCLIPModel, images: list[Tensor], ignored: list[Tensor | None], max_patches: int, seed: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute a memory from preprocessed images, each ``(1, 3, H, W)``, and their masks, each ``(1, H, W)``."""
    patches, cls = _features(model, images)
    left_out = _cells(model, ignored)
    flat = patches.flatten(1, 2)
    if left_out is None:
        kept = _coreset(flat, max_patches, seed)
    else:
        counting = (~left_out).flatten().nonzero()[:, 0]
        kept = counting[_coreset(flat[:, counting], max_patches, seed)]
    memory, origin = flat[:, kept], kept // patches.shape[2]
    if len(images) == 1:  # there is no other image to compare with, so the image itself is, flipped
        views, views_cls = _features(model, [images[0].flip(axes) for axes in _FLIPS])
        flipped = [None if ignored[0] is None else ignored[0].flip(axes) for axes in _FLIPS]
        usual = top_mean(nearest_distance(views, memory), ignored=_cells(model, flipped))
        return memory, cls, usual.mean(), top_mean(nearest_distance(views_cls.unsqueeze(2), cls)).mean()
    # Images to which the coreset leaves nothing to compare with are left out.
    compared = [number for number in range(len(images)) if (origin != number).any()]
    distances = _among_images(patches, memory, origin, compared)
    usual = top_mean(distances, ignored=None if left_out is None else left_out[compared])
    number = torch.arange(len(images), device=origin.device)
    return memory, cls, usual.mean(), top_mean(_among_images(cls.unsqueeze(2), cls, number, range(len(images)))).mean()


def _cells(model: GenCLIPModel, ignored: list[Tensor | None]) -> Tensor | None:
    """Find the patches, those of tiles too, in which nothing counts: ``(k, N)``, bool; ``None`` without masks."""
    masks = [mask[None].float().to(model.sos.device) for mask in ignored if mask is not None]
    cells = [counting_cells(torch.cat(_views(model, mask)) > 0.5, model.clip.grid_size).flatten() for mask in masks]
    return torch.stack(cells) == 0 if cells else None


def _coreset(features: Tensor, max_patches: int, seed: int) -> Tensor:
    """Choose at most ``max_patches`` patches of ``(M, P, d_v)``, the same in each layer."""
    count = features.shape[1]
    if count <= max_patches:
        return torch.arange(count, device=features.device)
    logger.info("Coreset of %d out of %d patches.", max_patches, count)
    sampler = KCenterGreedy(features.transpose(0, 1).flatten(1), sampling_ratio=(max_patches + 0.5) / count)
    sampler.model.random_state = seed % 2**32  # NumPy's
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.tensor(sorted(sampler.select_coreset_idxs()), device=features.device)


def preprocessed(image: Tensor, module: Any) -> Tensor:  # noqa: ANN401  # GenCLIP
    """Preprocess an image ``(3, H, W)``: ``(1, 3, H, W)`` in the model's precision."""
    image = module.pre_processor.transform(image[None]) if module.pre_processor else image[None]
    return image.to(module.device, module.model.projections[0].dtype)


def _features(model: GenCLIPModel, images: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Compute patches, those of tiles too, ``(M, k, N, d_v)``, and CLS tokens ``(1, k, d_v)``, rounded to half."""
    views = [[*map(model.clip.encode_image, _views(model, resize(image, images[0].shape[-2:])))] for image in images]
    per_image = [torch.cat([torch.stack(view.patches).flatten(1, 2) for view in image], dim=1) for image in views]
    patches = torch.stack(per_image, dim=1)
    cls = torch.cat([image[0].pooled for image in views]).unsqueeze(0)
    unit = (F.normalize(features.float(), dim=-1).half().float() for features in (patches, cls))
    return next(unit), next(unit)


def _views(model: GenCLIPModel, image: Tensor) -> list[Tensor]:
    """Return an image ``(1, C, H, W)`` as the vision tower sees it, and batches of its tiles."""
    tiles = tile_grid(image, model.tiler)
    if tiles is None:
        return [image]
    batches = [batch for batch, _ in tiles.cut(image, model.image_size, model.tile_batch_size)]
    return [resize(image, model.image_size), *batches]


def _among_images(features: Tensor, memory: Tensor, origin: Tensor, images: Iterable[int]) -> Tensor:
    """Compute the distances ``(k, N)`` of some images' features ``(M, _, N, d_v)`` to the memory of the others."""
    return torch.cat([nearest_distance(features[:, [image]], memory[:, origin != image]) for image in images])
