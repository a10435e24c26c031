# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Whatever a setting is given: either it is right, or one error names it, before any weight is loaded."""

import math
from dataclasses import fields, replace
from inspect import signature

import pytest
from helpers.models import torch_model
from hypothesis import example, given, settings
from hypothesis import strategies as st

from anomalib_genclip import GenCLIP, lightning_model
from anomalib_genclip.clip.backbone import list_backbones
from anomalib_genclip.components.class_names import clean_class_name, suffix_ids
from anomalib_genclip.data import CrossDataset
from anomalib_genclip.model_settings import ModelSettings
from anomalib_genclip.persistence.prompts_file import load_weights
from anomalib_genclip.settings import TileSettings, TrainingSettings
from anomalib_genclip.torch_model import GenCLIPModel

SMALL = {"backbone": "ViT-S-32-alt", "pretrained": "random", "image_size": 64}
PATCH, DEPTH, CONTEXT = 32, 12, 77
QUICK = settings(derandomize=True, deadline=None, max_examples=40, database=None)

SCALARS = st.none() | st.booleans() | st.integers(-3, 200) | st.floats() | st.text(max_size=30)
ANYTHING = SCALARS | st.lists(SCALARS, max_size=4) | st.dictionaries(st.text(max_size=5), SCALARS, max_size=2)
NUMBERS = st.integers(-5, 200) | st.floats() | st.booleans()
NAMES = st.text(max_size=200) | st.lists(st.text(max_size=12), max_size=100).map(" ".join)


class Accepted(Exception):  # noqa: N818  # no error: it stands for the weights that would be loaded now
    """Raised in place of loading CLIP."""


def build(**arguments) -> str:
    """Build a model up to where weights are loaded; return the error, ``""`` if there is none."""

    def accept(*_args):
        raise Accepted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lightning_model, "load_clip", accept)
        try:
            GenCLIP(**{**SMALL, "visualizer": False, **arguments})
        except Accepted:
            return ""
        except ValueError as error:
            return str(error)
    pytest.fail("the model was built without weights")


def is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


COMPONENTS = {"pre_processor", "post_processor", "evaluator", "visualizer"}
GROUPS = {"training": TrainingSettings, "tiles": TileSettings}
CHECKED = [
    name for name in signature(GenCLIP.__init__).parameters if name not in {"self", "weights", "unknown", *COMPONENTS}
]
CHECKED += [f"{group}.{field.name}" for group, kind in GROUPS.items() for field in fields(kind)]


@pytest.mark.parametrize("name", CHECKED)
@given(value=ANYTHING)
@settings(QUICK, max_examples=25)
def test_anything_in_any_setting_is_accepted_or_refused_by_name(name, value):
    group, _, field = name.partition(".")
    own = {group: {"size": 32, field: value} if group == "tiles" else {field: value}} if field else {name: value}
    message = build(**own, **({"image_size": None} if name == "backbone" else {}))
    if message:
        assert (field or name).replace("_", " ").rstrip("s") in message.lower().replace("_", " ")
        assert "\n" not in message


@given(name=st.sampled_from(list_backbones()) | st.text(max_size=30) | st.text(max_size=8).map("hf-hub:{}".format))
@example("local-dir:/etc")
@example("hf-hub:org/model")
@example("")
@QUICK
def test_backbone_is_a_listed_one_or_the_list_is_shown(name):
    known = name.removesuffix("-quickgelu") in list_backbones()
    message = build(backbone=name, image_size=None)
    assert known == (not message)
    assert known or "ViT-L-14-336" in message


@given(tag=st.text(max_size=30))
@example("x" * 5000)
@example("laion2b_s32b_b82k")  # of ViT-L-14
@example("\0")
@QUICK
def test_tag_belongs_to_the_backbone_or_its_tags_are_shown(tag):
    message = build(backbone="ViT-B-32", pretrained=tag)
    assert "laion2b_s34b_b79k" in message
    assert repr(tag)[:60] in message


def test_weights_of_clip_are_the_given_ones_then_the_files_then_the_backbones():
    assert not build(backbone="tiny", pretrained=None, image_size=112)
    assert "has its own weights" in build(backbone="tiny", pretrained="openai", image_size=112)
    assert ModelSettings.resolve("ViT-B-32").pretrained == "openai"
    demo = load_weights("tiny-demo")
    other = replace(demo.signature, backbone="ViT-B-32", layers=[6, 12])
    file = replace(
        demo,
        description=replace(demo.description, signature=other, pretrained="laion2b_s34b_b79k", image_size=[224, 224]),
    )
    assert ModelSettings.resolve(prompts=file).pretrained == "laion2b_s34b_b79k"
    assert ModelSettings.resolve(prompts=file, pretrained="openai").pretrained == "openai"
    moved = replace(file, description=replace(file.description, pretrained="clip.pt"))
    with pytest.raises(ValueError, match="tiny-demo was trained with other CLIP weights, which must be given"):
        ModelSettings.resolve(prompts=moved)


