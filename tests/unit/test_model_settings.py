# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Whatever a setting is given: either it is right, or one error names it, before any weight is loaded."""

import math

import pytest
from helpers.models import torch_model
from hypothesis import example, given, settings
from hypothesis import strategies as st

from anomalib_genclip import GenCLIP, lightning_model
from anomalib_genclip.clip.backbone import backbone_spec, list_backbones
from anomalib_genclip.components.class_names import clean_class_name, suffix_ids
from anomalib_genclip.data import CrossDataset
from anomalib_genclip.torch_model import GenCLIPModel

SMALL = {"backbone": "ViT-S-32-alt", "pretrained": "random", "image_size": 64}
PATCH, DEPTH, CONTEXT = 32, 12, 77
QUICK = settings(derandomize=True, deadline=None, max_examples=40, database=None)

SCALARS = st.none() | st.booleans() | st.integers(-3, 200) | st.floats() | st.text(max_size=30)
ANYTHING = SCALARS | st.lists(SCALARS, max_size=4) | st.dictionaries(st.text(max_size=5), SCALARS, max_size=2)
NUMBERS = st.integers(-5, 200) | st.floats() | st.booleans()
NAMES = st.text(max_size=200) | st.lists(st.text(max_size=12), max_size=100).map(" ".join)
SCRIPTS = ("螺丝", "болт", "مسمار", "ネジ 🔩")
SIGNS = ("{class}", "{0}", "%s", "[EOS]", "<end_of_text>", "a\nb", "screw_m4", "\ud800")


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


