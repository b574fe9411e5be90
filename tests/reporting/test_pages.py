"""What pages say first, their contents, and names on a ROC curve that can be read."""

import re
from itertools import combinations

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from pneumo_hf.reporting.comparison import conclusions
from pneumo_hf.reporting.findings import audit_findings, report_findings, shortcut_level
from pneumo_hf.reporting.page import low_end, with_contents
from pneumo_hf.reporting.plots import name_points


def floor(value: float, margin: float = 0.03) -> dict:
    return {"value": value, "ci95": [value - margin, value + margin]}


def audit(**changes) -> dict:
    """What `audit.json` holds of a set without a fault."""
    copies = {"conflicting_labels": 0, "spare_films": 0, "pairs": 0}
    clean = {
        "duplicates": {"exact": copies, "near": copies},
        "leakage": {"patients": [], "exact": [], "near": []},
        "shortcut_floors": {"file_size": floor(0.5), "corners": floor(0.52)},
        "label_doubts": {"films": 100, "doubted": 0},
    }
    return clean | {"unreadable": [], "wrong_extension": [], "looks_inverted": []} | changes


def test_a_clean_set_has_no_finding() -> None:
    assert {level for level, _ in audit_findings(audit())} == {"good"}


def test_a_file_size_that_shows_the_labels_is_a_finding_and_stands_first() -> None:
    floors = {"corners": floor(0.6), "file_size": floor(0.85), "width": floor(0.5)}
    found = audit_findings(audit(shortcut_floors=floors, unreadable=[{"path": "a.png", "reason": "empty file"}]))
    assert found[0] == (
        "alarm",
        "Without seeing a lung, by file size alone, a regression reaches a ROC AUC of 0.85 (0.82 to 0.88); "
        "by corners 0.60. A score may rest on how a film was taken.",
    )
    assert ("warn", "1 file is unreadable.") in found and [level for level, _ in found] == ["alarm", "warn", "good"]
    assert [shortcut_level(floors[name]) for name in floors] == ["warn", "alarm", ""]


def test_leaks_are_counted_first_and_doubts_are_notes() -> None:
    leakage = {"patients": ["7"], "exact": [["a", "b"]], "near": [["c", "d"]]}
    found = audit_findings(audit(leakage=leakage, label_doubts={"films": 1000, "doubted": 22}))
    assert found[0][0] == "alarm" and "1 patient and 2 pairs of the same film" in found[0][1]
    assert ("note", "22 labels of 1,000 (2.2 %) are doubted: look at these films.") in found


@pytest.mark.parametrize(("area", "level"), [(0.99, "alarm"), (0.84, "alarm")])
def test_a_model_that_is_no_better_than_a_shortcut_is_said_to_be(area: float, level: str) -> None:
    metrics = {
        "verdict": ["3 of 90 normal films are flagged: specificity 0.97.", "Sensitivity differs by 0.20 between"],
        "metrics": {"roc_auc": floor(area, 0.01)},
        "shortcut_floors": {"border_ring": floor(0.85), "corners": {"value": None, "ci95": [None, None]}},
        "n_patients": 8,
    }
    found = report_findings(metrics, unreadable=2)
    assert found[0] == ("", metrics["verdict"][0]) and found[2] == ("warn", metrics["verdict"][1])
    assert found[1][0] == level and ("not shown to be better" in found[1][1]) == (area < 0.85)
    assert [words for _, words in found[3:]] == [
        "8 patients are few: the intervals are too narrow.",
        "2 films could not be read.",
    ]


def test_of_runs_it_is_said_which_differ() -> None:
    runs = {
        "best": {"metrics": {"roc_auc": floor(0.95)}},
        "worse": {"metrics": {"roc_auc": floor(0.7)}, "delong": {"p": 0.001}},
        "alike": {"metrics": {"roc_auc": floor(0.94)}, "delong": {"p": 0.03}},
    }
    found = conclusions({"runs": runs, "reference": "best"})
    assert found[1] == ("note", "Shown to be below it (p < 0.025): worse.")
    assert found[2] == ("warn", "1 of 2 others are not shown to differ from it.")


def test_contents_list_every_heading_and_tables_scroll_by_themselves() -> None:
    page = "<!-- contents --><h2>Every metric</h2><table></table><h2>A &amp; b</h2><h2>Figures</h2>"
    made = with_contents(page)
    assert re.findall(r'<a href="#([\w-]+)">', made) == re.findall(r'<h2 id="([\w-]+)">', made)
    assert '<div class="scroll"><table></table></div>' in made and "contents -->" not in made
    assert "<nav" not in with_contents("<!-- contents --><h2>One</h2>")


def test_a_forest_begins_below_all_intervals() -> None:
    assert low_end([floor(0.97), {"value": None, "ci95": [None, None]}]) == 0.9
    assert low_end([floor(0.97), floor(0.55, 0.2)]) == pytest.approx(0.3)
    assert low_end([floor(-0.05)]) == pytest.approx(-0.1)


@pytest.mark.parametrize("step", [0.0, 0.004, 0.2])
def test_the_names_of_operating_points_never_overlap(step: float) -> None:
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axes = figure.subplots()
    names = ("youden", "sensitivity@0.95", "specificity@0.95", "f1", "cost@5")
    points = [
        {"name": name, "threshold": 0.5 - step * number, "specificity": 0.95 - step * number, "sensitivity": 0.99}
        for number, name in enumerate(names)
    ]
    name_points(axes, [*points, {"name": "none", "threshold": 1, "specificity": None, "sensitivity": None}])
    axes.set(xlim=(-0.05, 1.05), ylim=(-0.05, 1.05))
    FigureCanvasAgg(figure).draw()
    boxes = [Text.get_window_extent(text) for text in axes.texts]  # without the line to the point
    assert len(boxes) == len(names) and not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    frame = axes.get_window_extent()
    assert all(frame.contains(box.x1, box.y0) and frame.contains(box.x0, box.y1) for box in boxes)
