"""What `predict` does to a score before it writes it."""

import csv
import json
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pneumo_hf import Predictor
from pneumo_hf.__main__ import main
from pneumo_hf.errors import InputError
from pneumo_hf.evaluation.calibration import at_prevalence
from pneumo_hf.evaluation.ensembles import load_predictor, validation_scores
from pneumo_hf.evaluation.rescaling import rescaling, summary
from pneumo_hf.inference.settings import CheckpointSettings


def test_predict_for_another_prevalence_keeps_the_decisions(
    tiny_run: Path, films_folder: Path, tmp_path: Path, capsys, caplog
) -> None:
    caplog.set_level("INFO")

    def run(*options: str) -> list[dict]:
        paths = [str(films_folder / "test"), "--output", str(tmp_path / "p.csv")]
        main(["predict", "--model", str(tiny_run), *paths, *options])
        return list(csv.DictReader((tmp_path / "p.csv").open()))

    plain, rare = run(), run("--prevalence", "0.02")
    assert [row["prediction"] for row in plain] == [row["prediction"] for row in rare]
    before, after = (np.array([float(row["probability"]) for row in rows]) for rows in (plain, rare))
    assert np.all(before >= after) and np.mean(before > after) > 0.5
    threshold = float(re.findall(r"review is from probability (\S+) on", caplog.text)[-1])  # as the CSV has it
    called = np.array([row["prediction"] == "PNEUMONIA" for row in rare])
    assert 0 < called.sum() < len(called) and threshold < 0.5
    assert after[called].min() >= threshold * 0.999 and after[~called].max() <= threshold * 1.001  # it has four digits
    isotonic = [float(row["probability"]) for row in run("--calibration", "isotonic")]
    assert np.all(np.diff(np.array(isotonic)[np.argsort([float(row["probability"]) for row in plain])]) >= 0)
    both = [float(row["probability"]) for row in run("--calibration", "isotonic", "--prevalence", "0.1")]
    labels = validation_scores(Predictor(tiny_run, device="cpu"))[0]
    np.testing.assert_allclose(both, at_prevalence(np.array(isotonic), labels.mean(), 0.1), atol=1e-9)
    wrong = (("--prevalence", "1.5"), "between 0 and 1"), (("--operating_point", "x"), "no operating point x")
    for options, message in wrong:
        with pytest.raises(SystemExit, match="2"):
            run(*options)
        assert message in capsys.readouterr().err


SCORES = np.linspace(0.01, 0.99, 50)


@pytest.fixture(scope="module")
def predictor(tiny_run: Path) -> Predictor:
    return Predictor(tiny_run, device="cpu")


def test_without_options_scores_stay(predictor: Predictor) -> None:
    rescale = rescaling(predictor, "temperature", None)
    assert [rescale(score) for score in SCORES] == SCORES.tolist()


def test_at_the_prevalence_of_the_scores_nothing_changes_and_at_a_lower_one_they_fall(predictor: Predictor) -> None:
    own = predictor.settings.prevalence_of_scores
    same, rare = (rescaling(predictor, "temperature", share) for share in (own, own / 10))
    np.testing.assert_allclose([same(score) for score in SCORES], SCORES)
    lower = np.array([rare(score) for score in SCORES])
    assert np.all(lower < SCORES) and np.all(np.diff(lower) > 0)
    np.testing.assert_allclose(lower, at_prevalence(SCORES, own, own / 10))


def test_isotonic_scores_of_validation_average_its_labels(predictor: Predictor) -> None:
    labels, probs = validation_scores(predictor)
    rescale = rescaling(predictor, "isotonic", None)
    mapped = np.array([rescale(score) for score in probs])
    assert mapped.mean() == pytest.approx(labels.mean())
    assert np.all(np.diff(mapped[np.argsort(probs, kind="stable")]) >= 0)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 20.0])
def test_a_prevalence_is_a_share(share: float, predictor: Predictor) -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        rescaling(predictor, "temperature", share)


def test_what_the_checkpoint_does_not_carry_is_named(tiny_run: Path, tmp_path: Path) -> None:
    bare = Predictor(shutil.copytree(tiny_run, tmp_path / "bare"), device="cpu")
    shutil.rmtree(tmp_path / "bare" / "report")
    with pytest.raises(InputError, match="no report/predictions_validation.csv"):
        rescaling(bare, "isotonic", None)
    bare.settings = CheckpointSettings()
    with pytest.raises(InputError, match="does not carry the prevalence"):
        rescaling(bare, "temperature", 0.1)
    with pytest.raises(InputError, match="no report/predictions_validation.csv"):
        rescaling(load_predictor([tiny_run, tiny_run], device="cpu"), "isotonic", None)


def test_the_summary_counts_flags_and_gives_the_written_threshold(predictor: Predictor) -> None:
    flags = Counter({"": 5, "review": 3, "abstain": 2, None: 1})
    lines = summary(predictor, flags, Path("p.csv"), lambda score: score / 2)
    assert lines[0].startswith("films scored: 10; unreadable: 1 ")
    assert lines[1] == "for review: 3; abstained: 2; no chest X-rays: 0"
    assert lines[2].startswith(f"review is from probability {predictor.settings.threshold / 2:.4g} on")
    assert len(summary(predictor, flags, Path("p.csv"), None)) == 2
    with pytest.raises(InputError, match=r"none of the films could be read; the reasons are in p\.csv"):
        summary(predictor, Counter({None: 4}), Path("p.csv"), None)


@pytest.mark.parametrize(
    ("normal_up_to", "pneumonia_from", "also_above"), [(0.2, 0.6, False), (0.6, 0.2, False), (0.2, 0.8, True)]
)
def test_predict_says_between_which_scores_it_abstains(
    normal_up_to: float,
    pneumonia_from: float,
    also_above: bool,
    tiny_run: Path,
    films_folder: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    unsure = shutil.copytree(tiny_run, tmp_path / "unsure")
    settings = json.loads((unsure / "config.json").read_text())
    point = next(point for point in settings["operating_points"] if point["name"] == "specificity@0.95")
    point["threshold"] = 0.3  # above the lower limit: below it nothing is abstained from
    limits = {"error_rate": 0.05, "normal_up_to": normal_up_to, "pneumonia_from": pneumonia_from}
    (unsure / "config.json").write_text(json.dumps(settings | {"abstention": limits, "decision_threshold": 0.7}))
    command = ["predict", "--model", str(unsure), str(films_folder / "test"), "--output", str(tmp_path / "p.csv")]
    for options in [], ["--operating_point", "specificity@0.95"], ["--prevalence", "0.02"]:
        caplog.clear()
        main([*command, *options])
        lower, upper = map(float, re.findall(r"between (\S+) and (\S+) no label is certain enough", caplog.text)[0])
        with (tmp_path / "p.csv").open() as file:
            flags = {float(row["probability"]): row["flag"] for row in csv.DictReader(file) if not row["error"]}
        between = [flag for score, flag in flags.items() if lower * 1.001 < score < upper * 0.999]  # of four digits
        assert between and set(between) == {"abstain"}
        if not options or options[0] == "--prevalence":  # at the threshold of .7
            assert ("abstained, also above the threshold" in caplog.text) == also_above
        beside = {flag for score, flag in flags.items() if not lower * 0.999 <= score <= upper * 1.001}
        assert beside and "abstain" not in beside
    (unsure / "config.json").write_text(json.dumps(settings | {"abstention": None}))
    caplog.clear()
    main(command)
    assert "no label is certain enough" not in caplog.text
