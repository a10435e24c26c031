# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Score a chunk and write its file: the one unit of work, which all schedulers call."""

import errno
import json
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import islice, tee
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anomalib_genclip.data.images import read_image
from anomalib_genclip.inferencer import Inferencer
from anomalib_genclip.records import Record
from anomalib_genclip.utils.devices import choose_device, choose_precision
from anomalib_genclip.utils.files import why_unreadable

from .chunks import FAULTS, REGIONS, Chunk
from .image_files import result_files
from .output import Row, in_lists, region_rows, score_row
from .settings import RunSettings
from .sources import Source
from .storage import ResultFolder

_MOST_WORKERS = 4  # by default
_OF_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}  # not of one image
# Transformed image, size of the file and what of it is not used as it may be meant, or why it cannot be read.
Loaded = tuple[Tensor, tuple[int, int], list[str]] | str


class Scorer:
    """A model and the results folder, from settings with device and precision resolved, and the file of the weights.

    A ``ValueError`` says that the weights do not fit the settings.
    """

    def __init__(self, settings: RunSettings, weights: Path) -> None:
        self.settings = settings
        self.folder = ResultFolder(settings.out)
        names = ("class_name", "precision", "pretrained", "tiles", "image_threshold", "pixel_threshold", "ignore_mask")
        given: dict[str, Any] = {name: getattr(settings, name) for name in names}
        self.inferencer = Inferencer(weights, device=settings.accelerator, **given)

    def score(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        """Score chunks that are not done, and write their files; images are read ahead, over the ends of chunks.

        An ``OSError`` stops at an image that cannot be used if ``on_error`` is "stop", or at a file that cannot be
        written. The chunk has no file then.
        """
        chunks, ahead = tee(chunk for chunk in chunks if not self.folder.exists(chunk.file))
        with closing(self._load(image for chunk in ahead for image in chunk.images)) as loaded:
            for chunk in chunks:
                rows: list[Row] = []
                for images in in_lists(chunk.images, self.settings.batch_size):
                    found = list(islice(loaded, len(images)))
                    rows += map(self._finish, images, self._records(images, found), found)
                self.folder.write(chunk.file, "".join(json.dumps(row) + "\n" for row in rows).encode())
                yield chunk

    def _load(self, images: Iterable[Source]) -> Generator[Loaded]:
        """Read images in threads, up to two batches ahead, in their order."""
        load = partial(load_image, transform=self.inferencer.transform)
        cores = torch.get_num_threads()
        default = max(1, min(_MOST_WORKERS, cores - 1))  # one is left to the model
        workers = default if self.settings.num_workers is None else self.settings.num_workers
        if not workers:
            yield from map(load, images)
            return
        # torch would use all cores in each thread.
        pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
        waiting: deque = deque()
        try:
            for image in images:
                waiting.append(pool.submit(load, image))
                if len(waiting) > 2 * self.settings.batch_size + workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(cores)  # of threads that start later, too

    def _records(self, images: Sequence[Source], loaded: Sequence[Loaded]) -> list[Record]:
        """Score a batch: images of one size at once."""
        records: dict[int, Record] = {}
        stacks: dict[torch.Size, list[tuple[int, Tensor, tuple[int, int]]]] = defaultdict(list)
        for place, (image, found) in enumerate(zip(images, loaded, strict=True)):
            if isinstance(found, str):
                records[place] = Record(image.path, error=found)
            else:
                stacks[found[0].shape].append((place, found[0], found[1]))
        for stack in stacks.values():
            places, pixels, sizes = zip(*stack, strict=True)
            paths = [images[place].path for place in places]
            names = [images[place].folder if self.settings.class_from else None for place in places]
            scored = self.inferencer.predict_batch(torch.stack(pixels), paths, sizes, names)
            self.inferencer.watch(scored)
            records.update(zip(places, scored, strict=True))
        return [records[place] for place in range(len(images))]

    def _finish(self, image: Source, record: Record, found: Loaded) -> Row:
        """Write the files of an image, and return its row; an ``OSError`` stops the run."""
        try:
            for name, content in result_files(record, image.name, self.settings):
                self.folder.write(name, content, sync=False)
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _OF_DISK:
                raise
            record = replace(record, error=f"{image.path}: its files cannot be made: {why_unreadable(error)}")
        if record.error and self.settings.on_error == "stop":
            hint = "Use" if record.size[0] else "Repair the file, or use"
            msg = f"{record.error.rstrip('.')}. {hint} --on_error record, and run the command again to resume."
            raise OSError(msg)
        faults = {} if isinstance(found, str) or not found[2] else {FAULTS: found[2]}
        return score_row(record) | faults | ({REGIONS: region_rows(record)} if self.settings.regions else {})


def load_image(image: Source, transform: Callable[[Tensor], Tensor]) -> Loaded:
    """Read an image and transform it; an error is returned, not raised."""
    try:
        pixels = read_image(image.path, faults := list[str]())
        return transform(pixels), (pixels.shape[1], pixels.shape[2]), faults
    except Exception as error:  # noqa: BLE001  # decoders raise many types for a broken file
        return f"{image.path} cannot be read: {why_unreadable(error).removeprefix(f'{image.path} ')}"


def resolve_device(settings: RunSettings) -> tuple[str, Any]:
    """Return the type of the device and the precision of this machine; a ``ValueError`` if there is no such device."""
    device, suffix = choose_device(settings.accelerator), Path(settings.weights).suffix
    if suffix == ".xml" and settings.accelerator == "auto":  # a GPU of OpenVINO is Intel's, not torch's
        device = torch.device("cpu")
    if suffix == ".onnx" and settings.precision == "auto":  # computes as the file says
        return device.type, "float32"
    return device.type, choose_precision(settings.precision, torch.device("cpu") if suffix == ".xml" else device)
