# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Settings of a prediction, which are the options of ``genclip predict``. Imports no heavy module."""

import re
from dataclasses import dataclass, fields
from typing import Any, Literal

from anomalib_genclip.utils.settings import NonNegativeInt, PositiveInt, UnitFloat, checked

Accelerator = Literal["auto", "cpu", "gpu"]
BackendName = Literal["auto", "torch", "onnx", "openvino"]
Engine = Literal["local", "ray"]
Maps = Literal["none", "png16", "npy"]
OnError = Literal["stop", "record"]
Pictures = Literal["none", "anomalous", "all"]
Precision = Literal["auto", "float32", "bf16"]
TableFormat = Literal["csv", "parquet"]

TILES = ("tile_size", "tile_stride", "working_size", "tile_batch_size")
_PART_IMAGES = 256  # images in a part, rounded down to whole batches


@dataclass(frozen=True, kw_only=True)
class ScoringSettings:
    """Settings of the model and of reading images.

    Args:
        weights (str): A prompts file (.safetensors), a checkpoint (.ckpt), tiny-demo, or an exported model (.onnx,
            .xml).
        pretrained (str | None): CLIP weights instead of those named in the prompts file: a tag of open_clip, or a local
            file.
        class_name (str | None): Class name of all images, such as "metal nut". Default: "object".
        class_from (str | None): "parent" takes the name of each image's folder as its class name.
        tile_size (int | None): Side of the overlapping tiles that large images are cut into, in pixels. Default: no
            tiles, or those of the checkpoint.
        tile_stride (int | None): Maximum distance from one tile to the next. Default: three quarters of tile_size.
        working_size (int | None): Longer side that images are scaled to before they are cut. Default: their own size.
        tile_batch_size (int | None): Tiles per batch. Default: 16.
        batch_size (int): Images per batch.
        num_workers (int | None): Processes that read and resize images; 0 reads in the main process. Default: the
            number of cores minus one, at most 4.
        precision (str): float32, bf16, or auto: bf16 on devices with instructions for it. bf16 changes scores in the
            third decimal.
        backend (str): Runtime of the model. "auto" chooses by the suffix of the weights.
        accelerator (str): auto, cpu or gpu.
        image_threshold (float | None): Images with a higher score are anomalous. Default: the threshold in the weights.
        pixel_threshold (float | None): The same for the pixels of the anomaly map.
        on_error (str): Whether an image that cannot be used stops the run, or becomes a row with an error.

    Raises:
        ValueError: If a setting is wrong; names it.
    """

    weights: str
    pretrained: str | None = None
    class_name: str | None = None
    class_from: Literal["parent"] | None = None
    tile_size: PositiveInt | None = None
    tile_stride: PositiveInt | None = None
    working_size: PositiveInt | None = None
    tile_batch_size: PositiveInt | None = None
    batch_size: PositiveInt = 8
    num_workers: NonNegativeInt | None = None
    precision: Precision = "auto"
    backend: BackendName = "auto"
    accelerator: Accelerator = "auto"
    image_threshold: UnitFloat | None = None
    pixel_threshold: UnitFloat | None = None
    on_error: OnError = "stop"

    def __post_init__(self) -> None:
        """Check the settings."""
        kinds: dict[str, Any] = {
            "batch_size": PositiveInt,
            "precision": Precision,
            "backend": BackendName,
            "accelerator": Accelerator,
            "on_error": OnError,
        }
        optional: dict[str, Any] = {
            "num_workers": NonNegativeInt,
            "image_threshold": UnitFloat,
            "pixel_threshold": UnitFloat,
            "class_from": Literal["parent"],
            **dict.fromkeys(TILES, PositiveInt),
        }
        self._check(kinds | {name: kind for name, kind in optional.items() if getattr(self, name) is not None})
        if self.class_name is not None and self.class_from is not None:
            msg = "class_name and class_from exclude each other: give one name, or take it from the folders."
            raise ValueError(msg)

    def _check(self, kinds: dict[str, Any]) -> None:
        for name, kind in kinds.items():
            object.__setattr__(self, name, checked(name, getattr(self, name), kind))

    @property
    def part_size(self) -> int:
        """Images in a part: whole batches, so that batches do not depend on interruptions."""
        return self.batch_size * max(1, _PART_IMAGES // self.batch_size)


@dataclass(frozen=True, kw_only=True)
class RunSettings(ScoringSettings):
    """Settings of a run: images and results, in addition to those of the model.

    Args:
        data (str): A folder with its subfolders, an image, a pattern in quotes such as "images/*/test/*.png", or a
            text file with a path per line. May be a URL such as s3://bucket/folder, if its fsspec package is installed.
        out (str): Results folder: a new one, or that of the run to resume. May be a URL.
        table (str): Format of the tables.
        pictures (str): Images for which a result image with the heat map is written.
        maps (str): Format of the anomaly maps: none, PNG with 16 bits (0 to 65535 for 0 to 1), or NumPy arrays of
            float32.
        original_size (bool): Write maps and pictures in the size of the image, not of the model.
        regions (bool): Write regions.csv, a row per connected anomalous region, in pixels of the image.
        shard (str): "2/8" processes the second of eight shards. Give all shards the same folder; the last one to finish
            writes the tables.
        overwrite (bool): Remove the results of an earlier run from the folder.
        engine (str): local, or ray: Ray Data, on this machine or a cluster.
        ray_address (str | None): Address of a Ray cluster. Default: Ray is started on this machine.
        ray_actors (int | None): Number of models that Ray runs at once. Default: one per GPU, else one per four cores.

    Raises:
        ValueError: If a setting is wrong; names it.
    """

    data: str
    out: str
    table: TableFormat = "csv"
    pictures: Pictures = "none"
    maps: Maps = "none"
    original_size: bool = False
    regions: bool = False
    shard: str = "1/1"
    overwrite: bool = False
    engine: Engine = "local"
    ray_address: str | None = None
    ray_actors: PositiveInt | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        kinds: dict[str, Any] = {
            "table": TableFormat,
            "pictures": Pictures,
            "maps": Maps,
            "original_size": bool,
            "regions": bool,
            "overwrite": bool,
            "engine": Engine,
        }
        self._check(kinds | ({"ray_actors": PositiveInt} if self.ray_actors is not None else {}))
        for name in ("data", "out"):
            if not getattr(self, name):
                msg = f"{name} is empty: give a path or a URL."
                raise ValueError(msg)
        number, count = self.shard_and_count
        if not 1 <= number <= count:
            msg = f"shard={self.shard!r} must be number/count, such as 2/8."
            raise ValueError(msg)
        if self.overwrite and count > 1:
            msg = "overwrite would remove the results of other shards: empty the folder before they start."
            raise ValueError(msg)
        if self.engine == "local" and (self.ray_address or self.ray_actors):
            msg = "ray_address and ray_actors need engine=ray."
            raise ValueError(msg)

    @property
    def shard_and_count(self) -> tuple[int, int]:
        """Number of this shard, from 1, and the number of shards; ``(0, 0)`` if the setting is not valid."""
        match = re.fullmatch(r"(\d+)/(\d+)", str(self.shard))
        return (int(match[1]), int(match[2])) if match else (0, 0)

    def as_manifest(self) -> dict[str, Any]:
        """Return by name the settings that the results depend on."""
        others = {"weights", "out", "num_workers", "on_error", "shard", "overwrite", "engine"}
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        chosen = {name: value for name, value in values.items() if name not in others and not name.startswith("ray_")}
        return chosen | {"shards": self.shard_and_count[1]}
