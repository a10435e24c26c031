# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Settings of a prediction."""

import pytest

from anomalib_genclip.prediction.settings import RunSettings

GIVEN = {"weights": "tiny-demo", "data": "images", "out": "out"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"precision": "fp16"}, "precision='fp16'.*bf16"),
        ({"image_threshold": 1.5}, "image_threshold"),
        ({"class_from": "file"}, "class_from='file'.*parent"),
        ({"class_name": "nut", "class_from": "parent"}, "exclude each other"),
        ({"class_from": "parent", "weights": "a.onnx"}, "fixed in an exported model"),
        ({"tiles": {"side": 512}}, "tiles.*size"),
        ({"pictures": "some"}, "pictures"),
        ({"shard": "0/2"}, "shard='0/2'"),
        ({"shard": "3/2"}, "shard"),
        ({"shard": "half"}, "shard"),
        ({"shard": "1/2", "overwrite": True}, "empty the folder"),
        ({"data": ""}, "data is empty"),
        ({"out": ""}, "out is empty"),
        ({"ray_actors": 2}, "engine=ray"),
        ({"ray_address": "auto"}, "engine=ray"),
    ],
)
def test_wrong_settings_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        RunSettings(**{**GIVEN, **wrong})


def test_chunks_are_of_whole_batches_and_short_where_a_batch_takes_long():
    def sizes(**options):
        return [RunSettings(**GIVEN, batch_size=batch, **options).chunk_size for batch in (1, 8, 10, 200, 300)]

    assert sizes(accelerator="gpu") == [256, 256, 250, 200, 300]
    assert sizes(accelerator="cpu") == [32, 32, 30, 200, 300]
    assert sizes(accelerator="gpu", tiles={"size": 512}) == [1, 8, 10, 200, 300]


def test_what_does_not_change_the_results_is_no_part_of_a_run():
    other = {"num_workers": 3, "on_error": "record", "engine": "ray", "ray_actors": 2, "out": "elsewhere"}
    other |= {"shard": "2/3"}
    assert RunSettings(**GIVEN).as_manifest() == RunSettings(**{**GIVEN, **other}).as_manifest()
    assert RunSettings(**GIVEN).as_manifest() != RunSettings(**GIVEN, batch_size=4).as_manifest()
