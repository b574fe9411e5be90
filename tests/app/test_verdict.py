"""What the page says of a film: decision, meaning, operating points by plain names, figures; and its layers."""

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest

from pneumo_hf import Predictor
from pneumo_hf.app.case_report import write_case_report
from pneumo_hf.app.model_tab import Report, read_report
from pneumo_hf.app.pages import as_address
from pneumo_hf.app.points import (
    Share,
    measured_at,
    measured_by,
    measured_elsewhere,
    of_hundred,
    offered,
    point_choices,
    wilson,
)
from pneumo_hf.app.verdict import REMEDIES, cautions, in_words, measured_html, trained_on, verdict_html
from pneumo_hf.app.viewer import LARGEST_SENT, heat_html, viewer_html
from pneumo_hf.imaging.quality import LATERAL_VIEW, QUALITY_ISSUES, SHOWN_RANGE
from pneumo_hf.inference.explain import overlay
from pneumo_hf.inference.settings import CheckpointSettings
from tests.conftest import make_film

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def shipped() -> Predictor:
    return Predictor(ROOT / "models" / "pneumo-efficientnet", device="cpu")


@pytest.fixture(scope="module")
def report(shipped: Predictor) -> Report:
    found = read_report(shipped)
    assert found is not None
    return found


def answer(probability: float | None, flag: str = "", error: str = "") -> dict:
    return {"probability": probability, "prediction": None, "flag": flag, "error": error}


def test_a_name_says_what_a_point_does_and_not_what_it_was_chosen_for(shipped: Predictor, report: Report) -> None:
    points = offered(shipped.settings)
    assert [(point.plain, point.name) for point in points] == [
        ("Miss few", "cost@5"),
        ("Few false alarms", "sensitivity@0.95"),  # of the thresholds the highest, though chosen for a sensitivity
    ]
    youden = shipped.settings.thresholds["youden"]  # among the scores without an answer: it flags no more than these
    assert 0.29 < shipped.settings.flagged_from(youden) < shipped.settings.threshold
    decided = replace(shipped.settings, conformal_limits=None)
    points = offered(decided)
    assert [point.plain for point in points] == ["Miss few", "Balanced", "Few false alarms"]
    measured = [measured_at(report, point.threshold) for point in points]
    assert measured[0].sensitivity.value >= measured[1].sensitivity.value > measured[2].sensitivity.value
    assert measured[0].specificity.value < measured[1].specificity.value < measured[2].specificity.value


@pytest.mark.parametrize(
    ("settings", "plain"),
    [
        (CheckpointSettings(), ["The model's own"]),
        (CheckpointSettings(0.3, "youden", [{"name": "youden", "threshold": 0.3}]), ["Balanced"]),
        (
            CheckpointSettings(
                0.4,
                "f1",
                [{"name": name, "threshold": cut} for name, cut in (("f1", 0.4), ("cost@5", 0.2), ("cost@1", 0.8))],
            ),
            ["Miss few", "The model's own", "Few false alarms"],
        ),
    ],
)
def test_the_models_own_point_is_always_offered(settings: CheckpointSettings, plain: list[str]) -> None:
    points = offered(settings)
    assert [point.plain for point in points] == plain
    assert settings.threshold in [point.threshold for point in points]


def test_figures_are_the_reports_with_their_intervals(shipped: Predictor, report: Report) -> None:
    own, metrics = measured_at(report, shipped.settings.threshold), report.metrics["metrics"]
    assert own.over_patients
    assert own.sensitivity == (metrics["sensitivity"]["value"], *metrics["sensitivity"]["ci95"])
    row = next(row for row in report.metrics["operating_points"] if row["name"] == "youden")
    youden = measured_at(report, row["threshold"])
    assert (youden.sensitivity.value, youden.specificity.value) == (row["sensitivity"], row["specificity"])
    assert not youden.over_patients and youden.specificity == pytest.approx((176 / 234, 0.6930, 0.8031), abs=1e-4)
    by = measured_by(shipped.settings, report, row["threshold"])  # which flags less: the scores above are no answer
    assert by.sensitivity.value < youden.sensitivity.value and by.specificity.value > youden.specificity.value
    flags = [shipped.settings.decide(score, threshold=row["threshold"])["flag"] for score in report.scores]
    for is_case, share, flagged in zip(
        (True, False), by.unanswered, (by.sensitivity, by.specificity.of_the_others), strict=True
    ):
        of = [flag for flag, case in zip(flags, report.cases, strict=True) if case == is_case]
        assert share.value == of.count("abstain") / len(of) and 0.001 < share.value < 0.5
        assert flagged.value == pytest.approx(of.count("review") / len(of), abs=1e-5)
    page = measured_html(shipped, report, row["threshold"])
    assert "<td>13</td><td>9 to 18</td>" in page and "Wilson" in page  # false alarms in a hundred normal films
    assert f"No answer, in 100 normal films</th><td>{100 * by.unanswered[1].value:.0f}</td>" in page
    assert f"Not flagged, in 100 normal films</th><td>{100 * by.cleared.value:.0f}</td>" in page
    assert by.cleared.value + by.unanswered[1].value == pytest.approx(by.specificity.value)
    assert "can fare much worse" in page and measured_elsewhere(shipped.settings, report, row["threshold"]) == []
    assert "5.8% to 29.8% is no answer, whatever threshold is chosen between them" in page
    own_page = measured_html(shipped, report, shipped.settings.threshold)
    assert "whatever" not in own_page and "On films from elsewhere: 74 with pneumonia, 19 normal" in own_page
    there, external = measured_elsewhere(shipped.settings, report, shipped.settings.threshold)[0], report.external[0]
    assert there.over_patients and there.specificity.value == external["metrics"]["specificity"]["value"]
    least = shipped.settings.thresholds["cost@5"]
    assert "No answer" not in measured_html(shipped, report, least)  # below them all films are flagged
    assert measured_elsewhere(shipped.settings, report, least)[0].sensitivity.value == 1
    words = dict(map(reversed, point_choices(shipped.settings, report)))[shipped.settings.method]
    assert re.fullmatch(
        r"Few .*: 98.7% sensitive, 86.8% specific, 31 of 100 normal without an answer \(elsewhere \d+% and \d+%\)",
        words,
    )
    assert measured_at(None, 0.5) is None and "No measured" in measured_html(shipped, None, 0.5)
    assert [of_hundred(Share(value, 0, 1)) for value in (0.0, 0.0026, 0.098)] == ["none", "fewer than 1", "10"]


