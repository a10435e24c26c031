# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Settings of a run, which are the options of ``genclip predict``. Imports no heavy module."""

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from anomalib_genclip.settings import TileSettings, as_settings
from anomalib_genclip.utils.settings import NonNegativeInt, OpenUnitFloat, PositiveInt, UnitFloat, check_fields

from .output import TableFormat

Engine = Literal["local", "ray"]  # the modules of schedulers/
_CHUNK_IMAGES = {"gpu": 256, "cpu": 32}  # at most, unless a batch is larger
# Settings that the results do not depend on. Weights are known by their hash.
_ANY = ("weights", "out", "num_workers", "on_error", "shard", "overwrite", "engine", "ray_address", "ray_actors")


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Settings of a run.

    Args:
        weights (str): A prompts file (.safetensors), a checkpoint (.ckpt), tiny-demo, hf://owner/name/file, or an
            exported model (.onnx, .xml).
        data (str): A folder with its subfolders, an image, a pattern in quotes such as "images/*/test/*.png", a text
            file with a path per line, or - for such lines from standard input. Also a URL such as s3://bucket/folder.
        out (str): Results folder: a new one, or that of the run to resume. May be a URL.
        pretrained (str | None): CLIP weights instead of those in the prompts file: a tag of open_clip, or a local file.
        class_name (str | None): Class name of all images, such as "nut". Default: that of the weights, or "object".
        class_from (str | None): "parent" takes the name of each image's folder as its class name.
        tiles (TileSettings | None): Overlapping tiles that large images are cut into. Default: those of the weights.
        ignore_mask (str | None): A PNG of the shape of the images, in which white does not count, or a folder with one
            of the same stem for each image. Default: that of the weights.
        batch_size (int): Images per batch.
        num_workers (int | None): Threads that read images; 0: between batches. Default: cores minus one, at most 4.
        precision (str): float32, bf16, or auto: bf16 where it is fast. It changes scores in the third decimal.
        accelerator (str): auto, cpu or gpu.
        image_threshold (float | None): Images with a higher score are anomalous. Default: the threshold in the weights.
        pixel_threshold (float | None): The same for the pixels of the anomaly map.
        false_discovery_rate (float | None): Instead of the threshold, label as many images anomalous as keep the share
            of false alarms among them at most at this rate (Benjamini and Hochberg). Needs calibrated weights.
        on_error (str): Whether an image that cannot be used stops the run, or becomes a row with an error.
        table (str): Format of the tables.
        pictures (str): Images for which a result image with the heat map is written.
        maps (str): Format of the anomaly maps: none, PNG with 16 bits (0 to 65535 for 0 to 1), or NumPy's float32.
        original_size (bool): Write maps and pictures in the size of the image, not of the model.
        regions (bool): Write a table of regions, a row per connected anomalous region, in pixels of the image.
        shard (str): "2/8" is the second of eight shards, all in the same folder; the last to finish writes the tables.
        overwrite (bool): Remove the results of an earlier run from the folder.
        engine (str): local, or ray: a pool of Ray actors, on this machine or a cluster.
        ray_address (str | None): Address of a Ray cluster. Default: Ray is started on this machine.
        ray_actors (int | None): Number of models that Ray runs at once. Default: one per GPU, else one per four cores.
    """

    weights: str
    data: str
    out: str
    pretrained: str | None = None
    class_name: str | None = None
    class_from: Literal["parent"] | None = None
    tiles: TileSettings | None = None
    ignore_mask: str | None = None
    batch_size: PositiveInt = 8
    num_workers: NonNegativeInt | None = None
    precision: Literal["auto", "float32", "bf16"] = "auto"
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    image_threshold: UnitFloat | None = None
    pixel_threshold: UnitFloat | None = None
    false_discovery_rate: OpenUnitFloat | None = None
    on_error: Literal["stop", "record"] = "stop"
    table: TableFormat = "csv"
    pictures: Literal["none", "anomalous", "all"] = "none"
    maps: Literal["none", "png16", "npy"] = "none"
    original_size: bool = False
    regions: bool = False
    shard: str = "1/1"
    overwrite: bool = False
    engine: Engine = "local"
    ray_address: str | None = None
    ray_actors: PositiveInt | None = None

    def __post_init__(self) -> None:
        """Check the settings; a ``ValueError`` names a wrong one."""
        check_fields(self)
        if self.tiles is not None:
            object.__setattr__(self, "tiles", as_settings(TileSettings, "tiles", self.tiles))
        number, count = self.shard_and_count
        mask, ray, rate = self.ignore_mask, self.ray_address or self.ray_actors, self.false_discovery_rate
        for is_wrong, message in (
            (not self.data, "data is empty: give a path or a URL."),
            (not self.out, "out is empty: give a path or a URL."),
            (self.class_name and self.class_from, "class_name and class_from exclude each other: give one of them."),
            (self.class_from and self.weights.endswith((".onnx", ".xml")), "class_from is fixed in an exported model."),
            (rate and self.image_threshold is not None, "false_discovery_rate and image_threshold exclude each other."),
            (rate and self.pictures == "anomalous", "false_discovery_rate labels last: give pictures=all or none."),
            (not Path(mask or ".").exists(), f"There is no ignore_mask {mask!r}: give a PNG, or a folder of them."),
            (not 1 <= number <= count, f"shard={self.shard!r} must be number/count, such as 2/8."),
            (self.overwrite and count > 1, "overwrite would remove results of other shards: empty the folder before."),
            (ray and self.engine != "ray", "ray_address, ray_actors need engine=ray."),
        ):
            if is_wrong:
                raise ValueError(message)

    @property
    def shard_and_count(self) -> tuple[int, int]:
        """Number of this shard, from 1, and the number of shards; ``(0, 0)`` if the setting is not valid."""
        match = re.fullmatch(r"(\d+)/(\d+)", str(self.shard))
        return (int(match[1]), int(match[2])) if match else (0, 0)

    @property
    def chunk_size(self) -> int:
        """Images in a chunk: whole batches, and few where a batch takes long, because a kill costs up to a chunk."""
        most = 1 if self.tiles else _CHUNK_IMAGES.get(self.accelerator, 1)
        return self.batch_size * max(1, most // self.batch_size)

    def as_manifest(self) -> dict[str, Any]:
        """Return by name the settings that the results depend on."""
        return {name: value for name, value in asdict(self).items() if name not in _ANY}
