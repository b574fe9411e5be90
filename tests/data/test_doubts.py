"""Doubted labels: those that were flipped on purpose are found, by models that had not seen the films."""

from pathlib import Path

import numpy as np
import pytest

from pneumo_hf.data.doubts import confident_learning, doubted_labels, out_of_fold
from pneumo_hf.data.sources import load_data
from pneumo_hf.data.survey import Survey, survey_films
from pneumo_hf.labels import LABELS
from pneumo_hf.reporting.audit import doubts
from tests.conftest import ROOT, write_films

MOVED = "train/NORMAL/IM-9999-0001.jpeg"


@pytest.fixture(scope="module")
def sample() -> Survey:
    return survey_films(load_data(ROOT / "data" / "chest_xray_sample"))


@pytest.mark.parametrize("seed", range(2))
def test_most_of_5_percent_flipped_labels_of_the_embedded_films_are_on_the_list(sample: Survey, seed: int) -> None:
    flipped = np.random.default_rng(seed).choice(len(sample.names), round(0.05 * len(sample.names)), replace=False)
    for row in flipped:
        sample.labels[row] = 1 - sample.labels[row]
    try:
        found = doubted_labels(sample, LABELS)
    finally:
        for row in flipped:
            sample.labels[row] = 1 - sample.labels[row]
    planted, listed = {sample.names[row] for row in flipped}, [film["path"] for film in found["list"]]
    assert len(planted & set(listed)) > 0.6 * len(planted)
    top = listed[: len(planted) // 2]
    assert len(planted & set(top)) > 0.8 * len(top)  # the most doubted are the surest
    assert found["films"] == len(sample.names) and found["doubted"] == len(listed) < 0.1 * len(sample.names)


def test_confident_learning_by_hand() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1])
    first = np.array([0.9, 0.8, 0.1, 0.2, 0.3, 0.85])  # P(0): a threshold of .6, and for label 1 of .55
    doubted, likelier = confident_learning(labels, np.stack([first, 1 - first], axis=1))
    assert doubted.tolist() == [2, 5] and likelier.tolist() == [1, 1, 1, 0, 0, 0]
    assert confident_learning(labels, np.full((6, 2), 0.5))[0].tolist() == []  # the models know nothing


@pytest.mark.parametrize("kinds", [2, 3])
def test_every_fold_has_films_of_a_rare_label(kinds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A draw of 12 of 480 films would mostly be without the rare label's 16."""
    monkeypatch.setattr("pneumo_hf.data.doubts.FITTED_TO", 12)
    random, survey = np.random.default_rng(0), Survey()
    labels = np.append(np.arange(580) % (kinds - 1), np.full(20, kinds - 1))
    marked = np.append(labels[:-1], 0)  # the last of the rare label looks like the first
    for label in marked:
        film = random.integers(0, 60, (56, 56), np.uint8)
        film[:, 16 * label : 16 * label + 12] += 150
        survey.thumbnails.append(film)
    probs = out_of_fold(survey, labels, np.arange(600))
    assert (probs > 0).all() and probs.sum(axis=1) == pytest.approx(1)
    assert (probs.argmax(axis=1) == marked).mean() > 0.97
    assert confident_learning(labels, probs)[0][:1].tolist() == [599]


def test_a_misplaced_film_is_listed_by_rank_without_scores_and_shown(tmp_path: Path) -> None:
    folder = write_films(tmp_path / "films", {"train": (60, 60)})
    wrong = sorted((folder / "train" / "PNEUMONIA").iterdir())[7]
    wrong.rename(folder / MOVED)
    survey = survey_films(load_data(folder))
    found = doubted_labels(survey, LABELS)
    doubts(tmp_path / "doubts.png", found, survey)
    listed = found["list"]
    assert [(film["split"], film["label"], film["looks_like"]) for film in listed if film["path"] == MOVED] == [
        ("train", "NORMAL", "PNEUMONIA")
    ]
    assert [film["rank"] for film in listed] == list(range(1, len(listed) + 1))
    assert set(listed[0]) == {"rank", "path", "split", "label", "looks_like"}
    assert (tmp_path / "doubts.png").stat().st_size > 2_000


def test_too_few_films_or_patients_of_a_label_are_not_judged(tmp_path: Path) -> None:
    survey = survey_films(load_data(write_films(tmp_path / "films", {"train": (12, 40)})))
    assert doubted_labels(survey, LABELS) == {}