def test_a_decision_says_what_it_means_and_what_it_does_not(shipped: Predictor, report: Report) -> None:
    cut = shipped.settings.threshold
    flag = in_words(shipped, answer(0.92, "review"), cut, report)
    assert flag[:2] == ("flag", "Flagged for review")
    assert flag.meaning == (
        "A flag is not a diagnosis: of 100 normal films 13 were flagged in the test, 47 elsewhere."
    )
    clear = in_words(shipped, answer(0.05), cut, report)
    assert clear.meaning.startswith("It is below 5.8%.")  # from there to the threshold there is no answer
    assert clear.meaning.endswith(
        "does not exclude pneumonia: of 100 films with it fewer than 1 was so low in the test; "
        "elsewhere 16 had no flag, some of them no answer."
    )
    balanced = shipped.settings.thresholds["youden"]  # where there is no answer
    assert balanced < 0.3 and in_words(shipped, answer(0.92, "review"), balanced, report).meaning == (
        "A flag is not a diagnosis: of 100 normal films 13 were flagged in the test."  # elsewhere it is not measured
    )
    assert "flagged from 29.8%" in verdict_html(shipped, answer(0.92, "review"), balanced, report)
    unsure_film = answer(0.2, "abstain")
    unsure = in_words(shipped, unsure_film, cut, report)
    assert unsure[:2] == ("abstain", "No answer")
    assert unsure.meaning == (
        "From 5.8% to 31.5% there is none: the model is sure of neither label. Read it without the model."
    )
    raised = in_words(shipped, answer(0.7, "abstain"), 0.9, report)
    assert (
        "From 5.8% to 90.0% there is none: it is below the threshold, and too high to be called normal"
        in raised.meaning
    )
    assert set(REMEDIES) < set(QUALITY_ISSUES)
    lateral = answer(0.9, "abstain", LATERAL_VIEW)
    assert in_words(shipped, lateral, cut).meaning.endswith("Give the frontal film.")
    assert "not to be relied on here" in verdict_html(shipped, lateral, cut)
    assert "probability weak" in verdict_html(shipped, unsure_film, cut)  # no large number beside no answer
    assert "probability weak" not in verdict_html(shipped, answer(0.92, "review"), cut)
    strange = verdict_html(shipped, answer(0.9, "not_chest_xray", "blank"), cut)
    assert "Not recognised as a chest film" in strange and "90.0%" not in strange
    assert in_words(shipped, answer(None, error="<b>"), cut).words == "Not read"
    assert "<b>" not in verdict_html(shipped, answer(None, error="<b>"), cut)


def test_a_score_just_below_a_limit_does_not_look_as_high(shipped: Predictor, report: Report) -> None:
    least = shipped.settings.thresholds["cost@5"]
    page = verdict_html(shipped, answer(0.0362), least, report)  # which is flagged from 3.6% up too, to one decimal
    assert "3.62%" in page and f"It is below {least:.2%}" in page and f"flagged from {least:.2%}" in page
    assert "3.7%" in verdict_html(shipped, answer(0.0371, "review"), least, report)
    printed = Path(write_case_report(shipped, answer(0.0362), least, {}, {}, report)).read_text()
    assert printed.count(f"{least:.2%}") == 4 and f"{least:.1%}" not in printed  # meaning, point, table, elsewhere


