"""The two stages: the classifier alone on features computed once, then the network end to end."""

import csv
import json
import logging
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import EarlyStoppingCallback, PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.trainer_pt_utils import get_parameter_names

from pneumo_hf.config import LABELS, InputError, XrayTrainingArguments
from pneumo_hf.data.pixels import FilmDataset
from pneumo_hf.imaging.processor import Normalize
from pneumo_hf.training.augmentation import XrayAugment
from pneumo_hf.training.ema import WeightAverage
from pneumo_hf.training.losses import class_weights
from pneumo_hf.training.models import classifier_head, freeze_below, freeze_statistics, resize_head, weight_layers
from pneumo_hf.training.trainer import XrayTrainer

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"  # below the run folder, until the run is finished


def start_run(arguments: XrayTrainingArguments) -> None:
    """Make the run folder and let the main process tell how the run goes."""
    logging.basicConfig(level=logging.INFO if arguments.process_index == 0 else logging.ERROR, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        Path(arguments.output_dir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {arguments.output_dir}: {error.strerror}") from error


def end_processes() -> None:
    """Part in an orderly way: without it, one exit in ten of a run of several processes aborts."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def train(
    model: PreTrainedModel,
    image_processor: BaseImageProcessor,
    films: dict[str, FilmDataset],
    arguments: XrayTrainingArguments,
) -> list[dict]:
    """Probe, then fine-tune, in place: afterwards the model holds the weights of the best validation epoch.

    A linear probe first keeps the features from being torn by a random head (LP-FT, Kumar et al. 2022).

    Returns:
        The log: a dictionary for each logged step and each evaluation, with `stage`.
    """
    resumed = find_checkpoint(arguments)
    if arguments.sampling == "undersample":
        films = {**films, "train": undersample(films["train"], arguments.seed)}
    (Path(arguments.output_dir) / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    if arguments.channels_last:
        model.to(memory_format=torch.channels_last)
    history = []
    if arguments.probe_epochs and not resumed:
        history += [{"stage": 1, **row} for row in train_probe(model, image_processor, films, arguments)]
        _write_history(history, arguments)
    elif resumed:
        history += _read_history(arguments)
    probed = _probed_weights(model, arguments, resumed)
    if arguments.num_train_epochs > 0:
        history += [{"stage": 2, **row} for row in fine_tune(model, image_processor, films, arguments, resumed)]
    if probed:
        interpolate_weights(model, probed, arguments.fine_tuned_share)
    return history


def train_probe(
    model: PreTrainedModel,
    image_processor: BaseImageProcessor,
    films: dict[str, FilmDataset],
    arguments: XrayTrainingArguments,
) -> list[dict]:
    """Stage one: the backbone is frozen and the films are not augmented, so its features are computed once."""
    logger.info("stage 1: the classifier on frozen features, %d epochs", arguments.probe_epochs)
    model.to(arguments.device)
    normalize = Normalize(image_processor).to(arguments.device)
    features = {
        split: FeatureDataset(films[split], extract_features(model, films[split], normalize, arguments))
        for split in ("train", "validation")
    }
    trainer = XrayTrainer(
        model=ProbeModel(model),
        args=replace(
            arguments,
            output_dir=str(Path(arguments.output_dir) / CHECKPOINTS),
            num_train_epochs=arguments.probe_epochs,
            learning_rate=arguments.probe_learning_rate,
            save_strategy="no",
            load_best_model_at_end=False,
            gradient_accumulation_steps=1,
            bf16=False,
            mixup=0.0,
            max_steps=-1,
            resume_from_checkpoint=None,
        ),
        train_dataset=features["train"],
        eval_dataset=features["validation"],
        prepare=nn.Identity(),
        augment=None,
        class_weights=_weights(films, arguments),
    )
    trainer.train()
    return trainer.state.log_history


def fine_tune(
    model: PreTrainedModel,
    image_processor: BaseImageProcessor,
    films: dict[str, FilmDataset],
    arguments: XrayTrainingArguments,
    resumed: Path | None,
) -> list[dict]:
    """Stage two: all or the top layers, with layer-wise decaying rates and strong augmentation."""
    logger.info("stage 2: fine-tuning, at most %g epochs%s", arguments.num_train_epochs, " (resumed)" * bool(resumed))
    if arguments.subtype_weight:
        resize_head(model, len(LABELS) + 1)
    freeze_below(model, arguments.unfreeze_layers)
    if arguments.freeze_batch_norm:
        freeze_statistics(model)
    size = (image_processor.size["height"], image_processor.size["width"])
    callbacks = [EarlyStoppingCallback(arguments.early_stopping_patience)] if arguments.early_stopping_patience else []
    if arguments.ema_decay:
        callbacks.append(WeightAverage(arguments.ema_decay, resumed))
    trainer = XrayTrainer(
        model=model,
        args=replace(arguments, output_dir=str(Path(arguments.output_dir) / CHECKPOINTS), resume_from_checkpoint=None),
        train_dataset=films["train"],
        eval_dataset=films["validation"],
        optimizers=make_optimizer_and_schedule(model, films["train"], arguments),
        callbacks=callbacks,
        prepare=Normalize(image_processor),
        augment=XrayAugment(arguments, size),
        class_weights=_weights(films, arguments),
    )
    trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
    resize_head(model, len(LABELS))
    return trainer.state.log_history


def interpolate_weights(model: PreTrainedModel, probed: dict[str, torch.Tensor], share: float) -> None:
    """Set the weights to `share` of the way from the probed ones to the model's own.

    Half-way weights keep more of what the backbone knew of other pictures (WiSE-FT, Wortsman et al. 2022).
    """
    state = model.state_dict()
    for name, values in state.items():
        if values.is_floating_point():
            values.copy_(torch.lerp(probed[name].to(values), values, share))


def undersample(films: FilmDataset, seed: int) -> FilmDataset:
    """As many films of each label as of the rarest, drawn at random."""
    random, rarest = np.random.default_rng(seed), np.bincount(films.labels).min()
    of_label = [np.flatnonzero(films.labels == label) for label in np.unique(films.labels)]
    return films.select(np.sort(np.concatenate([random.permutation(rows)[:rarest] for rows in of_label])))


def make_optimizer_and_schedule(
    model: PreTrainedModel, films: FilmDataset, arguments: XrayTrainingArguments
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler | None]:
    """The optimizer and, for `step_epochs`, its schedule by steps; None leaves the schedule to Trainer."""
    optimizer = make_optimizer(model, arguments)
    if not arguments.step_epochs:
        return optimizer, None
    films_a_step = arguments.train_batch_size * arguments.world_size * arguments.gradient_accumulation_steps
    steps = arguments.step_epochs * math.ceil(len(films) / films_a_step)
    return optimizer, torch.optim.lr_scheduler.StepLR(optimizer, steps, gamma=0.1)


def make_optimizer(model: PreTrainedModel, arguments: XrayTrainingArguments) -> torch.optim.Optimizer:
    """AdamW with a rate that falls from the classifier to the input by `layer_decay` a layer with weights."""
    decayed = set(get_parameter_names(model, [nn.BatchNorm2d], [r"bias"]))
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = []
    for depth, layer in enumerate(reversed(weight_layers(model))):
        trained = [p for module in layer for p in module.parameters(recurse=False) if p.requires_grad]
        rate = arguments.learning_rate * arguments.layer_decay**depth
        for chosen, weight_decay in ((True, arguments.weight_decay), (False, 0.0)):
            parameters = [p for p in trained if (names[p] in decayed) == chosen]
            if parameters:
                groups.append({"params": parameters, "lr": rate, "weight_decay": weight_decay})
    return torch.optim.AdamW(groups, betas=(arguments.adam_beta1, arguments.adam_beta2), eps=arguments.adam_epsilon)


class ProbeModel(nn.Module):
    """The model's head, the very modules, on features `[B, F]`."""

    accepts_loss_kwargs = False

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.head = classifier_head(model)

    def forward(self, pixel_values: torch.Tensor) -> ImageClassifierOutput:
        return ImageClassifierOutput(logits=self.head(pixel_values))


class FeatureDataset(torch.utils.data.Dataset):
    """Features `[N, F]` in the place of pixels."""

    def __init__(self, films: FilmDataset, features: torch.Tensor):
        self.features, self.labels = features, torch.from_numpy(films.labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.features[index], "labels": self.labels[index]}

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.features[indices], "labels": self.labels[indices]}


@torch.inference_mode()
def extract_features(
    model: PreTrainedModel, films: FilmDataset, normalize: Normalize, arguments: XrayTrainingArguments
) -> torch.Tensor:
    """What the backbone makes of every film, in evaluation mode: `[N, F]` float32 on the CPU."""
    model.eval()
    batch_size, features = arguments.per_device_eval_batch_size, []
    for start in tqdm(range(0, len(films), batch_size), desc="Extracting features", unit="batch"):
        batch = films.__getitems__(range(start, min(start + batch_size, len(films))))
        pooled = model.base_model(normalize(batch["pixel_values"].to(arguments.device))).pooler_output
        features.append(pooled.flatten(1).float().cpu())
    return torch.cat(features).clone()


def find_checkpoint(arguments: XrayTrainingArguments) -> Path | None:
    """The last whole checkpoint of a killed run, if it shall be resumed; otherwise what an earlier run left goes.

    Raises:
        InputError: there is nothing to resume in the run folder, or no such checkpoint.
    """
    folder = Path(arguments.output_dir) / CHECKPOINTS
    wanted = arguments.resume_from_checkpoint
    if wanted in (None, "false", "False"):
        if arguments.process_index == 0:
            shutil.rmtree(folder, ignore_errors=True)
        return None
    if wanted not in ("true", "True"):
        if not (Path(wanted) / "trainer_state.json").is_file():
            raise InputError(f"no checkpoint to resume from in {wanted}")
        return Path(wanted)
    if not folder.is_dir():
        raise InputError(f"nothing to resume: no unfinished run in {arguments.output_dir}")
    whole = sorted(folder.glob("checkpoint-*/trainer_state.json"), key=lambda p: int(p.parent.name.split("-")[1]))
    while whole:
        try:
            json.loads(whole[-1].read_text())  # written last: whole only if it parses
            return whole[-1].parent
        except json.JSONDecodeError:
            whole.pop()
    logger.warning("no whole checkpoint in %s yet: starting from the beginning", arguments.output_dir)
    return None


def remove_checkpoints(arguments: XrayTrainingArguments) -> None:
    """The optimizer states of a finished run are of no use any more."""
    shutil.rmtree(Path(arguments.output_dir) / CHECKPOINTS, ignore_errors=True)


def write_history(history: list[dict], path: Path) -> None:
    """The log as CSV: a line a logged step or evaluation, the columns in the order of their first appearance."""
    columns = list(dict.fromkeys(key for row in history for key in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(history)


def _weights(films: dict[str, FilmDataset], arguments: XrayTrainingArguments) -> torch.Tensor | None:
    wanted = arguments.class_weights and arguments.sampling != "balanced"  # which weights the labels already
    return class_weights(films["train"].labels) if wanted else None


def _probed_weights(
    model: PreTrainedModel, arguments: XrayTrainingArguments, resumed: Path | None
) -> dict[str, torch.Tensor] | None:
    """A copy of the weights between the stages, kept on disk for a killed run; None where it will not be needed."""
    if arguments.fine_tuned_share == 1:
        return None
    path = Path(arguments.output_dir) / CHECKPOINTS / "probed.pt"
    if not resumed:
        with arguments.main_process_first():
            if arguments.process_index == 0:
                torch.save(model.state_dict(), path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _write_history(history: list[dict], arguments: XrayTrainingArguments) -> None:
    if arguments.process_index == 0:
        (Path(arguments.output_dir) / CHECKPOINTS / "stage1.json").write_text(json.dumps(history))


def _read_history(arguments: XrayTrainingArguments) -> list[dict]:
    path = Path(arguments.output_dir) / CHECKPOINTS / "stage1.json"
    return json.loads(path.read_text()) if path.exists() else []
