# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Regions that do not count, such as a fixture or a background: white in a mask (ours)."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from anomalib_genclip.utils.files import file_hash, why_unreadable
from anomalib_genclip.utils.tensors import check_shape, digest, nearest

AnyMask: TypeAlias = str | os.PathLike | np.ndarray | Tensor
_WHITE = 127  # of 255; brighter pixels do not count


def read_ignore_mask(mask: AnyMask) -> Tensor:
    """Read a mask ``(H, W)``, bool, ``True`` where pixels do not count because they are white.

    It may be an image file, best a PNG; or an array or tensor ``(H, W)``, bool or uint8, the latter also with channels
    ``(H, W, 3 or 4)``. White is brighter than 127 of 255 in gray, and transparent pixels are black. A ``ValueError``
    names a mask that cannot be read, is gray and nowhere white, or leaves nothing that counts.
    """
    is_file = isinstance(mask, str | os.PathLike)
    name = f"ignore_mask={os.fspath(mask)!r}" if is_file else "ignore_mask"  # type: ignore[arg-type]
    try:
        with Image.open(mask) if is_file else Image.fromarray(np.asarray(mask)) as image:  # type: ignore[arg-type]
            if image.mode.startswith(("I", "F")):
                msg = f"it has more than 8 bits per pixel (mode {image.mode})"
                raise ValueError(msg)  # noqa: TRY301  # completed below
            black = Image.new("RGBA", image.size, "black")
            gray = np.asarray(Image.alpha_composite(black, image.convert("RGBA")).convert("L"))
    except Exception as error:  # decoders raise many types for a broken file
        msg = f"{name} cannot be read: {why_unreadable(error)}. Give a PNG in which white does not count."
        raise ValueError(msg) from error
    white = torch.from_numpy(gray > _WHITE)
    if gray.any() and not white.any():
        msg = f"{name} has pixels up to {gray.max()} and none is white, which does not count: save it with 0 and 255."
        raise ValueError(msg)
    return _leaves_something(white, name)


class IgnoreMask(nn.Module):
    """Pixels that do not count: one mask for all images, which is saved with the model, or a folder of masks.

    ``mask`` is ``(h, w)``, bool, and ``size`` height and width of its file: the aspect ratio of the images that it is
    for. ``folder`` has a PNG for each image, with the stem of its name, below their folders where several share it.
    """

    mask: Tensor | None

    def __init__(self, size: Sequence[int] = (), name: str = "") -> None:
        super().__init__()
        self.register_buffer("mask", None)
        self.size = list(size)  # without a mask if it is part of an exported graph
        self.folder: Path | None = None
        self.applies = True  # not while a model is trained, on other products
        self._name = name  # of the file, for messages

    def set(self, given: AnyMask | None, size: Sequence[int] | None, device: torch.device) -> None:
        """Replace the mask, given as to :func:`read_ignore_mask`, or as a folder; ``None`` if all pixels count.

        It is scaled to height and width ``size``; ``None`` keeps its own. A ``ValueError`` names one without use.
        """
        is_path = isinstance(given, str | os.PathLike)
        self._name = f" {os.fspath(given)}" if is_path else ""  # type: ignore[arg-type]
        self.folder = Path(given) if is_path and os.path.isdir(given) else None  # type: ignore[arg-type]  # noqa: PTH112
        self.mask, self.size = None, []
        if given is not None and self.folder is None:
            mask = read_ignore_mask(given)
            self.size = list(mask.shape)
            self.mask = _leaves_something(nearest(mask, size or mask.shape), f"ignore_mask{self._name}").to(device)

    def restore(self, mask: Tensor | None, size: Sequence[int], source: str) -> None:
        """Take the mask of a weights file, or none; a ``ValueError`` says ``source`` if it is not valid."""
        is_mask = mask is not None and mask.dtype == torch.bool and mask.dim() == 2 and not mask.all()
        if (mask is not None or size) and not (is_mask and len(size) == 2 and min(size) > 0):
            msg = f"{source} has no valid ignore_mask."
            raise ValueError(msg)
        self.mask, self.size, self.folder, self._name = mask, list(size), None, f" of {source}"

    def forward(self, size: Sequence[int], paths: Sequence[str] | None = None) -> Tensor | None:
        """Return masks at the size of maps, ``(B or 1, 1, H, W)``, or ``None``; a folder needs the image ``paths``."""
        if self.folder is not None and self.applies:
            return torch.stack([self.of(str(path), None, size) for path in paths or [""]])
        return None if self.mask is None or not self.applies else nearest(self.mask, size)[None, None]

    def of(self, path: str, image_size: Sequence[int] | None, size: Sequence[int]) -> Tensor | None:
        """Return the mask of one image at the size of its map, ``(1, *size)``, bool; ``None`` if there is none.

        ``path`` is a path or URL, ``""`` without one, and ``image_size`` height and width, ``None`` for the file's. A
        ``ValueError`` names the image if the folder has no mask for it, and the mask if its aspect ratio is another.
        """
        mask, own, name = self.mask, self.size, f"ignore_mask{self._name}"
        if self.folder is not None:
            mask = read_ignore_mask(file := self._find(self.folder, path))
            own, name = list(mask.shape), f"ignore_mask {file}"
        if own and image_size is None:
            with Image.open(path) as image:
                image_size = image.size[::-1]
        if own and image_size is not None:
            check_shape(path or "The image", image_size, name, own)
        return None if mask is None else _leaves_something(nearest(mask, size), name)[None]

    def digest(self, images: Sequence[str]) -> str:
        """Hash the masks of images, or whether there is one or a folder of them; ``""`` if there are none."""
        if self.folder is not None:
            return digest({}, [file_hash(self._find(self.folder, image)) for image in images])
        return "" if self.mask is None else digest({"mask": self.mask}, self.size)

    def note_on(self, calibration: Mapping[str, Any] | None) -> str:
        """Say that thresholds were calibrated with another mask, else ``""``; folders are not told apart."""
        is_same = calibration is None or calibration.get("ignore_mask", "") == self.digest(())
        return "" if is_same else "The thresholds were calibrated with another ignore mask, or none: calibrate again."

    @staticmethod
    def _find(folder: Path, path: str) -> Path:
        """Find the mask of an image: the longest end of its path that is there."""
        parts = PurePath(os.path.abspath(path)).with_suffix(".png").parts if path else ()  # noqa: PTH100  # keeps links
        files = (folder.joinpath(*parts[n:]).with_suffix(end) for n in range(1, len(parts)) for end in (".png", ".PNG"))
        if file := next(filter(Path.is_file, files), None):
            return file
        wanted = f"{parts[-1]}, of the size of the image; all black if everything counts" if parts else "the image"
        msg = f"ignore_mask {folder} has no mask for {path or 'an image without a path'}: it must have {wanted}."
        raise ValueError(msg)


def counting_cells(ignored: Tensor, grid: Sequence[int]) -> Tensor:
    """Find the cells of a grid of so many rows and columns with a pixel that counts.

    Pixels are ``(B, 1, H, W)``, bool, at a multiple of the grid, and cells ``(B, 1, *grid)``, float32, 1 or 0.
    """
    cell = [side // cells for side, cells in zip(ignored.shape[-2:], grid, strict=True)]
    return F.max_pool2d((~ignored).float(), cell)


def _leaves_something(mask: Tensor, name: str) -> Tensor:
    """Return a mask; a ``ValueError`` names one that covers everything."""
    if mask.all():
        msg = f"{name} is white everywhere: nothing is left that counts."
        raise ValueError(msg)
    return mask
