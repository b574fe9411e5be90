"""The checklists by number, answered from a run's own files, and their files for a supplement."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from docx import Document

from pneumo_hf.evaluation.metrics import confusion, metrics_with_intervals
from pneumo_hf.evaluation.sample_size import films_needed, sample_sizes
from pneumo_hf.labels import Task
from pneumo_hf.reporting.checklist import CHECKLISTS, PERSON, checklists
from pneumo_hf.reporting.checklist_export import write_docx, write_markdown

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "models" / "pneumo-efficientnet"
LETTERS = {
    3: "abc",
    5: "ab",
    6: "abc",
    8: "abc",
    9: "abc",
    12: "abcdefg",
    18: "abcdef",
    20: "abc",
    23: "ab",
    27: "abc",
}


def of_run(run: Path) -> dict:
    metrics, config = (
        json.loads((run / "report" / "metrics.json").read_text()),
        json.loads((run / "config.json").read_text()),
    )
    return checklists(metrics, config, 3, Task.of(list(config["id2label"].values())))


def answers(found: dict, name: str) -> dict[str, str]:
    return {number: answer for number, _, answer in found[name]}


def test_every_item_is_there_by_its_number_and_in_order() -> None:
    assert [number for number, _, _ in CHECKLISTS["CLAIM 2024"]] == [str(number) for number in range(1, 45)]
    expected = [f"{number}{letter}" for number in range(1, 28) for letter in LETTERS.get(number, [""])]
    assert [number for number, _, _ in CHECKLISTS["TRIPOD+AI"]] == expected and len(expected) == 52


@pytest.mark.parametrize("which", ["a run of today", "a report of an earlier version"])
def test_each_is_answered_from_the_runs_files_or_left_to_a_person(which: str, tiny_run: Path) -> None:
    run = tiny_run if which == "a run of today" else SHIPPED
    metrics, found = json.loads((run / "report" / "metrics.json").read_text()), of_run(run)
    assert {name: len(items) for name, items in found.items()} == {"CLAIM 2024": 44, "TRIPOD+AI": 52}
    claim, tripod = answers(found, "CLAIM 2024"), answers(found, "TRIPOD+AI")
    assert all(answer.strip() for answer in (*claim.values(), *tripod.values()))
    assert not re.search(r"\bnan\b|None\b(?! was)|\{", " ".join((*claim.values(), *tripod.values())))
    for number in ("1", "2", "4", "11", "34", "41", "42", "44"):  # title, ethics and money are nobody's measurement
        assert claim[number] == PERSON
    assert all(tripod[number] == PERSON for number in ("3c", "17", "18a", "18d", "19", "25", "27c"))
    area = metrics["metrics"]["roc_auc"]
    assert f"ROC AUC {area['value']:.3f} ({area['ci95'][0]:.3f} to {area['ci95'][1]:.3f})" in claim["37"]
    assert (
        claim["37"] == tripod["23a"] and f"sensitivity {metrics['metrics']['sensitivity']['value']:.3f}" in claim["38"]
    )
    assert claim["35"].startswith(f"{metrics['n'] + 3} films found, 3 not readable, {metrics['n']} of")
    counts = metrics["confusion_matrix"]
    assert claim["39"].startswith(
        f"{counts['fp']} normal films were flagged and {counts['fn']} with the finding missed"
    )
    assert f"torch {metrics['versions']['torch']}" in claim["23"] and "recipe.yaml" in claim["25"]
    answered = sum(PERSON not in answer for answer in claim.values())
    assert answered >= 20


def test_what_was_not_measured_is_not_claimed(tiny_run: Path) -> None:
    claim = answers(of_run(tiny_run), "CLAIM 2024")
    assert claim["30"] == claim["33"] == PERSON and "Not measured on films of another hospital" in claim["40"]


def test_the_checklists_say_the_same_number_of_films_as_a_recalibration() -> None:
    """Of the same 600 films, in pairs of a patient, whose cases are all found and whose normal films mostly are."""
    labels, patients = np.arange(600) % 300 // 200, np.arange(600) % 300
    probs = np.where(labels == 1, 0.9, np.where(patients % 11, 0.1, 0.8))
    metrics = metrics_with_intervals(labels, probs, 0.5, patients)
    found = sample_sizes({"metrics": metrics, "n": 600, "confusion_matrix": confusion(labels, probs >= 0.5)})
    values, effects = zip(*[(metrics[name]["value"], metrics[name]["design_effect"]) for name in found], strict=True)
    assert values[0] == 1 and effects == (1, pytest.approx(2, abs=0.02))
    enough = films_needed(labels.mean(), *values, effects)["for_margin"]
    for name, part in (("sensitivity", 1 / 3), ("specificity", 2 / 3)):
        assert found[name]["needed_in_all"] == enough[name] == pytest.approx(found[name]["needed"] / part, abs=2)
    low, high = metrics["specificity"]["ci95"]
    assert found["specificity"]["half_width"] == (high - low) / 2 and found["specificity"]["films"] == 400


def test_the_files_hold_every_answer(tiny_run: Path, tmp_path: Path) -> None:
    found = of_run(tiny_run)
    write_markdown(tmp_path / "checklist.md", found, "A title")
    write_docx(tmp_path / "checklist.docx", found, "A title")
    text = (tmp_path / "checklist.md").read_text()
    tables = Document(str(tmp_path / "checklist.docx")).tables
    for (name, items), table in zip(found.items(), tables, strict=True):
        assert f"## {name}" in text
        rows = [tuple(cell.text for cell in row.cells) for row in table.rows]
        assert rows[1:] == [tuple(item) for item in items]
        assert all(f"| {number} | {asked} | {answer.replace('|', '/')} |" in text for number, asked, answer in items)
    page = (tiny_run / "report" / "index.html").read_text()
    assert "<summary>CLAIM 2024</summary>" in page and "<tr><td>27c<td>" in page
    assert (tiny_run / "report" / "checklist.md").read_text().count("\n| ") == 44 + 52 + 4
