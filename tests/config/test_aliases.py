"""Recipes of version 0.1 load under their former names, with one warning."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from pneumo_hf.config.aliases import AUGMENTATION, REMOVED, RENAMED
from pneumo_hf.config.augmentation import POLICIES, make_policy
from pneumo_hf.config.parse import parse_args
from pneumo_hf.config.training_arguments import Arguments
from pneumo_hf.errors import InputError

SHIPPED = """\
model_name_or_path: student_washed
image_size: 224
clahe: false
head_size: 0
dropout: 0.2
dataset:
- chest_xray_224.zip
label_map: null
validation: block
validation_fraction: 0.15
fold: 0
split_seed: 42
per_device_train_batch_size: 16
num_train_epochs: 4.0
learning_rate: 0.0002
lr_scheduler_type: cosine
warmup_steps: 0.1
weight_decay: 0.01
label_smoothing_factor: 0.0
bf16: true
per_device_eval_batch_size: 32
metric_for_best_model: log_loss
seed: 42
probe_epochs: 0
probe_learning_rate: 0.002
unfreeze_layers: -1
unfreeze_blocks: 0
freeze_batch_norm: true
layer_decay: 0.97
class_weights: true
loss: cross_entropy
focal_gamma: 2.0
subtype_weight: 0.0
mixup: 0.0
sampling: all
ema_decay: 0.99
fine_tuned_share: 0.5
step_epochs: 0
early_stopping_patience: 0
teachers:
- flagship_half_seed3
- flagship_half_seed4
- flagship_half_seed5
operating_point: sensitivity@0.95
calibration: spoilt
half_precision_weights: true
crop_scale: 0.8
rotation: 10.0
shift: 0.05
jitter: 0.3
blur: 0.3
horizontal_flip: 0.5
style_mix: 0.0
frame_mix: 1.0
coarsen: 0.3
noise: 0.5
washed_out: 0.1
channels_last: true
"""  # the whole recipe.yaml of models/pneumo-efficientnet, as version 0.1 wrote it
VALUES = [
    ("fine_tuned_share: 0.25", "wise_ft_alpha", 0.25),
    ("layer_decay: 0.9", "layer_lr_decay", 0.9),
    ("validation: block", "validation_split", "block"),
    ("unfreeze_layers: 40", "trainable_layers", "40"),
    ("unfreeze_layers: -1", "trainable_layers", "all"),
    ("sampling: all", "sampler", "random"),
    ("sampling: balanced", "sampler", "balanced"),
    ("sampling: undersample", "sampler", "undersample"),
    ("calibration: spoilt", "calibration_data", "corrupted"),
    ("calibration: validation", "calibration_data", "validation"),
    ("half_precision_weights: true", "save_dtype", "float16"),
    ("half_precision_weights: false", "save_dtype", "float32"),
    ("step_epochs: 7", "lr_scheduler_type", "step"),
    ("step_epochs: 7", "lr_scheduler_kwargs", {"step_size": 7, "gamma": 0.1}),
    ("step_epochs: 0", "lr_scheduler_type", "cosine"),
]


def load(folder: Path, text: str, *options: str) -> Arguments:
    (folder / "recipe.yaml").write_text(text)
    return parse_args(["--config", str(folder / "recipe.yaml"), *options])


def values(arguments: Arguments) -> dict[str, object]:
    return {name: value for part in arguments for name, value in vars(part).items()}


@pytest.mark.parametrize(("line", "name", "value"), VALUES)
def test_every_renamed_key_and_value(line: str, name: str, value: object, tmp_path: Path, caplog) -> None:
    assert values(load(tmp_path, f"{line}\n"))[name] == value
    assert len(caplog.records) == 1


def test_every_renamed_key_is_tried_here() -> None:
    assert {line.split(":")[0] for line, _, _ in VALUES} == set(RENAMED)


@pytest.mark.parametrize("former", AUGMENTATION)
def test_augmentation_options_override_the_policy_that_was_the_default(former: str, tmp_path: Path) -> None:
    training = load(tmp_path, f"{former}: 0.35\n").training
    policy = make_policy(training.augmentation, training.augmentation_kwargs)
    assert policy == make_policy("strong", {AUGMENTATION[former]: 0.35}) != POLICIES["strong"]


@pytest.mark.parametrize("removed", REMOVED)
def test_removed_options_are_refused_in_one_line_unless_they_were_off(removed: str, tmp_path: Path, caplog) -> None:
    with pytest.raises(InputError, match=f"{removed} was removed") as error:
        load(tmp_path, f"{removed}: 1\n")
    assert "\n" not in str(error.value)
    arguments = values(load(tmp_path, f"{removed}: 0\nlayer_decay: 0.9\n"))
    assert removed not in arguments and arguments["layer_lr_decay"] == 0.9
    assert removed not in caplog.text


def test_a_whole_recipe_of_before_loads_with_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    arguments = load(tmp_path, SHIPPED, "--bf16", "false")
    (warning,) = caplog.records
    assert warning.levelno == logging.WARNING and "fine_tuned_share -> wise_ft_alpha" in warning.getMessage()
    found = values(arguments)
    expected = {
        "validation_split": "block",
        "trainable_layers": "all",
        "layer_lr_decay": 0.97,
        "sampler": "random",
        "wise_ft_alpha": 0.5,
        "calibration_data": "corrupted",
        "save_dtype": "float16",
        "lr_scheduler_type": "cosine",
        "teachers": ["flagship_half_seed3", "flagship_half_seed4", "flagship_half_seed5"],
    }
    assert {name: found[name] for name in expected} == expected
    policy = make_policy(arguments.training.augmentation, arguments.training.augmentation_kwargs)
    assert policy == replace(POLICIES["robust"], sharpen_prob=0, jpeg_prob=0)  # which came later


@pytest.mark.parametrize(
    "lines", ["lr_scheduler_type: cosine\nstep_epochs: 7\n", "step_epochs: 7\nlr_scheduler_type: cosine\n"]
)
def test_step_epochs_decides_wherever_it_stands(lines: str, tmp_path: Path) -> None:
    assert load(tmp_path, lines).training.lr_scheduler_type == "step"


def test_nothing_said_leaves_the_default(tmp_path: Path) -> None:
    training = load(tmp_path, "crop_scale: null\nlayer_decay: null\nstep_epochs: null\n").training
    assert training.layer_lr_decay == 0.97 and training.lr_scheduler_type == "cosine"
    assert not training.augmentation_kwargs


def test_the_warning_names_what_was_translated(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load(tmp_path, "mixup: 0\n")
    assert not any(text.rstrip().endswith(":") for text in caplog.messages)


def test_a_recipe_of_today_is_not_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load(tmp_path, "layer_lr_decay: 0.9\naugmentation: mild\n")
    assert not caplog.records


def test_the_command_line_names_todays_option() -> None:
    with pytest.raises(InputError, match="fine_tuned_share; since version 0.2 it is wise_ft_alpha"):
        parse_args(["--fine_tuned_share", "0.5"])
    with pytest.raises(InputError, match=r"it is augmentation_kwargs\.blur_prob"):
        parse_args(["--blur", "0.5"])
    with pytest.raises(InputError, match="mixup was removed"):
        parse_args(["--mixup", "0.5"])
