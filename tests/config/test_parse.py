from pathlib import Path

import pytest

from pneumo_hf.config.parse import parse_args
from pneumo_hf.errors import InputError
from pneumo_hf.training.recipe import write_recipe

ROOT = Path(__file__).parents[2]


def write(path: Path, text: str) -> list[str]:
    path.write_text(text)
    return ["--config", str(path)]


def test_recipe_fills_and_command_line_wins(tmp_path: Path) -> None:
    recipe = write(tmp_path / "r.yaml", "learning_rate: 5e-5\nimage_size: 192\nclass_weights: false\ndropout: null\n")
    model, _, training = parse_args([*recipe, "--image_size", "160", "--output_dir", str(tmp_path)])
    assert (model.image_size, training.learning_rate, training.class_weights) == (160, 5e-5, False)
    assert model.dropout == 0.2  # null leaves the default


def test_the_least_log_loss_is_the_best(tmp_path: Path) -> None:
    plateau = ["--lr_scheduler_type", "reduce_lr_on_plateau", "--output_dir", str(tmp_path)]
    for metric, larger, mode in (("roc_auc", True, "max"), ("log_loss", False, "min")):
        arguments = parse_args([*plateau, "--metric_for_best_model", metric])
        assert arguments[2].greater_is_better is larger and arguments[2].lr_scheduler_kwargs["mode"] == mode
        write_recipe(arguments, tmp_path / "recipe.yaml")  # of a finished run, taken up with the other metric
        other = {"roc_auc": "log_loss", "log_loss": "roc_auc"}[metric]
        again = parse_args(["--config", str(tmp_path / "recipe.yaml"), "--metric_for_best_model", other])[2]
        assert again.greater_is_better is not larger and again.lr_scheduler_kwargs["mode"] != mode
    with pytest.raises(InputError, match="greater_is_better follows from metric_for_best_model roc_auc"):
        parse_args(["--greater_is_better", "false"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat: 1\n", "did you mean learning_rate"),
        ("dropout: much\n", "dropout"),
        ("dropout: 3\n", "dropout is 3.0, but goes from 0 to 0.95"),
        ("- a list\n", "not a YAML recipe"),
        ("a: [1\n", "not a YAML recipe"),
        ("validation_split: somehow\n", "validation_split"),
    ],
)
def test_bad_recipes_are_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        parse_args(write(tmp_path / "r.yaml", text))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trainable_layers", "0"], "trainable_layers is 0: all, head, or a number above 0"),
        (["--trainable_layers", "top"], "trainable_layers is top: all, head, or a number above 0"),
        (["--ema_decay", "0.99", "--eval_strategy", "steps", "--save_strategy", "steps"], "ema_decay needs"),
        (["--load_best_model_at_end", "false"], "early stopping looks for the best epoch"),
        (["--early_stopping_patience", "-1"], "goes from 0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_args(arguments)


def test_a_missing_recipe_is_named() -> None:
    with pytest.raises(InputError, match=r"no such recipe: nowhere\.yaml"):
        parse_args(["--config", "nowhere.yaml"])


def test_resume_needs_no_value() -> None:
    assert parse_args(["--resume_from_checkpoint", "--seed", "3"])[2].resume_from_checkpoint == "true"


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_recipes_parse_and_open_with_their_purpose(path: Path) -> None:
    parse_args(["--config", str(path)])
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any("train_hf.py --config" in line for line in head)
    assert any("Source:" in line for line in head)
    assert any("Measured:" in line for line in head)


@pytest.mark.parametrize(
    "options",
    [
        *(["--operating_point", name] for name in ("sensitivity@1.", "sensitivity@0.0", "specificity@2", "best")),
        ["--teachers", "x", "--num_train_epochs", "0"],
        ["--teachers", "x", "--label_smoothing_factor", "0.1"],
        ["--wise_ft_alpha", "0.5", "--num_train_epochs", "0"],
        ["--activation_checkpointing", "true"],
        *([f"--{key}", "-1"] for key in ("learning_rate", "probe_learning_rate", "num_train_epochs")),
        ["--per_device_train_batch_size", "0"],
        ["--fold", "5"],
        ["--augmentation_kwargs", '{"crop": 0.5}'],
        ["--config_overrides", "strides"],
        ["--config_overrides", "[1, 1, 2, 2, 1, 2, 1]"],
        ["--augmentation_kwargs", '{"crop_scale": 2}'],
        ["--lr_scheduler_type", "step", "--lr_scheduler_kwargs", '{"step": 2}'],
        ["--lr_scheduler_type", "step", "--lr_scheduler_kwargs", '{"step_size": 0}'],
    ],
)
def test_what_would_fail_late_or_do_nothing_is_refused(options: list[str]) -> None:
    with pytest.raises(InputError):
        parse_args(options)


@pytest.mark.parametrize("trainable", ["all", "head", "40"])
def test_trainable_layers_are_all_the_head_or_a_number(trainable: str, tmp_path: Path) -> None:
    assert parse_args(["--trainable_layers", trainable])[2].trainable_layers == trainable
    recipe = write(tmp_path / "r.yaml", f"trainable_layers: {trainable}\n")
    assert parse_args(recipe)[2].trainable_layers == trainable


def test_the_step_schedule_keeps_its_options_through_a_recipe(tmp_path: Path) -> None:
    steps = ["--lr_scheduler_type", "step", "--lr_scheduler_kwargs", '{"step_size": 7, "gamma": 0.5}']
    arguments = parse_args([*steps, "--output_dir", str(tmp_path)])
    write_recipe(arguments, tmp_path / "recipe.yaml")
    again = parse_args(["--config", str(tmp_path / "recipe.yaml")])[2]
    assert again.lr_scheduler_type == "step"
    assert again.lr_scheduler_kwargs == {"step_size": 7, "gamma": 0.5}


def test_overrides_of_a_checkpoints_config_are_kept_through_a_recipe(tmp_path: Path) -> None:
    arguments = parse_args(["--config_overrides", '{"strides": [1, 1]}', "--output_dir", str(tmp_path)])
    write_recipe(arguments, tmp_path / "recipe.yaml")
    again = parse_args(["--config", str(tmp_path / "recipe.yaml")])[0]
    assert again.config_overrides == arguments.model.config_overrides == {"strides": [1, 1]}


def test_an_operating_point_by_name() -> None:
    assert parse_args(["--operating_point", "specificity@0.9"])[2].operating_point == "specificity@0.9"
