"""The words at the head of a report, and where heat over mistakes lies."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pneumo_hf.__main__ import main
from pneumo_hf.evaluation.verdict import verdict
from pneumo_hf.inference.explain import share_inside, shares_by_side
from tests.conftest import write_films


def measured(**more) -> dict:
    return {
        "confusion_matrix": {"tn": 149, "fp": 85, "fn": 8, "tp": 382},
        "metrics": {"specificity": {"ci95": [0.57, 0.70]}, "sensitivity": {"ci95": [0.96, 0.99]}},
        "decision_curve": {"useful": [0.2, 0.9]},
        "gaps": {},
        **more,
    }


def test_the_first_words_are_what_happens_to_films_here_and_did_on_validation() -> None:
    words = verdict(measured(), {"specificity": 0.97, "sensitivity": 0.98}, "pneumonia")
    assert words == [
        "85 of 234 normal films are flagged: specificity 0.64, 95 % 0.57 to 0.70; on validation 3 %. "
        "The threshold does not keep its specificity here.",
        "8 of 390 films of pneumonia are missed: sensitivity 0.98, 95 % 0.96 to 0.99; on validation 2 %.",
        "It is worth more than flagging every film, or none, for those who would act from a probability of pneumonia "
        "of 0.20 to 0.90.",
    ]
    alone = verdict(measured(decision_curve={"useful": None}), None, "pneumonia")
    assert "validation" not in "".join(alone) and alone[2].startswith("At no threshold probability")


def test_gaps_and_heat_are_said_where_there_are_any() -> None:
    gap = {"value": 0.21, "ci95": [0.05, 0.36], "largest": "FUJI", "least": "AGFA"}
    found = {"manufacturer": {"sensitivity": gap, "calibration_in_the_large": {**gap, "ci95": [0.0, 0.3]}}}
    heat = {"by_chance": 0.41, "mistakes": {"n": 6, "outside": 0.72, "side": "top"}}
    words = verdict(measured(gaps=found, explanation=heat), None, "pneumonia")
    assert words[3:] == [
        "Sensitivity differs by 0.21 (0.05 to 0.36) between groups by manufacturer: it is higher in FUJI than in "
        "AGFA.",
        "Of the heat over 6 of the surest mistakes 72 % lies outside the central box where the lungs are (59 % by "
        "chance), most of that at the top.",
    ]


def test_the_sides_are_all_that_lies_outside_the_box() -> None:
    maps = np.random.default_rng(0).random((3, 56, 70))
    sides = shares_by_side(maps)
    np.testing.assert_allclose(sum(sides.values()), 1 - share_inside(maps), atol=0.02)  # the box is of whole pixels
    corner = np.zeros((1, 60, 60))
    corner[0, 2:6, 20:40] = 1
    assert {side: share.tolist() for side, share in shares_by_side(corner).items()} == {
        "top": [1.0],
        "bottom": [0.0],
        "left": [0.0],
        "right": [0.0],
    }


@pytest.fixture(scope="module")
def report(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on films of which a third is labelled wrong, so that there are mistakes."""
    folder = tmp_path_factory.mktemp("mistaken")
    films = write_films(folder / "films", {"test": (30, 30)})
    for path in sorted((films / "test" / "PNEUMONIA").iterdir())[:10]:
        path.rename(films / "test" / "NORMAL" / path.name)
    options = ["--output_dir", str(folder / "report"), "--cache_dir", str(folder / "cache")]
    main(["evaluate", "--model", str(tiny_run), "--data", str(films), *options])
    return folder / "report"


def test_the_page_begins_with_the_verdict_and_shows_mistakes_large_with_their_heat(report: Path) -> None:
    metrics, page = json.loads((report / "metrics.json").read_text()), (report / "index.html").read_text()
    assert [sentence for sentence in metrics["verdict"] if sentence in page] == metrics["verdict"]
    assert page.index(metrics["verdict"][0]) < page.index('class="facts"')
    counts = metrics["confusion_matrix"]
    assert metrics["verdict"][0].startswith(
        f"{counts['fp']} of {counts['fp'] + counts['tn']} normal films are flagged"
    )
    assert "; on validation " in metrics["verdict"][0]  # which the checkpoint carries
    pictures = re.findall(r'<img src="data:image/jpeg;base64,([\w+/=]+)" width="(\d+)"', page)
    found = metrics["explanation"]["mistakes"]
    assert len(pictures) == 2 * len(found["films"]) and len(found["films"]) >= found["n"] > 3
    colours = []
    for content, width in pictures:
        picture = Image.open(io.BytesIO(base64.b64decode(content)))
        assert picture.width == int(width) >= 200
        colours.append(np.ptp(np.asarray(picture.convert("RGB")).astype(int), axis=2).max())
    colours = [
        np.ptp(np.asarray(Image.open(io.BytesIO(base64.b64decode(c))).convert("RGB")), axis=2).max()
        for c, _ in pictures
    ]
    assert max(colours[0::2]) < 10 < max(colours[1::2])  # a grey film, then the same under its heatmap
    said = re.findall(r"(\d+) % of the heat lies outside the central box", page)
    assert said == [f"{100 * film['outside']:.0f}" for film in found["films"] if film["side"]]
