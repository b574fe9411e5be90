"""The parts of augmentation: each of these tests fails if its part does nothing."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pneumo_hf.config.augmentation import POLICIES, make_policy
from pneumo_hf.config.parse import parse_args
from pneumo_hf.data.pixels import FilmDataset
from pneumo_hf.training.augmentation import (
    MOST_CELLS,
    WIDEST_BORDER,
    XrayAugment,
    add_gaussian_noise,
    compress,
    downscale,
    expose_outliers,
    sharpen,
    swap_borders,
)
from pneumo_hf.training.head import final_linear
from pneumo_hf.training.models import load_model
from tests.conftest import make_film, make_trainer
from tests.training.common import decoded, pixels, trained


@pytest.fixture(scope="module")
def films(tiny_recipe: list[str]) -> dict[str, FilmDataset]:
    return decoded(tiny_recipe)


def sharpness(films: torch.Tensor) -> torch.Tensor:
    return films.diff(dim=-1).abs().mean(dim=(1, 2, 3))


def test_swapped_borders_leave_the_middle_and_bring_another_films_border() -> None:
    torch.manual_seed(0)
    films = torch.arange(1.0, 33)[:, None, None, None].expand(-1, 1, 50, 40)
    torch.testing.assert_close(swap_borders(films, 0.0), films)
    swapped = swap_borders(films, 1.0)
    rows, columns = round(50 * WIDEST_BORDER), round(40 * WIDEST_BORDER)
    assert (swapped == films)[:, :, rows:-rows, columns:-columns].all()
    strange = swapped != films
    assert len(strange.sum(dim=(1, 2, 3)).unique()) > 16  # a box for each
    assert 0.3 < strange.float().mean() < 0.45  # 1 - .8 ** 2 of a film, on average
    for film, was_changed in zip(swapped, strange, strict=True):
        assert len(film[was_changed].unique()) <= 1  # of one other film
    for side in (strange[..., 0, :], strange[..., -1, :], strange[..., 0], strange[..., -1]):
        assert side.float().mean() > 0.9  # but for films that drew themselves
    assert 10 < sum(bool(one.any()) for one in swap_borders(films, 0.5) != films) < 22


def test_downscaling_takes_sharpness_and_noise_adds_it() -> None:
    torch.manual_seed(0)
    films = pixels()
    assert (sharpness(downscale(films, 1.0)) < sharpness(films)).all()
    torch.testing.assert_close(downscale(films, 0.0), films)
    noisy = add_gaussian_noise(films, 1.0)
    assert (sharpness(noisy) > sharpness(films)).sum() >= 7  # one may have drawn next to none
    assert abs(float((noisy - films).mean())) < 0.005
    torch.testing.assert_close(add_gaussian_noise(films, 0.0), films)


def test_outliers_lose_their_detail_and_the_other_films_nothing() -> None:
    film = torch.from_numpy(np.stack([make_film(seed, pneumonia=True, size=(64, 64)) for seed in range(400)]))[:, None]
    torch.manual_seed(0)
    shown, blank = expose_outliers(film.float(), 0.25)
    assert 60 < blank.sum() < 140
    torch.testing.assert_close(shown[~blank], film[~blank].float(), rtol=0, atol=0)
    detail = [
        torch.fft.rfft2(part[blank].float())[..., MOST_CELLS:-MOST_CELLS, MOST_CELLS:].abs().mean()
        for part in (shown, film)
    ]
    assert detail[0] < detail[1] / 10


@pytest.mark.parametrize("weights", [None, torch.tensor([2.0, 0.5])])
def test_outliers_are_taught_with_an_uninformative_target(films, tiny_recipe, weights: torch.Tensor | None) -> None:
    model_args, data_args, arguments = parse_args([*tiny_recipe, "--augmentation", "none"])
    model, processor = load_model(model_args, data_args.cache_dir)
    batch = films["validation"].__getitems__(range(8))
    trainer = make_trainer(
        model,
        processor,
        arguments,
        films,
        augment=XrayAugment(make_policy("none", {"outlier_exposure_prob": 1}), batch["pixel_values"].shape[2:]),
        class_weights=weights,
    )
    torch.nn.init.zeros_(final_linear(model).weight)

    def loss(odds: float, labels: torch.Tensor) -> float:
        final_linear(model).bias.data = torch.tensor([0.0, odds])
        return float(trainer.compute_loss(model.train(), {**batch, "labels": labels}).detach())

    at = {odds: loss(odds, batch["labels"]) for odds in (-1.0, 0.0, 1.0)}
    assert at[0.0] < at[-1.0] == pytest.approx(at[1.0])
    assert loss(1.0, 1 - batch["labels"]) == pytest.approx(at[1.0])


def test_outliers_are_for_stage_two_alone(films, tiny_recipe, tmp_path: Path) -> None:
    options = ("--augmentation", "none", "--augmentation_kwargs", '{"outlier_exposure_prob": 0.5}')
    _, history = trained(films, tiny_recipe, tmp_path, "--probe_epochs", "1", "--num_train_epochs", "1", *options)
    assert {row["stage"] for row in history} == {1, 2}


def test_augmentation_keeps_shape_and_range_and_follows_the_seed() -> None:
    film = torch.from_numpy(np.stack([make_film(seed, pneumonia=True) for seed in range(6)])[:, None])
    augment = XrayAugment(make_policy("strong", {"horizontal_flip_prob": 0.5}), (64, 64))
    torch.manual_seed(0)
    first = augment(film)
    torch.manual_seed(0)
    assert torch.equal(augment(film), first)
    assert first.shape == (6, 1, 64, 64)
    assert 0 <= first.min() < first.max() <= 255
    assert not torch.equal(augment(film), first)


def test_augmentation_switched_off_leaves_the_film() -> None:
    film = torch.from_numpy(make_film(1, pneumonia=True, size=(64, 64)))[None, None]
    assert (XrayAugment(POLICIES["none"], (64, 64))(film) - film).abs().max() < 1


@pytest.mark.parametrize(
    ("option", "strength"),
    [
        ("crop_scale", 0.3),
        ("rotation", 20.0),
        ("translate", 0.3),
        ("intensity_jitter", 0.5),
        ("blur_prob", 1.0),
        ("horizontal_flip_prob", 1.0),
        ("border_swap_prob", 1.0),
        ("sharpen_prob", 1.0),
        ("downscale_prob", 1.0),
        ("gaussian_noise_prob", 1.0),
        ("jpeg_prob", 1.0),
    ],
)
def test_each_augmentation_changes_the_film_by_itself(option: str, strength: float) -> None:
    film = torch.from_numpy(np.stack([make_film(seed, seed % 2 == 0, size=(64, 64)) for seed in range(8)]))[:, None]
    torch.manual_seed(0)
    changed = XrayAugment(make_policy("none", {option: strength}), (64, 64))(film)
    assert (changed - film).abs().amax(dim=(1, 2, 3)).gt(5).float().mean() > 0.5
    if option == "horizontal_flip_prob":
        assert (changed - film.flip(-1)).abs().max() < 1


@pytest.mark.parametrize("quality", [30, 60, 90])
def test_compression_is_that_of_a_jpeg_file(monkeypatch: pytest.MonkeyPatch, quality: int) -> None:
    monkeypatch.setattr("pneumo_hf.training.augmentation.LOWEST_QUALITY", quality)
    monkeypatch.setattr("pneumo_hf.training.augmentation.HIGHEST_QUALITY", quality)
    films = np.stack([make_film(seed, seed % 2 == 0, size=(60, 44)) for seed in range(4)])  # no multiple of 8
    files = [io.BytesIO() for _ in films]
    for film, file in zip(films, files, strict=True):
        Image.fromarray(film).save(file, "JPEG", quality=quality)
    written = np.stack([np.asarray(Image.open(file)) for file in files]).astype(float)
    ours = compress(torch.from_numpy(films)[:, None].float() / 255, 1)[:, 0].clamp(0, 1).numpy() * 255
    assert np.abs(written - films).mean() > 5 * np.abs(ours - written).mean()  # Pillow's edges are padded otherwise
    assert np.abs(ours - written).max() < 0.5 * np.abs(written - films).max()


def test_sharpening_makes_edges_steeper() -> None:
    films = torch.from_numpy(np.stack([make_film(seed, True, size=(64, 64)) for seed in range(8)]))[:, None] / 255
    torch.manual_seed(0)
    sharp = sharpen(films, 1)
    gradient, before = ((x[..., 1:] - x[..., :-1]).abs().mean(dim=(1, 2, 3)) for x in (sharp, films))
    assert (gradient > before).all() and gradient.mean() > 1.2 * before.mean()
