"""The loss, the statistics, the optimizer, the schedules and the two stages, on a tiny network."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import TrainerCallback

from pneumo_hf.config.parse import parse_args
from pneumo_hf.config.training_arguments import XrayTrainingArguments
from pneumo_hf.data.pixels import FilmDataset
from pneumo_hf.errors import InputError
from pneumo_hf.imaging.processor import Normalize
from pneumo_hf.runtime import Processes
from pneumo_hf.training import probe
from pneumo_hf.training.ema import WeightAverage
from pneumo_hf.training.finetune import fine_tune, fine_tuner
from pneumo_hf.training.head import final_linear
from pneumo_hf.training.layers import weight_layers
from pneumo_hf.training.losses import class_weights, soft_targets, weighted_loss
from pneumo_hf.training.optimizer import make_optimizer
from pneumo_hf.training.probe import extract_features, train_probe
from pneumo_hf.training.run_folder import find_checkpoint
from pneumo_hf.training.stage import undersample
from pneumo_hf.training.trainer import BalancedSampler, XrayTrainer
from tests.conftest import make_trainer
from tests.training.common import decoded, fresh


@pytest.fixture(scope="module")
def films(tiny_recipe: list[str]) -> dict[str, FilmDataset]:
    return decoded(tiny_recipe)


def test_weights_average_one_and_balance_the_labels() -> None:
    labels = np.array([0] * 10 + [1] * 30)
    weights = class_weights(labels)
    assert weights[labels].mean() == pytest.approx(1)
    assert 10 * weights[0] == pytest.approx(float(30 * weights[1]))


def test_the_weighted_loss_of_a_batch_is_the_mean_of_its_parts() -> None:
    logits, labels, weights = torch.randn(32, 2), torch.randint(0, 2, (32,)), torch.tensor([2.0, 0.6])
    targets = soft_targets(labels, 2)
    parts = [weighted_loss(logits[i : i + 8], targets[i : i + 8], weights) for i in range(0, 32, 8)]
    torch.testing.assert_close(torch.stack(parts).mean(), weighted_loss(logits, targets, weights))
    plain = torch.nn.functional.cross_entropy(logits, labels, weight=weights, reduction="sum") / 32
    torch.testing.assert_close(weighted_loss(logits, targets, weights), plain)
    smooth = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
    torch.testing.assert_close(weighted_loss(logits, soft_targets(labels, 2, 0.1)), smooth)


def test_the_focal_loss_gives_less_weight_to_what_is_right() -> None:
    logits, targets = torch.tensor([[0.0, 3.0], [0.0, -1.0]]), soft_targets(torch.tensor([1, 1]), 2)
    truth = torch.softmax(logits, dim=1)[:, 1]
    expected = -((1 - truth) ** 2 * truth.log()).mean()  # Lin et al. 2017, equation 4
    torch.testing.assert_close(weighted_loss(logits, targets, focal_gamma=2.0), expected)
    right, wrong = (
        weighted_loss(logits[i : i + 1], targets[:1], focal_gamma=2.0) / weighted_loss(logits[i : i + 1], targets[:1])
        for i in (0, 1)
    )
    assert right < 0.01 < 0.5 < wrong


def test_no_film_is_so_sure_that_its_gradient_is_not_a_number() -> None:
    for gamma in (0.0, 0.5, 2.0):
        logits = torch.tensor([[0.0, 200.0]], requires_grad=True)
        weighted_loss(logits, soft_targets(torch.tensor([1]), 2), focal_gamma=gamma).backward()
        assert torch.isfinite(logits.grad).all()


def train_steps(
    films: FilmDataset, tiny_recipe: list[str], folder: Path, batch: int, accumulation: int
) -> list[float]:
    """Losses of a few steps without augmentation, dropout or BatchNorm's view of the batch, in a fixed order."""
    model, processor = fresh([*tiny_recipe, "--dropout", "0"])
    nn.init.normal_(final_linear(model).weight, std=0.05, generator=torch.Generator().manual_seed(0))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train = lambda mode=True: None
            module.training = False
    arguments = XrayTrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        max_steps=2,
        logging_steps=1,
        eval_strategy="no",
        save_strategy="no",
        load_best_model_at_end=False,
        use_cpu=True,
        learning_rate=1e-3,
        warmup_steps=0,
        seed=1,
    )
    trainer = XrayTrainer(
        model=model,
        args=arguments,
        train_dataset=films,
        prepare=Normalize(processor),
        augment=None,
        class_weights=class_weights(films.labels),
        make_optimizer=make_optimizer,
    )
    trainer.train()
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def test_four_accumulated_batches_of_8_have_the_loss_of_32(films, tiny_recipe, tmp_path: Path) -> None:
    whole = train_steps(films["train"], tiny_recipe, tmp_path, 32, 1)
    parts = train_steps(films["train"], tiny_recipe, tmp_path, 8, 4)
    assert len(whole) == len(parts) == 2
    np.testing.assert_allclose(parts, whole, rtol=0.05)


