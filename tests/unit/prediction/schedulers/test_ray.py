# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""What Ray must reserve for its actors; runs with Ray are in ``tests/integration/test_ray.py``."""

import pytest
from helpers.predictions import settings_for

pytest.importorskip("ray", reason="ray comes with the extra: pip install .[scale]")
from anomalib_genclip.prediction.schedulers.ray import actor_resources  # needs ray


@pytest.mark.parametrize(
    ("nodes", "actors", "expected"),
    [
        ([{"CPU": 64, "GPU": 8}], None, (8, 8, {"num_cpus": 0, "num_gpus": 1})),
        ([{"CPU": 64, "GPU": 8}], 3, (3, 21, {"num_cpus": 0, "num_gpus": 1})),  # not 2.67
        ([{"CPU": 64, "GPU": 8}], 12, (12, 5, {"num_cpus": 0, "num_gpus": 1 / 2})),  # two fit on a GPU, not 1.5
        ([{"CPU": 4}, {"CPU": 4, "GPU": 1}], None, (1, 8, {"num_cpus": 0, "num_gpus": 1})),
        ([{"CPU": 16}], None, (4, 4, {"num_cpus": 4, "num_gpus": 0})),
        ([{"CPU": 2}], None, (1, 2, {"num_cpus": 2, "num_gpus": 0})),
        ([{"CPU": 2}], 5, (5, 1, {"num_cpus": 1 / 3, "num_gpus": 0})),
        ([{"CPU": 4}, {"CPU": 4}], 1, (1, 4, {"num_cpus": 4, "num_gpus": 0})),  # of one machine, not 8
        ([{"CPU": 8}, {"CPU": 2}, {"CPU": 2}], 3, (3, 2, {"num_cpus": 2, "num_gpus": 0})),
        ([{}, {"CPU": 4}], 2, (2, 2, {"num_cpus": 2, "num_gpus": 0})),
    ],
)
def test_all_actors_have_the_same_share_and_find_a_place(tmp_path, nodes, actors, expected):
    settings = settings_for(tmp_path, engine="ray", ray_actors=actors, accelerator="auto")
    assert actor_resources(settings, nodes) == expected


def test_gpus_are_used_if_wanted_and_never_replaced(tmp_path):
    settings = settings_for(tmp_path, engine="ray", accelerator="cpu")
    assert actor_resources(settings, [{"CPU": 8, "GPU": 2}])[2]["num_gpus"] == 0
    with pytest.raises(ValueError, match="Ray knows of no GPU"):
        actor_resources(settings_for(tmp_path, engine="ray", accelerator="gpu"), [{"CPU": 8}])