@given(size=st.integers(-70, 1000) | st.tuples(st.integers(-70, 300), st.integers(-70, 300)) | st.lists(NUMBERS))
@example(PATCH * 10**30)
@QUICK
def test_image_size_is_whole_patches_or_the_patch_is_shown(size):
    sides = [size] * 2 if isinstance(size, int) else size
    whole = [side for side in sides if type(side) is int and 0 < side <= 2**14 and side % PATCH == 0]
    message = build(image_size=size)
    assert (len(sides) == len(whole) == 2) == (not message)
    assert "image_size" in message or not message


@given(layers=st.lists(st.integers(-1, DEPTH + 2), max_size=5))
@QUICK
def test_layers_are_distinct_blocks_of_the_tower_or_the_range_is_shown(layers):
    fit = bool(layers) and len(set(layers)) == len(layers) and all(1 <= layer <= DEPTH for layer in layers)
    message = build(layers=layers)
    assert fit == (not message)
    assert fit or f"between 1 and {DEPTH}" in message


@pytest.mark.parametrize(("length", "fits"), [(0, False), (1, True), (36, True), (37, False)])
def test_prompts_leave_room_for_a_name_or_the_room_is_shown(length, fits):
    message = build(prompt_length=length)
    assert fits == (not message)
    assert fits or "from 1 to 36" in message
    if fits:
        words = CONTEXT - 1 - 2 * length - 2  # [SOS], prompts, "damaged", [EOS]
        assert not build(class_name="screw " * words, prompt_length=length)
        assert f"room for {words}" in build(class_name="screw " * (words + 1), prompt_length=length)


@given(value=NUMBERS)
@example(15.75)
@example(16)
@example(math.inf)
@example(math.nan)
@QUICK
def test_numbers_are_within_their_bounds(value):
    number = is_number(value)
    # A wider blur than the map would be an error at the first image.
    assert (not build(smoothing_sigma=value)) == (number and 0 <= value <= 63 / 4)
    assert (not build(score_weight=value)) == (number and 0 <= value <= 1)
    bounds = {
        "query_only_prob": number and 0 <= value <= 1,
        "learning_rate": number and value >= 0,
        "epochs": number and value >= 1 and value == int(value),
    }
    for name, right in bounds.items():
        assert (not build(training={name: value})) == right
    with pytest.raises(ValueError, match="^source must name" if number and 0 < value < 1 else "^val_split_ratio="):
        CrossDataset(source=[], target=[], val_split_ratio=value)


@pytest.mark.parametrize("wrong", [{"prompt_length": 0}, {"image_size": 0}, {"layers": []}])
def test_nothing_is_a_value_and_not_the_default_of_a_prompts_file(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        GenCLIP(weights="tiny-demo", **wrong)


def test_prompts_of_another_backbone_are_refused_by_both_names():
    message = build(weights="tiny-demo")
    assert message.startswith("tiny-demo was trained with backbone 'tiny'")
    assert "backbone='ViT-S-32-alt'" in message
    assert "layers" not in message


# With weights: what was checked is what the model takes.


@pytest.fixture(scope="module")
def model() -> GenCLIPModel:
    return torch_model(**SMALL, layers=[12])


@given(name=NAMES)
@example("screw " * 300)
@example("x" * 20_000)
@example(" _ ")
@example("\x00")
@settings(QUICK, max_examples=20)
def test_class_name_fits_into_the_context_or_the_error_says_why(model, name):
    message = build(class_name=name)
    assert message == build(class_name={"01": name})
    if message:
        assert "Class name" in message
        assert len(message) < 400
        return
    normal, abnormal = suffix_ids(clean_class_name(name), CONTEXT)
    assert 1 < len(normal) < len(abnormal) <= CONTEXT - 1 - 4 - 4
    index = model.class_index([name])
    assert model.class_names.eos[index].max() < CONTEXT
    assert model.class_names.features[index].isfinite().all()


@given(
    layers=st.lists(st.integers(1, DEPTH), min_size=1, max_size=4, unique=True),
    length=st.integers(1, 36),
    sides=st.tuples(st.integers(1, 4), st.integers(1, 4)),
)
@settings(QUICK, max_examples=3)
def test_accepted_settings_make_a_model(layers, length, sides):
    size = tuple(PATCH * side for side in sides)
    built = torch_model("ViT-S-32-alt", image_size=size, layers=layers, prompt_length=length)
    assert built.layers == sorted(layers)
    assert built.image_size == size
    assert len(built.prompts.normal) == len(built.prompts.query) == length
