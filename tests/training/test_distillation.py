"""One checkpoint trained on the answers of several."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from pneumo_hf import Predictor
from pneumo_hf.config.augmentation import make_policy
from pneumo_hf.config.parse import parse_args
from pneumo_hf.data.pixels import FilmDataset
from pneumo_hf.errors import InputError
from pneumo_hf.inference.scorer import probability_of
from pneumo_hf.training.augmentation import XrayAugment
from pneumo_hf.training.distillation import Teachers
from pneumo_hf.training.finetune import fine_tuner
from pneumo_hf.training.layers import freeze_statistics
from pneumo_hf.training.models import load_model
from pneumo_hf.training.stage import prepare
from pneumo_hf.training.train import load
from tests.conftest import make_film, make_trainer
from tests.training.common import decoded
from train_hf import main


@pytest.fixture(scope="module")
def films(tiny_recipe: list[str]) -> dict[str, FilmDataset]:
    return decoded(tiny_recipe)


def test_a_student_is_trained_on_its_teachers_answers_not_the_labels(tiny_run: Path, films, tiny_recipe) -> None:
    teacher = Predictor(tiny_run, device="cpu")
    seen = films["validation"].__getitems__(range(8))
    targets = Teachers([str(tiny_run), str(tiny_run)], clahe=False, autocast=None)(seen["pixel_values"].float())
    with torch.no_grad():  # by the network as the checkpoint has it; theirs is folded
        logits = teacher.model(pixel_values=teacher.normalize(seen["pixel_values"])).logits.numpy()
    np.testing.assert_allclose(targets[:, 1], probability_of(logits), atol=1e-5)
    model_args, data_args, arguments = parse_args(tiny_recipe)
    model, processor = load_model(model_args, data_args.cache_dir)

    def loss_of(labels: torch.Tensor) -> float:
        trainer = make_trainer(
            model, processor, arguments, films, teachers=Teachers([str(tiny_run)], clahe=False, autocast=None)
        )
        batch = {"pixel_values": seen["pixel_values"].float(), "labels": labels}
        model.train()
        freeze_statistics(model)
        return float(trainer.compute_loss(model, batch).detach())

    assert loss_of(seen["labels"]) == loss_of(1 - seen["labels"])


class Recorder(torch.nn.Module):
    """A teacher who keeps what it was shown, and knows nothing."""

    def forward(self, shown: torch.Tensor) -> torch.Tensor:
        self.shown = shown
        return torch.full((len(shown), 2), 0.5)


QUALITY = [
    "gaussian_noise_prob",
    "jpeg_prob",
    "sharpen_prob",
    "downscale_prob",
    "intensity_jitter",
    "blur_prob",
    "border_swap_prob",
]


@pytest.mark.parametrize("option", QUALITY)
def test_teachers_see_the_film_that_the_student_sees_corrupted(films, tiny_recipe, option: str) -> None:
    model_args, data_args, arguments = parse_args(tiny_recipe)
    model, processor = load_model(model_args, data_args.cache_dir)
    policy = make_policy("none", {option: 0.5 if option == "intensity_jitter" else 1})
    batch = films["validation"].__getitems__(range(8))
    trainer = make_trainer(
        model,
        processor,
        arguments,
        films,
        augment=XrayAugment(policy, batch["pixel_values"].shape[2:]),
        teachers=Recorder(),
    )
    fed = []
    trainer.prepare.register_forward_pre_hook(lambda _, shown: fed.append(shown[0]))
    trainer.compute_loss(model.train(), batch)
    assert (trainer.teachers.shown - batch["pixel_values"]).abs().max() < 1
    assert (fed[0] - batch["pixel_values"]).abs().amax(dim=(1, 2, 3)).gt(5).float().mean() > 0.5


@pytest.mark.parametrize("policy", ["none", "robust"])
def test_teachers_see_films_at_their_own_size(policy: str, tiny_run: Path, tiny_recipe, tmp_path: Path) -> None:
    options = ["--image_size", "32", "--teachers", str(tiny_run), "--augmentation", policy]
    recipe = parse_args([*tiny_recipe, *options, "--output_dir", str(tmp_path)])
    model, processor, films, _ = load(recipe)
    trainer = fine_tuner(model, processor, prepare(model, films, recipe.training), recipe.training, None)
    assert trainer.teachers.sizes == [{"height": 48, "width": 48}]
    trainer.teachers, fed = Recorder(), []
    trainer.prepare.register_forward_pre_hook(lambda _, shown: fed.append(shown[0]))
    trainer.compute_loss(trainer.model.train(), next(iter(trainer.get_train_dataloader())))
    assert trainer.teachers.shown.shape[1:] == (1, 48, 48)
    assert fed[0].shape[1:] == (1, 32, 32)
    assert [films[split].pixels.shape[2:] for split in ("train", "validation", "test")] == [(32, 32)] * 3
    if policy == "none":
        shrunk = interpolate(trainer.teachers.shown, (32, 32), mode="bilinear", antialias=True, align_corners=False)
        assert (fed[0] - shrunk).abs().max() < 1


@pytest.mark.parametrize("way", ["--teachers", "--model_name_or_path"])
def test_what_a_run_starts_from_must_have_held_out_its_films(way, tiny_run: Path, tiny_recipe, tmp_path: Path) -> None:
    options = [way, str(tiny_run), "--seed", "7", "--output_dir", str(tmp_path / "student")]
    with pytest.raises(InputError, match="split_seed"):
        main([*tiny_recipe, *options])
    remaining = [path.name for path in (tmp_path / "student" / "checkpoints").glob("*")]
    assert remaining == ["job.json"]  # before anything is trained


def test_teachers_must_see_the_students_films(tiny_run: Path) -> None:
    with pytest.raises(InputError, match="clahe"):
        Teachers([str(tiny_run)], clahe=True, autocast=None)


def test_a_teacher_that_is_not_there_is_named_before_anything_is_read(tiny_recipe, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="which teachers names"):
        main([*tiny_recipe, "--teachers", str(tmp_path / "nobody"), "--output_dir", str(tmp_path / "run")])


@pytest.mark.parametrize("name", ["typo_run", "tester/typo"])
def test_a_teacher_that_neither_disk_nor_hub_has_is_one_line(name: str, tiny_recipe, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"cannot load {name}") as error:
        main([*tiny_recipe, "--teachers", name, "--output_dir", str(tmp_path / "run")])
    assert "\n" not in str(error.value)


def test_a_distilled_checkpoint_is_trained_end_to_end(tiny_run: Path, tiny_recipe, tmp_path: Path) -> None:
    main([*tiny_recipe, "--teachers", str(tiny_run), str(tiny_run), "--output_dir", str(tmp_path)])
    teacher, student = (Predictor(run, device="cpu") for run in (tiny_run, tmp_path))
    shown = [make_film(seed, seed % 2 == 0) for seed in range(5000, 5040)]
    of_teacher, of_student = ([row["probability"] for row in predictor(shown)] for predictor in (teacher, student))
    assert np.corrcoef(of_teacher, of_student)[0, 1] > 0.7
