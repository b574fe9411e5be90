"""Augmentation policies: their names, overrides and ranges."""

from dataclasses import fields

import pytest

from pneumo_hf.config.augmentation import LARGEST, POLICIES, AugmentationPolicy, make_policy
from pneumo_hf.config.parse import parse_args
from pneumo_hf.errors import InputError

NAMES = [field.name for field in fields(AugmentationPolicy)]


def test_augmentation_is_off_unless_asked_for() -> None:
    training = parse_args([])[2]
    policy = make_policy(training.augmentation, training.augmentation_kwargs)
    assert policy == POLICIES["none"] == AugmentationPolicy()


def test_overrides_change_what_they_name_alone() -> None:
    policy = make_policy("strong", {"crop_scale": 0.3})
    assert policy.crop_scale == 0.3
    others = [name for name in NAMES if name != "crop_scale"]
    assert all(getattr(policy, name) == getattr(POLICIES["strong"], name) for name in others)
    assert POLICIES["strong"].crop_scale == 0.15


def test_overrides_of_a_recipe_and_of_the_command_line_are_the_same(tmp_path) -> None:
    (tmp_path / "r.yaml").write_text("augmentation: mild\naugmentation_kwargs:\n  rotation: 5\n  blur_prob: 0.5\n")
    in_recipe = parse_args(["--config", str(tmp_path / "r.yaml")])[2]
    given = parse_args(["--augmentation", "mild", "--augmentation_kwargs", '{"rotation": 5, "blur_prob": 0.5}'])[2]
    assert in_recipe.augmentation_kwargs == given.augmentation_kwargs == {"rotation": 5, "blur_prob": 0.5}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", NAMES)
def test_every_policy_is_within_the_ranges(policy: str, name: str) -> None:
    value = getattr(POLICIES[policy], name)
    assert make_policy("none", {name: value}) == AugmentationPolicy(**{name: value})


@pytest.mark.parametrize("name", NAMES)
def test_values_out_of_range_are_refused_by_name(name: str) -> None:
    for value in (-0.1, LARGEST.get(name, 1.0) + 0.01, "0.5", None):
        with pytest.raises(InputError, match=f"{name} is {value}, but goes from") as error:
            make_policy("mild", {name: value})
        assert "\n" not in str(error.value)
    assert getattr(make_policy("none", {name: LARGEST.get(name, 1.0)}), name) == LARGEST.get(name, 1.0)


def test_nothing_is_cropped_to_nothing() -> None:
    with pytest.raises(InputError, match=r"crop_scale is 0, but goes from 0\.01 to 1"):
        make_policy("none", {"crop_scale": 0})


def test_unknown_keys_are_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match="unknown key crop; did you mean crop_scale"):
        make_policy("mild", {"crop": 0.5})
    with pytest.raises(InputError, match="unknown key horizontal_flip; did you mean horizontal_flip_prob"):
        make_policy("mild", {"horizontal_flip": 0.5})


def test_overrides_are_a_mapping() -> None:
    with pytest.raises(InputError, match="is a mapping"):
        make_policy("mild", "crop_scale 0.3")


def test_no_other_policy_is_accepted() -> None:
    with pytest.raises(InputError, match="augmentation"):
        parse_args(["--augmentation", "brutal"])
