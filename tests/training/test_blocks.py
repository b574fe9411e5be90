"""The recipes' building blocks: each of these tests fails if its block does nothing."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from pneumo_hf.training.probe import train_probe
from pneumo_hf.training.train import train_stages
from safetensors.torch import load_file
from torch import nn
from transformers import pipeline

from pneumo_hf import Predictor, load_xray
from pneumo_hf.config.parse import parse_args
from pneumo_hf.errors import InputError
from pneumo_hf.data.pixels import FilmDataset
from pneumo_hf.data.splits import decode_splits
from pneumo_hf.data.sources import load_data
from pneumo_hf.evaluation.calibration import fit_temperature
from pneumo_hf.evaluation.robustness import score_randomly_corrupted
from pneumo_hf.imaging.processor import Normalize
from pneumo_hf.inference.scorer import probability_of
from pneumo_hf.training import stages
from pneumo_hf.training.augmentation import (
    FINEST_WASH,
    WIDEST_FRAME,
    XrayAugment,
    add_grain,
    coarsen,
    mix_frames,
    mix_styles,
    wash_out,
)
from pneumo_hf.training.checkpoint import save_calibrated
from pneumo_hf.training.distillation import Teachers
from pneumo_hf.training.losses import class_weights, subtype_loss
from pneumo_hf.training.models import (
    checkpoint_blocks,
    final_linear,
    freeze_below,
    freeze_statistics,
    load_model,
    resize_head,
)
from pneumo_hf.training.trainer import XrayTrainer
from tests.conftest import ROOT, SHARED, make_film
from train_hf import main

OFF = ("--crop_scale", "1", "--rotation", "0", "--shift", "0", "--jitter", "0", "--blur", "0")  # no augmentation


@pytest.fixture(scope="module")
def films(tiny_recipe: list[str]) -> dict[str, FilmDataset]:
    model_args, data_args, _ = parse_args(tiny_recipe)
    processor = load_model(model_args, data_args.cache_dir)[1]
    return decode_splits(load_data(data_args.dataset[0]), processor, data_args, seed=0)[0]


def trained(films, recipe: list[str], folder: Path, *options: str):
    """A model trained in both stages from one draw of weights, and its log."""
    model_args, data_args, training_args = parse_args([*recipe, *options, "--output_dir", str(folder)])
    torch.manual_seed(0)
    model, processor = load_model(model_args, data_args.cache_dir)
    return model, train(model, processor, films, training_args)


def pixels(count: int = 8, size: int = 48) -> torch.Tensor:
    films = [make_film(seed, seed % 2 == 0, (size, size)) for seed in range(count)]
    return torch.from_numpy(np.stack(films)).float()[:, None] / 255


def sharpness(films: torch.Tensor) -> torch.Tensor:
    return films.diff(dim=-1).abs().mean(dim=(1, 2, 3))


def test_mixing_styles_moves_the_exposure_and_keeps_what_is_where() -> None:
    torch.manual_seed(0)
    same = pixels()
    torch.testing.assert_close(mix_styles(same, 0.0), same, atol=1e-5, rtol=0)
    dark, bright = same * 0.3, 0.5 + same * 0.5
    films = torch.cat([dark, bright])
    mixed = mix_styles(films, 1.0)
    assert mixed[:8].mean() > dark.mean() + 0.05 and mixed[8:].mean() < bright.mean() - 0.05
    for film, result in zip(films, mixed, strict=True):
        own = np.corrcoef(film.flatten(), result.flatten())[0, 1]
        assert own > 0.8


def test_mixed_frames_leave_the_middle_and_bring_another_films_rim() -> None:
    torch.manual_seed(0)
    films = torch.arange(1.0, 33)[:, None, None, None].expand(-1, 1, 50, 40)
    torch.testing.assert_close(mix_frames(films, 0.0), films)
    mixed = mix_frames(films, 1.0)
    rows, columns = round(50 * WIDEST_FRAME), round(40 * WIDEST_FRAME)
    assert (mixed == films)[:, :, rows:-rows, columns:-columns].all()
    strange = mixed != films
    assert len(strange.sum(dim=(1, 2, 3)).unique()) > 16  # a box for each
    assert 0.3 < strange.float().mean() < 0.45  # 1 - .8 ** 2 of a film, on average
    for film, was_changed in zip(mixed, strange, strict=True):
        assert len(film[was_changed].unique()) <= 1  # of one other film
    for side in (strange[..., 0, :], strange[..., -1, :], strange[..., 0], strange[..., -1]):
        assert side.float().mean() > 0.9  # but for films that drew themselves
    assert 10 < sum(bool(one.any()) for one in mix_frames(films, 0.5) != films) < 22


def test_coarsening_takes_sharpness_and_grain_adds_it() -> None:
    torch.manual_seed(0)
    films = pixels()
    assert (sharpness(coarsen(films, 1.0)) < sharpness(films)).all()
    torch.testing.assert_close(coarsen(films, 0.0), films)
    grainy = add_grain(films, 1.0)
    assert (sharpness(grainy) > sharpness(films)).sum() >= 7  # one may have drawn next to none
    assert abs(float((grainy - films).mean())) < 0.005
    torch.testing.assert_close(add_grain(films, 0.0), films)


def test_the_subtype_loss_counts_known_films_only() -> None:
    logits, viral = torch.tensor([2.0, -1.0, 5.0]), torch.tensor([1, 0, -1])
    expected = (torch.log1p(torch.exp(torch.tensor(-2.0))) + torch.log1p(torch.exp(torch.tensor(-1.0)))) / 3
    torch.testing.assert_close(subtype_loss(logits, viral), expected)
    assert subtype_loss(logits[2:], viral[2:]) == 0


def test_the_auxiliary_target_moves_the_features_and_leaves_two_outputs(films, tiny_recipe, tmp_path: Path) -> None:
    assert set(films["train"].viral) == {-1, 0, 1}
    options = ("--probe_epochs", "0", "--num_train_epochs", "1")
    plain, _ = trained(films, tiny_recipe, tmp_path / "plain", *options)
    helped, _ = trained(films, tiny_recipe, tmp_path / "helped", *options, "--subtype_weight", "1")
    assert final_linear(helped).weight.shape == final_linear(plain).weight.shape
    first = "resnet.embedder.embedder.convolution.weight"
    assert not torch.allclose(plain.state_dict()[first], helped.state_dict()[first])


def test_a_resized_head_keeps_its_first_outputs(tiny_run: Path) -> None:
    model = Predictor(tiny_run, device="cpu").model
    before = final_linear(model).weight.detach().clone()
    resize_head(model, 3)
    assert torch.equal(final_linear(model).weight[:2], before) and (final_linear(model).weight[2] == 0).all()
    resize_head(model, 2)
    assert torch.equal(final_linear(model).weight, before)


def test_half_way_weights_are_half_way(films, tiny_recipe, tmp_path: Path) -> None:
    weights = [
        trained(films, tiny_recipe, tmp_path / share, "--num_train_epochs", "1", "--wise_ft_alpha", share)[0]
        for share in ("0", "0.5", "1")
    ]
    probed, half, tuned = (final_linear(model).weight.detach() for model in weights)
    assert not torch.allclose(probed, tuned)
    torch.testing.assert_close(half, (probed + tuned) / 2, atol=1e-5, rtol=1e-4)


def test_without_a_probe_half_way_starts_from_the_checkpoint(films, tiny_recipe, tiny_run, tmp_path: Path) -> None:
    options = ["--model_name_or_path", str(tiny_run), "--probe_epochs", "0", "--num_train_epochs", "1"]
    tuned, half = (
        final_linear(trained(films, tiny_recipe, tmp_path / share, *options, "--wise_ft_alpha", share)[0]).weight
        for share in ("1", "0.5")
    )
    began = final_linear(Predictor(tiny_run, device="cpu").model).weight
    assert not torch.allclose(began, tuned)
    torch.testing.assert_close(half, (began + tuned) / 2, atol=1e-5, rtol=1e-4)


def test_a_resumed_run_finds_the_weights_that_half_way_starts_from(films, tiny_recipe, tmp_path: Path) -> None:
    options = ["--num_train_epochs", "2", "--save_total_limit", "9", "--wise_ft_alpha", "0.5"]
    whole, _ = trained(films, tiny_recipe, tmp_path, *options)
    model_args, data_args, training_args = parse_args([*tiny_recipe, *options, "--output_dir", str(tmp_path)])
    resumed, processor = load_model(model_args, data_args.cache_dir)
    first = min((tmp_path / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    train(resumed, processor, films, training_args, first)
    torch.testing.assert_close(final_linear(resumed).weight, final_linear(whole).weight, atol=1e-5, rtol=1e-4)


def test_checkpointed_blocks_keep_less_and_give_the_same_gradients(tiny_recipe) -> None:
    model_args, data_args, _ = parse_args(tiny_recipe)
    kept, gradients = [], []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        model, processor = load_model(model_args, data_args.cache_dir)
        nn.init.normal_(final_linear(model).weight)
        freeze_statistics(model)
        if checkpointed:
            checkpoint_blocks(model)
        model.classifier.eval()  # no dropout
        seen = []

        def pack(values: torch.Tensor, seen=seen) -> torch.Tensor:
            seen.append(values.nbytes)
            return values

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda values: values):
            loss = model.train()(pixel_values=Normalize(processor)(pixels() * 255)).logits[:, 1].sum()
        kept.append(sum(seen))
        torch.manual_seed(1)
        loss.backward()
        gradients.append(model.resnet.embedder.embedder.convolution.weight.grad.clone())
    assert kept[1] < 0.7 * kept[0]
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-5, rtol=1e-4)


def test_activation_checkpointing_wants_frozen_statistics(films, tiny_recipe, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="freeze_batch_norm"):
        parse_args([*tiny_recipe, "--activation_checkpointing", "true"])
    options = ("--freeze_batch_norm", "true", "--num_train_epochs", "1", "--dropout", "0")
    plain, _ = trained(films, tiny_recipe, tmp_path / "plain", *options)
    saving, _ = trained(films, tiny_recipe, tmp_path / "saving", *options, "--activation_checkpointing", "true")
    torch.testing.assert_close(final_linear(saving).weight, final_linear(plain).weight, atol=1e-4, rtol=1e-3)


def test_the_stage_on_cached_features_gives_the_weights_of_the_plain_one(films, tiny_recipe, tmp_path: Path) -> None:
    recipe = [*tiny_recipe, "--dropout", "0", "--probe_epochs", "3", "--probe_learning_rate", "1e-2"]
    model_args, data_args, arguments = parse_args([*recipe, "--output_dir", str(tmp_path)])
    models = []
    for cached in (True, False):
        torch.manual_seed(0)
        model, processor = load_model(model_args, data_args.cache_dir)
        if cached:
            train_probe(model, processor, films, arguments)
        else:
            freeze_below(model, 1)
            plain = parse_args([*recipe, "--num_train_epochs", "3", "--learning_rate", "1e-2"])[2]
            plain.output_dir, plain.save_strategy, plain.load_best_model_at_end = str(tmp_path), "no", False
            XrayTrainer(
                model=model, args=plain, train_dataset=films["train"], eval_dataset=films["validation"],
                prepare=Normalize(processor), augment=None, class_weights=class_weights(films["train"].labels),
            ).train()  # fmt: skip
        models.append(model)
    cached, plain = (final_linear(model).weight for model in models)
    assert plain.abs().max() > 1e-2
    torch.testing.assert_close(cached, plain, atol=1e-4, rtol=0)


def test_a_student_learns_its_teachers_answers_not_the_labels(tiny_run: Path, films, tiny_recipe) -> None:
    teacher = Predictor(tiny_run, device="cpu")
    seen = films["validation"].__getitems__(range(8))
    targets = Teachers([str(tiny_run), str(tiny_run)], clahe=False, autocast=None)(seen["pixel_values"].float())
    with torch.no_grad():  # by the network as the checkpoint has it; theirs is folded
        logits = teacher.model(pixel_values=teacher.normalize(seen["pixel_values"])).logits.numpy()
    np.testing.assert_allclose(targets[:, 1], probability_of(logits), atol=1e-5)
    model_args, data_args, arguments = parse_args(tiny_recipe)
    model, processor = load_model(model_args, data_args.cache_dir)

    def loss_of(labels: torch.Tensor) -> float:
        trainer = XrayTrainer(
            model=model, args=arguments, train_dataset=films["train"], eval_dataset=films["validation"],
            prepare=Normalize(processor), augment=None, class_weights=None,
            teachers=Teachers([str(tiny_run)], clahe=False, autocast=None),
        )  # fmt: skip
        batch = {"pixel_values": seen["pixel_values"].float(), "labels": labels, "viral": seen["viral"]}
        model.train()
        freeze_statistics(model)
        return float(trainer.compute_loss(model, batch).detach())

    assert loss_of(seen["labels"]) == loss_of(1 - seen["labels"])


SPOILT = [("--noise", "1"), ("--coarsen", "1"), ("--jitter", "0.5"), ("--blur", "1"), ("--frame_mix", "1")]


@pytest.mark.parametrize("spoil", SPOILT)
def test_teachers_know_the_film_that_the_student_sees_spoilt(films, tiny_recipe, spoil: tuple[str, str]) -> None:
    class Recorder(torch.nn.Module):
        def forward(self, shown: torch.Tensor) -> torch.Tensor:
            self.shown = shown
            return torch.full((len(shown), 2), 0.5)

    model_args, data_args, arguments = parse_args([*tiny_recipe, *OFF, *spoil])
    model, processor = load_model(model_args, data_args.cache_dir)
    batch = films["validation"].__getitems__(range(8))
    trainer = XrayTrainer(
        model=model, args=arguments, train_dataset=films["train"], eval_dataset=films["validation"],
        prepare=Normalize(processor), augment=XrayAugment(arguments, batch["pixel_values"].shape[2:]),
        class_weights=None, teachers=Recorder(),
    )  # fmt: skip
    fed = []
    trainer.prepare.register_forward_pre_hook(lambda _, shown: fed.append(shown[0]))
    trainer.compute_loss(model.train(), batch)
    assert (trainer.teachers.shown - batch["pixel_values"]).abs().max() < 1
    assert (fed[0] - batch["pixel_values"]).abs().amax(dim=(1, 2, 3)).gt(5).float().mean() > 0.5
    trainer.args.mixup = 100.0  # halves
    trainer.compute_loss(model, batch)
    mixed = trainer.teachers.shown - batch["pixel_values"]
    assert mixed.abs().amax() > 5 and (fed[1] - trainer.teachers.shown).abs().max() > 5


def test_washed_out_films_lose_their_detail_and_the_others_nothing() -> None:
    film = torch.from_numpy(np.stack([make_film(seed, pneumonia=True, size=(64, 64)) for seed in range(400)]))[:, None]
    torch.manual_seed(0)
    shown, washed = wash_out(film.float(), 0.25)
    assert 60 < washed.sum() < 140
    torch.testing.assert_close(shown[~washed], film[~washed].float(), rtol=0, atol=0)
    detail = [
        torch.fft.rfft2(part[washed].float())[..., FINEST_WASH:-FINEST_WASH, FINEST_WASH:].abs().mean()
        for part in (shown, film)
    ]
    assert detail[0] < detail[1] / 10


@pytest.mark.parametrize("weights", [None, torch.tensor([2.0, 0.5])])
def test_washed_out_films_are_taught_as_even_chances(films, tiny_recipe, weights: torch.Tensor | None) -> None:
    model_args, data_args, arguments = parse_args([*tiny_recipe, *OFF, "--washed_out", "1"])
    model, processor = load_model(model_args, data_args.cache_dir)
    batch = films["validation"].__getitems__(range(8))
    trainer = XrayTrainer(
        model=model, args=arguments, train_dataset=films["train"], eval_dataset=films["validation"],
        prepare=Normalize(processor), augment=None, class_weights=weights,
    )  # fmt: skip
    torch.nn.init.zeros_(final_linear(model).weight)

    def loss(odds: float, labels: torch.Tensor) -> float:
        final_linear(model).bias.data = torch.tensor([0.0, odds])
        return float(trainer.compute_loss(model.train(), {**batch, "labels": labels}).detach())

    at = {odds: loss(odds, batch["labels"]) for odds in (-1.0, 0.0, 1.0)}
    assert at[0.0] < at[-1.0] == pytest.approx(at[1.0])
    assert loss(1.0, 1 - batch["labels"]) == pytest.approx(at[1.0])


def test_films_are_washed_out_after_the_probe_alone(films, tiny_recipe, tmp_path: Path) -> None:
    options = ("--probe_epochs", "1", "--num_train_epochs", "1", "--washed_out", "0.5", "--subtype_weight", "0.5")
    _, history = trained(films, [*tiny_recipe, *OFF], tmp_path, *options)
    assert {row["stage"] for row in history} == {1, 2}


@pytest.mark.parametrize("way", ["--teachers", "--model_name_or_path"])
def test_what_a_run_learns_from_must_have_held_out_its_films(way, tiny_run: Path, tiny_recipe, tmp_path: Path) -> None:
    options = [way, str(tiny_run), "--seed", "7", "--output_dir", str(tmp_path / "student")]
    with pytest.raises(InputError, match="split_seed"):
        main(parse_args([*tiny_recipe, *options]))
    left = [path.name for path in (tmp_path / "student" / "checkpoints").glob("*")]
    assert left == ["job.json"]  # before anything is trained


def test_teachers_must_see_the_students_films(tiny_run: Path) -> None:
    with pytest.raises(InputError, match="clahe"):
        Teachers([str(tiny_run)], clahe=True, autocast=None)


def test_a_distilled_checkpoint_is_trained_end_to_end(tiny_run: Path, tiny_recipe, tmp_path: Path) -> None:
    main(parse_args([*tiny_recipe, "--teachers", str(tiny_run), str(tiny_run), "--output_dir", str(tmp_path)]))
    teacher, student = (Predictor(run, device="cpu") for run in (tiny_run, tmp_path))
    shown = [make_film(seed, seed % 2 == 0) for seed in range(5000, 5040)]
    of_teacher, of_student = ([row["probability"] for row in predictor(shown)] for predictor in (teacher, student))
    assert np.corrcoef(of_teacher, of_student)[0, 1] > 0.7


def test_half_precision_weights_are_half_as_large_and_serve_the_same_scores(tiny_recipe, tmp_path: Path) -> None:
    main(parse_args([*tiny_recipe, "--save_dtype", "float16", "--output_dir", str(tmp_path)]))
    weights = load_file(tmp_path / "model.safetensors")
    assert {values.dtype for values in weights.values() if values.ndim == 4} == {torch.float16}
    metrics = json.loads((tmp_path / "report" / "metrics_validation.json").read_text())
    assert (
        metrics["decision_threshold"]["value"]
        == json.loads((tmp_path / "config.json").read_text())["decision_threshold"]
    )
    film = load_xray(make_film(7, True))
    classify = pipeline("image-classification", model=str(tmp_path), device="cpu")
    assert classify.model.dtype == torch.float32
    answer = {row["label"]: row["score"] for row in classify(film.convert("RGB"))}
    assert answer["PNEUMONIA"] == pytest.approx(Predictor(tmp_path, device="cpu")([film])[0]["probability"], abs=1e-5)


@pytest.mark.shared
def test_a_hidden_head_loads_by_its_own_code_anywhere(tiny_recipe, shared: Path, tmp_path: Path) -> None:
    """Trained on frozen features, undersampled; the checkpoint carries the code that reads it."""
    options = ["--model_name_or_path", str(SHARED / "checkpoints" / "resnet-50"), "--head_size", "16"]
    options += ["--num_train_epochs", "0", "--sampler", "undersample", "--dropout", "0.5", "--probe_epochs", "5"]
    run = tmp_path / "run"
    main(parse_args([*tiny_recipe, *options, "--output_dir", str(run)]))
    frozen = load_file(SHARED / "checkpoints" / "resnet-50" / "model.safetensors")
    weights = load_file(run / "model.safetensors")
    assert weights["classifier.1.weight"].shape == (16, 2048) and weights["classifier.4.weight"].shape == (2, 16)
    name = "resnet.encoder.stages.3.layers.2.layer.2.convolution.weight"
    assert torch.equal(frozen[name].float(), weights[name])
    assert "trust_remote_code=True" in (run / "README.md").read_text()
    load_xray(make_film(7, True)).convert("RGB").save(tmp_path / "film.png")
    code = (
        "import sys; from transformers import pipeline\n"
        f"p = pipeline('image-classification', model={str(run)!r}, trust_remote_code=True, device='cpu')\n"
        f"print({{r['label']: r['score'] for r in p({str(tmp_path / 'film.png')!r})}}['PNEUMONIA'])\n"
        "assert not any(name.startswith('pneumo_hf') for name in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = Predictor(run, device="cpu")([tmp_path / "film.png"])[0]["probability"]
    assert float(done.stdout.split()[-1]) == pytest.approx(expected, abs=1e-5)


def test_no_checkpoints_own_code_is_run(tiny_run: Path, tmp_path: Path) -> None:
    evil = tmp_path / "evil"
    shutil.copytree(tiny_run, evil)
    config = json.loads((evil / "config.json").read_text()) | {"model_type": "evil"}
    names = {"AutoConfig": "evil.EvilConfig", "AutoModelForImageClassification": "evil.Evil"}
    (evil / "config.json").write_text(json.dumps(config | {"auto_map": names}))
    (evil / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(InputError, match="code of its own"):
        Predictor(evil)
    assert not (tmp_path / "ran").exists()


def test_damaged_weights_are_named(tiny_run: Path, tmp_path: Path) -> None:
    pointer = tmp_path / "pointer"
    shutil.copytree(tiny_run, pointer)
    (pointer / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(InputError, match="LFS pointer"):
        Predictor(pointer)


def test_what_a_folder_lacks_is_named(tiny_run: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_run, tmp_path / "run")
    (tmp_path / "run" / "model.safetensors").unlink()
    with pytest.raises(InputError, match="it lacks model.safetensors"):
        Predictor(tmp_path / "run")


@pytest.mark.parametrize("device", ["meta", "hpu", "a toaster"])
def test_a_device_that_is_not_there_is_named(device: str, tiny_run: Path) -> None:
    with pytest.raises(InputError, match=f"device {device} cannot be used here"):
        Predictor(tiny_run, device=device)


def test_figures_of_former_weights_are_not_kept(tiny_run: Path, films, tiny_recipe, tmp_path: Path) -> None:
    former = [tmp_path / "report" / "external_elsewhere.json", tmp_path / "onnx" / "model.onnx"]
    for path in former:
        path.parent.mkdir()
        path.write_text("{}")
    again = Predictor(tiny_run, device="cpu")
    save_calibrated(
        again.model, again.image_processor, films, parse_args([*tiny_recipe, "--output_dir", str(tmp_path)])
    )
    assert not any(path.exists() for path in former)


def test_a_hidden_head_is_for_a_resnet(tiny_recipe) -> None:
    with pytest.raises(InputError, match="head_size"):
        load_model(
            parse_args([*tiny_recipe, "--model_name_or_path", "efficientnet-lite0", "--head_size", "8"])[0],
            "~/.cache/pneumo_hf",
        )


def test_clahe_is_in_training_in_the_predictor_and_said_to_the_pipeline(tiny_recipe, tmp_path: Path) -> None:
    run = tmp_path / "run"
    main(parse_args([*tiny_recipe, "--clahe", "true", "--output_dir", str(run)]))
    assert json.loads((run / "config.json").read_text())["preprocessing"]["clahe"] is True
    assert "clahe=True" in (run / "README.md").read_text()
    film = make_film(7, True)
    equalised = load_xray(film, clahe=True)
    assert (
        np.abs(np.diff(np.asarray(equalised).astype(float))).mean() > 1.3 * np.abs(np.diff(film.astype(float))).mean()
    )
    classify = pipeline("image-classification", model=str(run), device="cpu")
    score = {row["label"]: row["score"] for row in classify(equalised.convert("RGB"))}["PNEUMONIA"]
    plain = {row["label"]: row["score"] for row in classify(load_xray(film).convert("RGB"))}["PNEUMONIA"]
    own = Predictor(run, device="cpu")([film])[0]["probability"]
    assert score == pytest.approx(own, abs=1e-5) and abs(plain - own) > 1e-4


def test_a_film_too_small_to_equalise_is_read_as_it_is(tiny_run: Path, tmp_path: Path) -> None:
    equalising = tmp_path / "equalising"
    shutil.copytree(tiny_run, equalising)
    settings = json.loads((equalising / "preprocessor_config.json").read_text()) | {"clahe": True}
    (equalising / "preprocessor_config.json").write_text(json.dumps(settings))
    tiny, good = Predictor(equalising, device="cpu")([np.zeros((6, 6), np.uint8), make_film(1, True)])
    plain = Predictor(tiny_run, device="cpu")([np.zeros((6, 6), np.uint8)])[0]["probability"]
    assert tiny["probability"] == pytest.approx(plain, abs=1e-6)
    assert good["probability"] is not None


def test_trackio_gets_the_log_of_either_stage_by_the_runs_name(tiny_recipe, tmp_path: Path) -> None:
    options = ["--report_to", "trackio", "--num_train_epochs", "1", "--output_dir", str(tmp_path / "mine")]
    command = [sys.executable, "train_hf.py", *tiny_recipe, *options]  # a process of its own: it reads the folder once
    environment = os.environ | {"TRACKIO_DIR": str(tmp_path / "logs")}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    with closing(sqlite3.connect(tmp_path / "logs" / "huggingface.db")) as logs:
        rows = logs.execute("SELECT run_name, metrics FROM metrics").fetchall()
    for stage in ("mine stage1", "mine stage2"):
        assert any(name == stage and "eval/roc_auc" in json.loads(row) for name, row in rows)


def test_tensorboard_gets_the_log_of_either_stage(tiny_recipe, tmp_path: Path) -> None:
    options = ["--report_to", "tensorboard", "--num_train_epochs", "1", "--output_dir", str(tmp_path / "run")]
    main(parse_args([*tiny_recipe, *options]))
    for stage in ("stage1", "stage2"):
        assert list((tmp_path / "run" / "tensorboard" / stage).glob("events.out.tfevents.*"))
    with pytest.raises(InputError, match="report_to nowhere: nowhere is not supported"):
        main(parse_args([*tiny_recipe, "--report_to", "nowhere", "--output_dir", str(tmp_path / "other")]))


def test_stage_two_trains_the_layers_asked_for_and_the_probe_the_films_asked_for(
    films, tiny_recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def first_and_last(model: nn.Module) -> list[torch.Tensor]:
        return [model.resnet.embedder.embedder.convolution.weight.detach(), final_linear(model).weight.detach()]

    options = ("--probe_epochs", "0", "--num_train_epochs", "1")
    untrained, _ = trained(films, tiny_recipe, tmp_path / "a", "--probe_epochs", "0", "--num_train_epochs", "0")
    top, _ = trained(films, tiny_recipe, tmp_path / "b", *options, "--trainable_layers", "1")
    whole, _ = trained(films, tiny_recipe, tmp_path / "c", *options)
    start, frozen, free = map(first_and_last, (untrained, top, whole))
    assert torch.equal(start[0], frozen[0]) and not torch.equal(start[0], free[0])
    assert not torch.equal(start[1], frozen[1])
    assert top.resnet.embedder.embedder.convolution.weight.is_contiguous(memory_format=torch.channels_last)

    stage, _ = trained(films, tiny_recipe, tmp_path / "e", *options, "--unfreeze_blocks", "1")
    before, after = (model.resnet.encoder.stages for model in (untrained, stage))
    for number, moved in ((-2, False), (-1, True)):
        same = [
            torch.equal(a, b) for a, b in zip(before[number].parameters(), after[number].parameters(), strict=True)
        ]
        assert not any(same) if moved else all(same)
    with pytest.raises(InputError, match="unfreeze_blocks is 9, but the model has 4 blocks"):
        trained(films, tiny_recipe, tmp_path / "f", *options, "--unfreeze_blocks", "9")

    probed, extract = [], stages.extract_features
    monkeypatch.setattr(
        stages, "extract_features", lambda model, part, *rest: probed.append(part) or extract(model, part, *rest)
    )
    few = ("--probe_epochs", "1", "--num_train_epochs", "0")
    trained(films, tiny_recipe, tmp_path / "d", *few, "--sampler", "undersample")
    assert np.bincount(probed[0].labels).tolist() == [np.bincount(films["train"].labels).min()] * 2


@pytest.mark.parametrize("option", [("loss", "focal"), ("mixup", "0.4"), ("label_smoothing_factor", "0.2")])
def test_what_the_loss_is_asked_for_moves_it(option: tuple[str, str], films, tiny_recipe, tmp_path: Path) -> None:
    def loss_with(*options: str) -> float:
        recipe = [*tiny_recipe, "--dropout", "0", "--freeze_batch_norm", "true", *OFF, *options]
        model_args, data_args, arguments = parse_args([*recipe, "--output_dir", str(tmp_path)])
        torch.manual_seed(0)
        model, processor = load_model(model_args, data_args.cache_dir)
        nn.init.normal_(final_linear(model).weight)
        trainer = stages.fine_tuner(model, processor, films, arguments, resumed=None)
        torch.manual_seed(1)
        return trainer.compute_loss(model.train(), films["train"].__getitems__(range(16))).item()

    name, value = option
    plain = loss_with()
    assert loss_with() == plain
    assert abs(loss_with(f"--{name}", value) - plain) > 1e-3


def test_the_temperature_can_be_fitted_on_spoilt_films_too(tiny_run: Path, films, tiny_recipe, tmp_path: Path) -> None:
    predictor, validation, found = Predictor(tiny_run, device="cpu"), films["validation"], {}
    clean, spoilt = predictor.score_films(validation), score_randomly_corrupted(predictor, validation)
    assert spoilt.shape == clean.shape and np.mean(np.abs(spoilt - clean) > 0.1) > 0.5
    np.testing.assert_array_equal(spoilt, score_randomly_corrupted(predictor, validation))  # the same at every call
    for calibration in ("validation", "spoilt"):
        folder = tmp_path / calibration
        arguments = parse_args([*tiny_recipe, "--calibration", calibration, "--output_dir", str(folder)])
        again = Predictor(tiny_run, device="cpu")
        save_calibrated(again.model, again.image_processor, films, arguments)
        found[calibration] = json.loads((folder / "config.json").read_text())["calibration_temperature"]
    expected = fit_temperature(np.concatenate([clean, spoilt]), np.tile(validation.labels, 2))
    assert found["spoilt"] == pytest.approx(expected, rel=1e-3) != pytest.approx(found["validation"], rel=1e-3)
