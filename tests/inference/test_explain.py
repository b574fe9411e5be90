from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr
from torch import nn

from pneumo_hf import Predictor, load_xray
from pneumo_hf.data.files import read_film
from pneumo_hf.data.listing import list_films
from pneumo_hf.imaging.processor import make_image_processor, resize_film
from pneumo_hf.inference.explain import (
    GradCam,
    _grid,
    _is_map,
    insertion_and_deletion,
    last_feature_map,
    overlay,
    share_inside,
)
from tests.conftest import ROOT, make_film

SHIPPED = ROOT / "models" / "pneumo-efficientnet"


def films(predictor: Predictor, count: int = 8) -> torch.Tensor:
    pictures = [
        resize_film(load_xray(make_film(seed, pneumonia=True)), predictor.image_processor) for seed in range(count)
    ]
    return torch.from_numpy(np.stack(pictures))


def test_heatmaps_are_of_the_films_size_and_leave_the_scores_alone(tiny_run: Path) -> None:
    predictor = Predictor(tiny_run, device="cpu")
    pixels = films(predictor)
    before = predictor.logits(pixels)
    maps = GradCam(predictor)(pixels)
    assert maps.shape == (8, 48, 48) and maps.min() >= 0 and maps.max() == pytest.approx(1)
    np.testing.assert_array_equal(predictor.logits(pixels), before)


def test_the_last_feature_map_is_found_in_every_backbone(tmp_path: Path) -> None:
    from transformers import (
        EfficientNetConfig,
        EfficientNetForImageClassification,
        MobileNetV2Config,
        MobileNetV2ForImageClassification,
    )

    labels = {"id2label": {0: "NORMAL", 1: "PNEUMONIA"}, "label2id": {"NORMAL": 0, "PNEUMONIA": 1}}
    small = EfficientNetConfig(width_coefficient=0.25, depth_coefficient=0.25, hidden_dim=320, **labels)
    for model, channels in (
        (EfficientNetForImageClassification(small), 320),
        (MobileNetV2ForImageClassification(MobileNetV2Config(depth_multiplier=0.35, **labels)), 1280),
    ):
        folder = tmp_path / type(model).__name__
        model.save_pretrained(folder)
        make_image_processor(None, 128).save_pretrained(folder)
        predictor, seen = Predictor(folder, device="cpu"), []
        module = last_feature_map(predictor).module
        hook = module.register_forward_hook(lambda _, __, output: seen.append(output.shape))  # noqa: B023
        predictor.model(predictor.normalize(films(predictor, 1)))
        hook.remove()
        assert len(seen) == 1 and seen[0][1] == channels and seen[0][2] > 1
        assert GradCam(predictor)(films(predictor, 2)).shape == (2, 128, 128)


def test_the_places_of_films_that_are_not_square_are_found() -> None:
    assert _grid(70, (200, 300)) == (7, 10) and _grid(197, (224, 224)) == (14, 14) and _grid(5, (32, 32)) == (2, 2)
    assert _is_map((7, 10), (200, 300)) and _is_map((7, 7), (224, 224)) and not _is_map((7, 8), (224, 224))
    assert not _is_map((196, 64), (224, 300))


def test_overlay_keeps_what_is_cold() -> None:
    film = Image.fromarray(make_film(0, True))
    heat = np.zeros((12, 12))
    heat[6:, 6:] = 1
    shown = np.asarray(overlay(film, heat))
    grey = np.asarray(film)
    np.testing.assert_array_equal(shown[:30, :30], np.repeat(grey[:30, :30, None], 3, axis=2))
    assert np.abs(shown[-10:, -10:].astype(int) - grey[-10:, -10:, None]).max() > 20
    np.testing.assert_array_equal(np.asarray(overlay(film, heat, 0))[..., 0], grey)


def test_share_inside_the_central_box() -> None:
    maps = np.zeros((3, 56, 56), np.float32)
    maps[0, 20:30, 20:30], maps[1, :5], maps[2] = 1, 1, 1
    assert share_inside(maps) == pytest.approx([1, 0, (36 / 56) ** 2])


@pytest.fixture
def shipped() -> tuple[Predictor, torch.Tensor]:
    """The shipped model, and films of pneumonia from the sample's test as it is fed them."""
    if not SHIPPED.exists():
        pytest.skip("the shipped model is not here")
    predictor = Predictor(SHIPPED, device="cpu")
    rows = [
        row
        for row in list_films(ROOT / "data/chest_xray_sample/test-00000-of-00001.parquet")
        if row["label"] == "PNEUMONIA"
    ]
    pictures = [resize_film(load_xray(read_film(row["image"])), predictor.image_processor) for row in rows[::6]]
    return predictor, torch.from_numpy(np.stack(pictures))


def test_the_hottest_pixels_matter_more_than_the_coldest(shipped: tuple[Predictor, torch.Tensor]) -> None:
    predictor, pixels = shipped[0], shipped[1][::3]
    maps = np.concatenate([GradCam(predictor)(part) for part in pixels.split(8)])
    inserted, deleted = insertion_and_deletion(predictor, maps, pixels)
    cold = deleted[::-1]  # what is left without the hottest are the coldest
    assert inserted[0] == pytest.approx(cold[0]) and inserted[-1] == pytest.approx(cold[-1])
    assert inserted[0] == pytest.approx(0.5, abs=0.05)  # a film without detail says nothing
    assert inserted[1] > cold[1] + 0.1  # the hottest tenth; over the whole curve both weigh alike


def test_weights_drawn_again_from_the_top_change_the_map(shipped: tuple[Predictor, torch.Tensor]) -> None:
    """The randomisation test of Adebayo et al. 2018: a map that survives it shows edges, not the network."""
    predictor, pixels = shipped[0], shipped[1][::6]
    trained, ranks = GradCam(predictor)(pixels), []
    layers = [module for module in predictor.model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    for seed in range(4):
        torch.manual_seed(seed)
        for layer in layers[-20:]:
            layer.reset_parameters()
        pairs = zip(trained, GradCam(predictor)(pixels), strict=True)
        ranks += [
            spearmanr(before.ravel(), after.ravel())[0] for before, after in pairs if before.any() and after.any()
        ]
    assert len(ranks) >= 8  # a map of nothing, without any evidence for pneumonia, has no order
    assert abs(np.mean(ranks)) < 0.5