def is_whole(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


CHECKED = (
    "backbone",
    "pretrained",
    "image_size",
    "layers",
    "patch_attention",
    "state_length",
    "query_length",
    "class_name",
    "class_names",
    "branches",
    "class_name_filter",
    "smoothing_sigma",
    "learning_rate",
    "projection_learning_rate",
    "query_only_prob",
    "vision_dropout",
    "image_loss_weight",
    "anomaly_source",
    "epochs",
    "fine_tune",
    "feature_cache",
)


@pytest.mark.parametrize("name", CHECKED)
@given(value=ANYTHING)
@settings(QUICK, max_examples=25)
def test_anything_in_any_setting_is_accepted_or_refused_by_name(name, value):
    message = build(**{name: value, **({"image_size": None} if name == "backbone" else {})})
    if message:
        assert name.replace("_", " ").rstrip("s") in message.lower().replace("_", " ")
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


def test_bundled_backbone_takes_no_other_weights():
    assert not build(backbone="tiny", pretrained="openai", image_size=112)
    assert "has its own weights" in build(backbone="tiny", pretrained="laion2b_s32b_b82k", image_size=112)


@given(size=st.integers(-70, 1000) | st.tuples(st.integers(-70, 300), st.integers(-70, 300)) | st.lists(NUMBERS))
@QUICK
def test_image_size_is_whole_patches_or_the_patch_is_shown(size):
    sides = [size] * 2 if isinstance(size, int) else size
    fits = len(sides) == 2 and all(is_whole(side) and side > 0 and side % PATCH == 0 for side in sides)
    message = build(image_size=size)
    assert fits == (not message)
    assert fits or "image_size" in message


@given(layers=st.lists(st.integers(-1, DEPTH + 2), max_size=5))
@QUICK
def test_layers_are_distinct_blocks_of_the_tower_or_the_range_is_shown(layers):
    fit = bool(layers) and len(set(layers)) == len(layers) and all(1 <= layer <= DEPTH for layer in layers)
    message = build(layers=layers)
    assert fit == (not message)
    assert fit or f"between 1 and {DEPTH}" in message


@given(state=st.integers(-1, 80), query=st.integers(-1, 80))
@example(72, 1)
@example(72, 2)
@QUICK
def test_prompt_lengths_leave_room_for_a_name_or_the_room_is_shown(state, query):
    fit = min(state, query) >= 1 and state + query <= CONTEXT - 4
    message = build(state_length=state, query_length=query)
    assert fit == (not message)
    assert fit or "at most 73" in message


@given(name=NAMES)
@example("screw " * 300)
@example("x" * 20_000)
@example(" _ ")
@example("\x00")
@QUICK
def test_class_name_fits_into_the_context_or_the_error_says_why(name):
    message = build(class_name=name)
    assert message == build(class_names={"01": name})
    if message:
        assert "Class name" in message
        assert len(message) < 400
        return
    normal, abnormal = suffix_ids(clean_class_name(name), CONTEXT)
    assert 1 < len(normal) < len(abnormal) <= CONTEXT - 1 - 4 - 4


@given(words=st.integers(2, 66))
@QUICK
def test_longer_prompts_leave_less_room_for_the_name(words):
    longest = 77 - 1 - 4 - 2 - words  # [SOS], query prompt, "damaged", [EOS]
    name = " ".join(["screw"] * words)
    assert not build(class_name=name, state_length=longest)
    assert "room for" in build(class_name=name, state_length=longest + 1)


@given(value=NUMBERS)
@example(15.75)
@example(16)
@example(math.inf)
@example(math.nan)
@QUICK
def test_numbers_are_within_their_bounds(value):
    number = is_number(value)
    assert (not build(query_only_prob=value)) == (number and 0 <= value <= 1)
    assert (not build(learning_rate=value)) == (number and value >= 0)
    # A wider blur than the map would be an error at the first image.
    assert (not build(smoothing_sigma=value)) == (number and 0 <= value <= 63 / 4)
    assert (not build(epochs=value)) == (number and value >= 1 and value == int(value))


@pytest.mark.parametrize("keys", [{1: "cable"}, {None: "cable"}, {"a": "b", True: "cable"}])
def test_categories_of_class_names_are_texts(keys):
    assert "Put it in quotes" in build(class_names=keys)


@pytest.mark.parametrize("value", [True, ["p.safetensors"], 5, b"x", "", "a\0b"])
def test_weights_are_a_path(value):
    assert "is not a path" in build(weights=value)


@pytest.mark.parametrize("value", ["", " ", False, [], "a\0b", object()])
def test_feature_cache_is_a_path(value):
    assert build(feature_cache=value).endswith("is not a path.")


@pytest.mark.parametrize("side", [32 * 10**5, 32 * 10**30])
def test_image_size_has_a_bound(side):
    assert "up to 16384" in build(image_size=side)


@given(value=NUMBERS)
@example(0.25)
@QUICK
def test_val_split_ratio_is_a_share_or_refused_by_name(value):
    share = is_number(value) and 0 < value < 1
    with pytest.raises(ValueError, match="^source must name" if share else "^val_split_ratio="):  # the next check
        CrossDataset(source=[], target=[], val_split_ratio=value)


# With weights: what was checked is what the model takes.


@pytest.fixture(scope="module")
def model() -> GenCLIPModel:
    return torch_model("ViT-S-32-alt", None, 64, layers=[12])


@pytest.mark.parametrize("name", SCRIPTS + SIGNS)
def test_names_of_any_script_are_names(model, name):
    assert not build(class_name=name)
    index = model.class_index([name])
    assert model.class_names.names[int(index)] == clean_class_name(name)
    assert model.class_names.features[index].isfinite().all()


@given(name=NAMES)
@settings(QUICK, max_examples=10)
def test_accepted_names_are_encoded(model, name):
    if not build(class_name=name):
        index = model.class_index([name])
        assert model.class_names.eos[index].max() < CONTEXT
        assert model.class_names.features[index].isfinite().all()


@given(
    layers=st.lists(st.integers(1, DEPTH), min_size=1, max_size=4, unique=True),
    lengths=st.tuples(st.integers(1, 36), st.integers(1, 36)),
    sides=st.tuples(st.integers(1, 4), st.integers(1, 4)),
)
@settings(QUICK, max_examples=4)
def test_accepted_settings_make_a_model(layers, lengths, sides):
    size = tuple(PATCH * side for side in sides)
    built = torch_model("ViT-S-32-alt", None, size, layers, state_length=lengths[0], query_length=lengths[1])
    assert built.layers == sorted(layers)
    assert built.image_size == size
    assert [len(built.prompts.normal), len(built.prompts.query)] == list(lengths)


@pytest.mark.parametrize("setting", ["image_size", "state_length", "query_length"])
def test_zero_is_a_value_and_not_the_default_of_a_prompts_file(setting):
    with pytest.raises(ValueError, match=setting):
        GenCLIP(weights="tiny-demo", **{setting: 0})


def test_no_layers_are_not_the_layers_of_a_prompts_file():
    with pytest.raises(ValueError, match="layers"):
        GenCLIP(weights="tiny-demo", layers=[])


def test_context_length_is_clips():
    assert backbone_spec("ViT-S-32-alt").context_length == CONTEXT


def test_prompts_of_another_backbone_are_refused_by_both_names(tmp_path):
    path = GenCLIP(backbone="ViT-S-32-alt", pretrained=None, image_size=64).save_weights(tmp_path / "p.safetensors")
    message = build(backbone="tiny", image_size=None, weights=path)
    assert message.startswith(f"{path} was trained with backbone 'ViT-S-32-alt'")
    assert "backbone='tiny'" in message
    assert "layers" not in message
    assert "tiny-demo was trained with backbone 'tiny'" in build(weights="tiny-demo")
