"""The worklist's rows, CSV and page, without a browser."""

import csv
import html
import re
from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pneumo_hf import Predictor
from pneumo_hf.app.files import download_path
from pneumo_hf.app.points import Point, own_point
from pneumo_hf.app.worklist import Worklist, opened, read_worklist
from pneumo_hf.app.worklist_films import at_another, score_worklist
from pneumo_hf.app.worklist_page import WORDS, list_html, progress_html, shown_of, write_worklist_page
from tests.conftest import make_film
from tests.imaging.test_dicom import dicom

ROOT = Path(__file__).parents[2]
EVIL = '<img src=x onerror=alert(1)>".png'


@pytest.fixture(scope="module")
def predictor(tiny_run: Path) -> Predictor:
    return Predictor(tiny_run, device="cpu")


@pytest.fixture(scope="module")
def shipped() -> Predictor:
    return Predictor(ROOT / "models" / "pneumo-efficientnet", device="cpu")


@pytest.fixture(scope="module")
def paths(films_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("sent")
    colours = np.zeros((120, 120, 3), np.uint8)
    colours[..., 0], colours[40:80, 40:80, 1] = 200, 220
    Image.fromarray(colours).save(folder / EVIL)
    (folder / "broken.png").write_text("<html>no film</html>")
    films = [str(path) for path in sorted((films_folder / "test").rglob("*.jpeg"))[::9]]
    return [str(folder / EVIL), *films, str(folder / "broken.png")]


def test_what_is_no_chest_film_has_no_score_and_comes_last(predictor: Predictor, paths: list[str]) -> None:
    table, gallery, written = read_worklist(predictor, paths)
    assert len(table) == len(paths) and len(gallery) == len(paths) - 1
    assert table[-1] == [EVIL, "", "", "not_chest_xray", "a colour picture"]
    with open(written, newline="") as file:
        rows = list(csv.DictReader(file))
    last = rows[-1]
    assert (last["path"], last["probability"], last["prediction"], last["flag"]) == (EVIL, "", "", "not_chest_xray")
    ranks = [
        ("review", "abstain", "unreadable", "").index("unreadable" if not row["probability"] else row["flag"])
        for row in rows[:-1]
    ]
    assert ranks == sorted(ranks) and len(set(ranks)) >= 3
    assert predictor([paths[0]])[0]["probability"] is not None  # `predict` gives it, for it can be watched


def test_answers_come_as_they_are_read(predictor: Predictor, paths: list[str]) -> None:
    found = list(score_worklist(predictor, paths * 3))
    assert [len(one.answers) for one in found] == [*range(0, 3 * len(paths), 16), 3 * len(paths)]
    assert {one.total for one in found} == {3 * len(paths)} and not list(score_worklist(predictor, []))


def test_a_name_is_no_markup(predictor: Predictor, paths: list[str]) -> None:
    answers = list(score_worklist(predictor, paths))[-1].answers
    shown, page = list_html(answers, predictor.settings.threshold), download_path("page.html")
    write_worklist_page(
        page,
        predictor,
        predictor.settings.method,
        answers,
        [(Image.new("L", (8, 8)), answer) for answer in answers[:2]],
        2,
    )
    for text in (shown, page.read_text()):
        assert "<img src=x" not in text and "&lt;img src=x" in text
    assert shown.count("<tr data-film") == len(paths)


def test_the_zip_and_folder_of_all_films_stand_in_no_row(predictor: Predictor, paths: list[str]) -> None:
    answers = list(score_worklist(predictor, paths))[-1].answers
    zipped = [answer | {"name": f"ward.zip: {answer['name']}"} for answer in answers]
    assert "ward.zip" not in list_html(zipped, predictor.settings.threshold)
    in_folder = [answer | {"name": f"ward.zip: monday/{7 * place}.png"} for place, answer in enumerate(answers)]
    shown = list_html(in_folder, predictor.settings.threshold)
    assert "monday" not in shown and 'title="0.png"' in shown
    hidden = re.findall(r'data-name="(\d+).png"', list_html(in_folder[::-1], 0.5, hidden=True))
    assert len(hidden[-1]) > 1 and hidden == sorted(hidden, key=int)  # 7 before 14
    assert (
        "Flagged from 58.0% up, no answer from 8.0%. Not recognised as chest films: 1, last in the list"
        in list_html(zipped, 0.58, (0.08, 0.58))
    )
    assert "ward.zip" in list_html([*zipped, answers[0] | {"name": "other.zip: film.png"}], 0.5)


def test_hidden_answers_are_not_in_the_list(predictor: Predictor, paths: list[str]) -> None:
    answers, own = list(score_worklist(predictor, paths))[-1].answers, predictor.settings.method
    for hidden in (False, True):
        worklist = Worklist(predictor)
        decided = worklist.decide(answers, own)[0]
        listed = worklist.relist(decided, hidden, None)
        named = re.findall(r'data-film="(\d+)" data-name="([^"]*)"', listed)
        assert {int(number): html.unescape(name) for number, name in named} == {
            answer["number"]: answer["name"] for answer in decided
        }
        names = [name for _, name in named]
        assert (names == sorted(names, key=str.lower)) == hidden
        for kept_back in ("%", "chip", "data-score", "data-place", 'data-kind="review"', answers[-1]["error"]):
            assert (kept_back in listed) != hidden
    scored = next(answer for answer in answers if answer["kind"] == "review")
    film, said = opened(predictor, None, scored, predictor.settings.threshold, hidden=True)
    assert "stage" in film and said.index('<details class="answer">') < said.index("Flagged for review")


def test_another_threshold_decides_the_same_scores_again(predictor: Predictor, paths: list[str]) -> None:
    answers, flagged = list(score_worklist(predictor, paths))[-1].answers, []
    for threshold in (0.0, 0.5, 1.0):
        decided = at_another(predictor, answers, threshold)
        scored = [row for row in decided if row["kind"] in ("review", "clear")]
        assert all((row["probability"] >= threshold) == (row["kind"] == "review") for row in scored)
        assert decided[-1]["kind"] == "not_chest_xray"  # what is no chest film stays so
        before, after = ({row["name"]: row["probability"] for row in rows} for rows in (answers, decided))
        assert before == after
        flagged.append(sum(row["kind"] == "review" for row in decided))
    assert flagged[0] >= flagged[1] >= flagged[2] and flagged[0] > flagged[2]
    own = predictor.settings.threshold
    assert at_another(predictor, answers, own) == [answer | {"threshold": own} for answer in answers]


def test_the_tab_decides_by_the_point_that_is_chosen(predictor: Predictor, paths: list[str]) -> None:
    answers, worklist = list(score_worklist(predictor, paths))[-1].answers, Worklist(predictor)
    threshold = 0.0
    worklist.predictor = replaced = copy(predictor)
    other = {"name": "by_hand", "threshold": threshold, "sensitivity": None, "specificity": None}
    replaced.settings = replace(predictor.settings, operating_points=[*predictor.settings.operating_points, other])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pneumo_hf.app.worklist_page.offered", lambda _: [Point("by_hand", "By hand", threshold)])
        decided, *_, table, page = worklist.decide(answers, "by_hand")
        listed = worklist.relist(decided, False, None)
    assert decided == at_another(predictor, answers, threshold) and f"Flagged from {threshold:.1%} up" in listed
    assert [row["kind"] for row in decided] != [row["kind"] for row in answers]
    with open(table.value["path"], newline="") as file:
        rows = list(csv.DictReader(file))
    assert {float(row["threshold"]) for row in rows} == {threshold}
    assert [row["decision"] for row in rows] == [WORDS[answer["kind"]] for answer in decided]
    scored = {row["path"]: row["probability"] for row in rows if row["probability"]}
    assert scored == {row["name"]: str(row["probability"]) for row in decided if row["name"] in scored}  # unrounded
    unanswered = shown_of(answers[0] | {"kind": "abstain"})
    assert answers[0]["prediction"] and unanswered["prediction"] is None and unanswered["probability"]
    assert f"{threshold:.1%}" in Path(page.value["path"]).read_text()


def test_the_open_film_is_decided_again_and_its_row_stays_marked(predictor: Predictor, paths: list[str]) -> None:
    answers, worklist = list(score_worklist(predictor, paths))[-1].answers, Worklist(predictor)
    current = next(answer for answer in answers if answer["kind"] in ("review", "abstain", "clear"))
    own = own_point(predictor.settings).name
    decided = worklist.decide(answers, own)[0]
    listed = worklist.relist(decided, False, current)
    again, said = worklist.say(decided, False, current)
    assert again["name"] == current["name"] and again["threshold"] == predictor.settings.thresholds[own]
    assert current["name"] in said and f"{again['threshold']:.1%}" in said
    assert re.findall(r'data-film="(\d+)"[^>]*aria-current', listed) == [str(current["number"])]
    assert isinstance(worklist.say(decided, False, again)[1], dict)  # gradio's "leave it": it is said already
    folded = worklist.say(decided, True, again)
    assert folded[0]["hidden"] and '<details class="answer">' in folded[1]
    assert worklist.say([], False, current)[0] is None  # of a list that is no longer there


def test_a_patient_of_another_age_is_marked_in_list_table_and_page(shipped: Predictor, tmp_path: Path) -> None:
    stored = make_film(3, pneumonia=True, size=(300, 260)).astype(np.uint16) * 12 + 300
    for name, age in (("adult.dcm", "062Y"), ("child.dcm", "003Y")):
        (tmp_path / name).write_bytes(dicom(stored, bits=12, PatientAge=age))
    answers = list(score_worklist(shipped, [str(tmp_path / name) for name in ("adult.dcm", "child.dcm")]))[-1].answers
    assert {answer["name"]: answer.get("note", "") for answer in answers} == {
        "adult.dcm": "Patient of 62 years.",
        "child.dcm": "",
    }
    worklist = Worklist(shipped)
    decided, *_, table, page = worklist.decide(answers, shipped.settings.method)
    listed = worklist.relist(decided, False, None)
    for text in (listed, Path(table.value["path"]).read_text(), Path(page.value["path"]).read_text()):
        assert 1 <= text.count("Patient of 62 years.") <= 2  # the page may show the film too
    adult = next(answer for answer in answers if answer["name"] == "adult.dcm") | {"flag": "review", "error": ""}
    assert "trained on children" in opened(shipped, None, adult | {"kind": "review"}, 0.5)[1]


def test_a_film_that_is_gone_is_said_to_be(predictor: Predictor, paths: list[str]) -> None:
    answers = list(score_worklist(predictor, paths[1:3]))[-1].answers
    film, verdict = opened(predictor, None, answers[0], 0.5)
    assert 'src="data:image' in film and "Probability" in verdict
    gone = answers[0] | {"image": {"bytes": None, "path": "/nowhere/film.png"}}
    assert "deleted after an hour" in opened(predictor, None, gone, 0.5)[0]


def test_the_time_left_follows_from_the_time_taken() -> None:
    assert "48 of 200, about 38 s left" in progress_html(48, 200, 12.0)
    assert "about 30 min left" in progress_html(20, 200, 200.0)
    assert "left" not in progress_html(0, 200, 5.0) and "200 films in 3 min" in progress_html(200, 200, 170.0)