def test_running_statistics_are_not_those_of_the_last_batch(films, tiny_recipe, tmp_path: Path) -> None:
    model, processor = fresh(tiny_recipe)
    norm = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    means = []
    norm.register_forward_pre_hook(lambda module, inputs: means.append(inputs[0].mean(dim=(0, 2, 3)).detach()))
    arguments = XrayTrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        num_train_epochs=1,
        eval_strategy="no",
        save_strategy="no",
        load_best_model_at_end=False,
        use_cpu=True,
        learning_rate=0.0,
    )
    make_trainer(model, processor, arguments, films).train()
    means = torch.stack(means)  # [steps, channels]
    spread = means.std(dim=0)
    off_last = ((norm.running_mean - means[-1]).abs() / spread).mean()
    off_average = ((norm.running_mean - means.mean(dim=0)).abs() / spread).mean()
    assert len(means) > 15
    assert off_average < off_last
    assert not torch.allclose(norm.running_mean, means[-1], atol=1e-4)


def test_features_are_the_backbones_and_the_probe_trains_the_head_alone(films, tiny_recipe, tmp_path: Path) -> None:
    model, processor = fresh(tiny_recipe)
    arguments = parse_args([*tiny_recipe, "--output_dir", str(tmp_path), "--probe_learning_rate", "0.05"])[2]
    features = extract_features(model, films["train"], Normalize(processor), arguments)
    batch = films["train"].__getitems__([5, 9])["pixel_values"]
    with torch.inference_mode():
        expected = model.eval()(Normalize(processor)(batch)).logits
        torch.testing.assert_close(final_linear(model)(features[[5, 9]]), expected, atol=1e-5, rtol=1e-5)
    before = {name: values.clone() for name, values in model.state_dict().items()}
    history = train_probe(model, processor, films, arguments)
    moved = {name for name, values in model.state_dict().items() if not torch.equal(values, before[name])}
    assert moved == {"classifier.1.weight", "classifier.1.bias"}
    assert "eval_roc_auc" in history[-2]


def test_the_step_schedule_is_of_stage_two_alone(films, tiny_recipe, tmp_path: Path) -> None:
    model, processor = fresh(tiny_recipe)
    step = ["--lr_scheduler_type", "step", "--lr_scheduler_kwargs", '{"step_size": 1, "gamma": 0.001}']
    arguments = parse_args([*tiny_recipe, *step, "--probe_epochs", "3", "--output_dir", str(tmp_path)])[2]
    rates = [row["learning_rate"] for row in train_probe(model, processor, films, arguments) if "loss" in row]
    assert max(rates) > 0.5 * arguments.probe_learning_rate  # and not a thousandth of it after an epoch
    assert rates[-1] < 0.5 * max(rates) and len(set(rates)) == len(rates)  # cosine, as without it


def test_rates_fall_from_the_classifier_to_the_input(tiny_recipe: list[str], tmp_path: Path) -> None:
    model, _ = fresh(tiny_recipe)
    arguments = parse_args([*tiny_recipe, "--output_dir", str(tmp_path), "--layer_lr_decay", "0.9"])[2]
    rates = {id(p): g["lr"] for g in make_optimizer(model, arguments).param_groups for p in g["params"]}
    by_layer = [{rates[id(p)] for module in layer for p in module.parameters()} for layer in weight_layers(model)]
    expected = [5e-3 * 0.9**depth for depth in range(len(by_layer))][::-1]
    assert [pytest.approx(rate) for (rate,) in by_layer] == expected
    assert len(rates) == len(list(model.parameters()))  # none forgotten


