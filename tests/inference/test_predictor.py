from pathlib import Path

import numpy as np
import pytest
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessorPil

from pneumo_hf import Predictor
from pneumo_hf.config import InputError
from tests.conftest import make_film

FILMS = [make_film(seed, pneumonia=bool(seed % 2)) for seed in range(5)]


def test_bad_films_have_reasons_and_do_not_move_the_others(tiny_run: Path) -> None:
    predictor = Predictor(tiny_run, device="cpu", batch_size=2)
    alone = [predictor([film])[0]["probability"] for film in FILMS]
    mixed = predictor([FILMS[0], b"", FILMS[1], b"text", FILMS[2], Path("nowhere.png"), FILMS[3], FILMS[4]])
    good = [row["probability"] for row in mixed if not row["error"]]
    np.testing.assert_allclose(good, alone, atol=1e-6)
    assert [bool(row["error"]) for row in mixed] == [False, True, False, True, False, True, False, False]
    assert mixed[1] == {"probability": None, "prediction": None, "flag": None, "error": "empty file"}
    assert predictor([]) == []


def test_it_decides_at_the_checkpoints_threshold(tiny_run: Path) -> None:
    predictor = Predictor(tiny_run, device="cpu")
    assert predictor.threshold == predictor.model.config.decision_threshold != 0.5
    assert predictor.decide(predictor.threshold) == {"prediction": "PNEUMONIA", "flag": "review"}
    assert predictor.decide(predictor.threshold - 1e-6) == {"prediction": "NORMAL", "flag": ""}


def test_labels_in_the_other_order_are_read_by_name(tiny_run: Path, tmp_path: Path) -> None:
    predictor = Predictor(tiny_run, device="cpu")
    expected = [row["probability"] for row in predictor(FILMS)]
    linear = predictor.model.classifier[1]
    linear.weight.data, linear.bias.data = linear.weight.data.flip(0), linear.bias.data.flip(0)
    predictor.model.config.id2label = {0: "PNEUMONIA", 1: "NORMAL"}
    predictor.model.config.label2id = {"PNEUMONIA": 0, "NORMAL": 1}
    predictor.model.save_pretrained(tmp_path)
    predictor.image_processor.save_pretrained(tmp_path)
    swapped = [row["probability"] for row in Predictor(tmp_path, device="cpu")(FILMS)]
    np.testing.assert_allclose(swapped, expected, atol=1e-6)


def test_what_is_no_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        Predictor(tmp_path / "nowhere")
    ResNetForImageClassification(ResNetConfig(hidden_sizes=[8, 8, 8, 8], depths=[1] * 4)).save_pretrained(tmp_path)
    ViTImageProcessorPil().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="no pneumonia classifier"):
        Predictor(tmp_path)