def test_a_film_that_is_not_as_those_it_was_measured_on_says_so(shipped: Predictor, report: Report) -> None:
    cut, film = shipped.settings.threshold, answer(0.92, "review")
    assert cautions(shipped, film, cut, 3.0, report) == cautions(shipped, film | {"size": (224, 224)}, cut, None) == []
    for age, words in (
        (0.03, "under a month"),
        (0.25, "3 months"),
        (0.99, "11 months"),
        (8.3333, "8.3 years"),
        (6.0, "6 years"),
        (62.0, "62 years"),
    ):
        assert f"Patient of {words}." in verdict_html(shipped, film, cut, report, age)
    pairs = {"threshold": cut} | {
        name: {"sensitivity": {"right": right, "of": 75}} for name, right in (("originals", 64), ("copies", 70))
    }
    measured, large = report._replace(originals=pairs), film | {"size": (1646, 1124)}
    words = verdict_html(shipped, large, cut, measured)
    assert "of 75 films with pneumonia it did not flag 5 as copies, and 11 at full size." in words
    assert f"(from {cut:.1%} up)" in verdict_html(shipped, large, 0.1, measured)  # which is not measured
    for decided in (answer(0.92, "not_chest_xray", "a colour picture"), answer(None, error="truncated file")):
        assert cautions(shipped, decided | {"size": (1646, 1124)}, cut, 62.0, measured) == []
    same = pairs | {"originals": pairs["copies"]}
    assert "copies" not in verdict_html(shipped, large, cut, report._replace(originals=same))


def test_without_a_report_nothing_is_claimed(shipped: Predictor) -> None:
    words = in_words(shipped, answer(0.05), shipped.settings.threshold)
    assert words.meaning == "It is below 5.8%. This does not exclude pneumonia."


def test_who_it_was_trained_on_is_said_where_the_checkpoint_says_it(shipped: Predictor, tiny_run: Path) -> None:
    assert trained_on(shipped) == "Trained on films of children of 1 to 5 years, of one hospital."
    other = Predictor(tiny_run, device="cpu")
    assert "children" not in trained_on(other) and "does not say who the patients were" in trained_on(other)
    other.settings.training_data = {}
    assert trained_on(other) == "Its checkpoint does not say whose films it was trained on."


def test_a_case_report_has_the_tests_figures_and_validations(shipped: Predictor, report: Report) -> None:
    film = Image.fromarray(make_film(3, pneumonia=True))
    facts, cut = {"file": "PNG, 8 bits, 96 x 80 pixels"}, shipped.settings.threshold
    page = Path(write_case_report(shipped, answer(0.92, "review"), cut, {"The film": film}, facts, report)).read_text()
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", re.sub(r"<style>.*?</style>", "", page, flags=re.S)))
    assert "Few false alarms 31.5% 98.7% 97.4 to 99.7 86.8% 82.3 to 91.1 13 31 95.2% 99.4%" in text
    assert (
        "92.0%, calibrated where 73% have it, too high where few do" in text and "On 93 films from elsewhere" in text
    )
    assert "Miss few 3.6% 99.7%" in text and "children of 1 to 5 years" in text
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d", text) and "not a diagnosis" in text
    for kept in ("<form", "<script", "http", " id="):  # what is typed on it goes nowhere
        assert kept not in page
    by_hand = Path(write_case_report(shipped, answer(0.92, "review"), 0.25, {}, facts, report)).read_text()
    assert "chosen on validation</td>" in page and "chosen on validation</td>" not in by_hand
    assert "set by hand: flagged from 29.8% up" in by_hand and "Set by hand" in by_hand


def test_the_layer_of_a_heatmap_is_what_explain_draws() -> None:
    film = Image.fromarray(make_film(3, pneumonia=True, size=(64, 64)))
    heat = (np.linspace(0, 255, 64 * 64).astype(np.uint8).reshape(64, 64) / 255).astype(np.float32)
    page = heat_html(heat)
    address = re.search(r"url\((data:[^)]+)\)", page)[1]
    layer = Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))
    drawn = Image.alpha_composite(film.convert("RGBA"), layer).convert("RGB")
    expected = np.asarray(overlay(film, heat, 1.0), dtype=int)
    assert np.abs(np.asarray(drawn, dtype=int) - expected).max() <= 3
    assert "raised the score" in page and page.count("rgb(") == 13
    assert "No place of this film raised the score" in heat_html(np.zeros((8, 8)))


def test_a_large_film_is_sent_smaller_and_says_so() -> None:
    film = Image.fromarray(np.zeros((30, 3 * LARGEST_SENT), np.uint8))
    page = viewer_html(film)
    assert "the model read the whole film" in page and f"--ratio: {3 * LARGEST_SENT / 30}" in page
    assert as_address(film, 100).startswith("data:image/png") and "the model read" not in viewer_html(
        Image.fromarray(make_film(1, False))
    )
    film.info[SHOWN_RANGE] = None
    assert "own curve" in viewer_html(film) and 'data-unit="grey levels"' in viewer_html(film)


@pytest.mark.parametrize("films", [1, 7, 234, 390])
def test_the_interval_of_a_share_is_scipys(films: int) -> None:
    for right in {0, films // 3, films}:
        expected = binomtest(right, films).proportion_ci(method="wilson")
        assert wilson(right / films, films)[1:] == pytest.approx((expected.low, expected.high), abs=1e-12)