def test_the_fused_optimizer_steps_as_the_plain_one(tiny_recipe: list[str], tmp_path: Path) -> None:
    arguments = parse_args([*tiny_recipe, "--output_dir", str(tmp_path), "--layer_lr_decay", "0.9"])
    plain, _ = fresh(tiny_recipe)
    fused = copy.deepcopy(plain)
    fast = make_optimizer(fused, arguments[2])
    slow = make_optimizer(plain, arguments[2])
    for group in slow.param_groups:
        group["fused"] = False
    for model, optimizer in ((fused, fast), (plain, slow)):
        torch.manual_seed(0)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        for _ in range(3):
            optimizer.step()
    assert fast.defaults["fused"]
    for one, other in zip(fused.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_undersampling_keeps_as_many_of_each_label_and_balanced_draws_them_alike(films, tiny_recipe, tmp_path) -> None:
    train = films["train"]
    fewer = undersample(train, seed=0)
    assert np.bincount(fewer.labels).tolist() == [np.bincount(train.labels).min()] * 2
    assert np.array_equal(fewer.rows, undersample(train, seed=0).rows)
    assert not np.array_equal(fewer.rows, undersample(train, seed=1).rows)
    model, processor = fresh(tiny_recipe)
    arguments = XrayTrainingArguments(output_dir=str(tmp_path), sampler="balanced", use_cpu=True, seed=3)
    sampler = XrayTrainer(
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=train,
        prepare=Normalize(processor),
        augment=None,
        class_weights=None,
    )._get_train_sampler()
    draws = []
    for epoch in range(20):
        sampler.set_epoch(epoch)
        draws.append(list(sampler))
    assert abs(train.labels[np.concatenate(draws)].mean() - 0.5) < 0.05 < train.labels.mean() - 0.5
    assert draws[0] != draws[1]


def test_a_balanced_epoch_draws_its_own_films_resumed_or_not(films, tiny_recipe, tmp_path: Path, monkeypatch) -> None:
    epochs = []
    monkeypatch.setattr(BalancedSampler, "set_epoch", lambda sampler, epoch: epochs.append(epoch))
    tuned(films, tiny_recipe, tmp_path, "--sampler", "balanced", "--num_train_epochs", "3")
    assert sorted(set(epochs)) == [0, 1, 2]


def test_the_rate_falls_to_a_tenth_every_so_many_epochs(films, tiny_recipe, tmp_path: Path) -> None:
    steps = ["--lr_scheduler_type", "step", "--lr_scheduler_kwargs", '{"step_size": 2}', "--num_train_epochs", "4"]
    history = tuned(films, tiny_recipe, tmp_path, *steps)[1]
    rates = {round(row["epoch"]): row["learning_rate"] for row in history if "learning_rate" in row}
    assert rates[1] == pytest.approx(5e-3)
    assert rates[4] == pytest.approx(5e-4)


def test_the_plateau_schedule_falls_when_the_auc_does_not_rise(films, tiny_recipe, tmp_path: Path) -> None:
    options = ["--lr_scheduler_type", "reduce_lr_on_plateau", "--freeze_batch_norm", "true"]
    kwargs = ["--lr_scheduler_kwargs", '{"factor": 0.1, "patience": 0, "eps": 0}']
    still = [*tiny_recipe, *options, *kwargs, "--learning_rate", "1e-12", "--output_dir", str(tmp_path)]
    model, processor = fresh(tiny_recipe)
    trainer = fine_tuner(model, processor, films, parse_args(still)[2], resumed=None)
    trainer.train()
    rates = [row["learning_rate"] for row in trainer.state.log_history if "learning_rate" in row]
    assert rates[-1] < 0.2 * rates[0]
    aucs = [row["eval_roc_auc"] for row in trainer.state.log_history if "eval_roc_auc" in row]
    assert trainer.lr_scheduler.mode == "max" and trainer.lr_scheduler.best == max(aucs)


def test_the_cosine_schedule_is_the_default_and_ends_at_nothing(films, tiny_recipe, tmp_path: Path) -> None:
    recipe = [*tiny_recipe, "--num_train_epochs", "4", "--logging_steps", "1", "--warmup_steps", "0"]
    history = tuned(films, recipe, tmp_path)[1]
    rates = [row["learning_rate"] for row in history if "learning_rate" in row]
    expected = [rates[0] * (1 + np.cos(np.pi * step / len(rates))) / 2 for step in range(len(rates))]
    np.testing.assert_allclose(rates, expected, rtol=0.05, atol=1e-6)


def test_bf16_computes_in_bf16_and_keeps_the_weights(films, tiny_recipe, tmp_path: Path) -> None:
    model, processor = fresh(tiny_recipe)
    recipe = [*tiny_recipe, "--bf16", "true", "--use_cpu", "true", "--num_train_epochs", "1"]
    kinds = set()
    model.resnet.embedder.register_forward_hook(lambda module, inputs, output: kinds.add(output.dtype))
    arguments = parse_args([*recipe, "--output_dir", str(tmp_path)])[2]
    fine_tune(model, processor, films, arguments, resumed=None)
    assert torch.bfloat16 in kinds and final_linear(model).weight.dtype == torch.float32


def test_a_run_is_resumed_by_its_own_job_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    begun = XrayTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    assert find_checkpoint(begun, {"seed": 1, "dataset": ["a"]}) is None
    again = XrayTrainingArguments(output_dir=str(tmp_path), use_cpu=True, resume_from_checkpoint="true")
    assert (
        find_checkpoint(again, {"seed": 1, "dataset": ["a"]}) is None and "starting from the beginning" in caplog.text
    )
    assert find_checkpoint(again, {"seed": 1, "dataset": ["b"]}) is None  # nothing was trained yet: it starts again
    reached = tmp_path / "checkpoints" / "checkpoint-7"
    reached.mkdir()
    (reached / "trainer_state.json").write_text("{}")
    with pytest.raises(InputError, match="was begun with seed 1: resume it with the same"):
        find_checkpoint(again, {"seed": 42, "dataset": ["b"]})
    assert find_checkpoint(again, {"seed": 1, "dataset": ["b"]}) == reached
    (tmp_path / "checkpoints" / "job.json").write_text('{"seed": 1, "dataset": ["b"], "layer_decay": 0.9}')
    with pytest.raises(InputError, match="another version of pneumo_hf .layer_decay."):
        find_checkpoint(again, {"seed": 1, "dataset": ["b"]})


def test_each_process_computes_the_features_of_its_own_films(films, tiny_recipe, monkeypatch) -> None:
    model, processor = fresh(tiny_recipe)
    arguments = XrayTrainingArguments(output_dir="unused", use_cpu=True, per_device_eval_batch_size=5)
    normalize, gathered = Normalize(processor), []
    everything = extract_features(model, films["train"], normalize, arguments)
    monkeypatch.setattr(Processes, "gather", lambda group, features: gathered.extend(features) or [features])
    for index in (0, 1):
        monkeypatch.setattr(probe, "processes", lambda device, index=index: Processes(index, 2))
        extract_features(model, films["train"], normalize, arguments)
    assert max(map(len, gathered)) == 5
    assert torch.equal(torch.cat(gathered), everything)


def test_early_stopping_waits_on_where_a_killed_run_was(films, tiny_recipe, tmp_path: Path) -> None:
    still = ["--learning_rate", "0", "--freeze_batch_norm", "true", "--early_stopping_patience", "2"]
    kept = ["--num_train_epochs", "6", "--save_total_limit", "9", "--output_dir", str(tmp_path)]
    arguments = parse_args([*tiny_recipe, *still, *kept])[2]
    (tmp_path / "checkpoints").mkdir()
    logs = []
    for resumed in (None, 2, 3):  # epochs; by then one is waited for, or both
        model, processor = fresh(tiny_recipe)
        steps = {int(path.name.split("-")[1]): path for path in (tmp_path / "checkpoints").glob("checkpoint-*")}
        checkpoint = steps[sorted(steps)[resumed - 1]] if resumed else None
        logs.append(fine_tune(model, processor, films, arguments, checkpoint))
    stopped = [max(row["epoch"] for row in log) for log in logs]
    assert stopped == [3, 3, 3]
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    del state["stateful_callbacks"]["EarlyStoppingCallback"]
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    with pytest.raises(InputError, match="without early stopping"):
        fine_tune(model, processor, films, arguments, checkpoint)


def test_the_average_of_the_weights_is_what_is_validated_and_saved(films, tiny_recipe, tmp_path: Path) -> None:
    """By hand: every step's weights, averaged as the callback says, are those of the epoch's checkpoint."""
    seen = []

    class Recorder(TrainerCallback):
        def on_step_end(self, *_, model, **__) -> None:
            seen.append(final_linear(model).weight.detach().clone())

    model, processor = fresh(tiny_recipe)
    arguments = parse_args([*tiny_recipe, "--num_train_epochs", "2", "--output_dir", str(tmp_path)])[2]
    arguments.save_total_limit, average = None, final_linear(model).weight.detach().clone()
    trainer = make_trainer(
        model, processor, arguments, films, callbacks=[WeightAverage(0.9), Recorder()], make_optimizer=make_optimizer
    )
    trainer.train()
    half = len(seen) // 2
    for step, weight in enumerate(seen, start=1):
        decay = 0.0 if step == 1 else min(0.9, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * weight
        if step in (half, 2 * half):
            saved = tmp_path / f"checkpoint-{step}"
            kept = load_file(saved / "model.safetensors")["classifier.1.weight"]
            torch.testing.assert_close(kept, average)
            raw = torch.load(saved / "weights_before_averaging.pt", weights_only=True)["classifier.1.weight"]
            torch.testing.assert_close(raw, weight)
            assert not torch.allclose(kept, raw)


def tuned(films, tiny_recipe: list[str], folder: Path, *options: str):
    """A fine-tuning of the tiny recipe with other options: the model and the log."""
    arguments = parse_args([*tiny_recipe, *options, "--logging_steps", "1", "--output_dir", str(folder)])[2]
    arguments.warmup_steps = 0
    model, processor = fresh(tiny_recipe)
    (folder / "checkpoints").mkdir()
    return model, fine_tune(model, processor, films, arguments, None)
