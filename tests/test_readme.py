"""The generated pages hold the numbers of the files that a command wrote."""

import json
import shutil
from pathlib import Path

import pytest
from sklearn.metrics import roc_auc_score

from docs import build

ROOT = Path(__file__).parents[1]


def test_the_quickstarts_table_is_that_of_the_files() -> None:
    block = build.block(ROOT / "docs" / "training.md", "results")
    assert block == build.quickstart_table()
    assert block.count("\n") == 4  # three seeds


def test_the_table_of_recalibration_is_that_of_the_file() -> None:
    block = build.block(ROOT / "docs" / "evaluation.md", "recalibration")
    assert block == build.recalibration_table()
    kept = json.loads((ROOT / "docs" / "recalibration.json").read_text())
    official, elsewhere = kept["official"], kept["external"]["metrics"]["ece"]
    again = build.official_test_in_parts(official["patients"], official["draws"])
    for name in official.keys() - {"patients", "draws"}:
        assert official[name]["mean"] == pytest.approx(again[name]["mean"], rel=0.01)
    assert elsewhere["after"]["value"] < elsewhere["before"]["value"]
    assert official["ece after"]["mean"] < official["ece before"]["mean"]
    assert official["ece after"]["mean"] < 1.25 * official["ece calibrated"]["mean"]


def test_the_quickstart_reaches_what_it_promises_in_every_seed() -> None:
    for metrics in json.loads((ROOT / "docs" / "quickstart.json").read_text()).values():
        assert (metrics["n"], metrics["split"], metrics["dataset"]) == (624, "test", "chest_xray_sample")
        area = metrics["metrics"]["roc_auc"]["value"]
        assert area >= 0.955
        assert area > max(baseline["value"] for baseline in metrics["shortcut_floors"].values())


def test_the_table_of_originals_is_that_of_the_file() -> None:
    block = build.block(ROOT / "docs" / "evaluation.md", "originals")
    assert block == build.originals_table() and "| copies |" in block
    assert json.loads((build.MODEL / "report" / "originals.json").read_text()) == build.originals_pair()


@pytest.mark.parametrize("page", ["results", "performance", "scaling", "data"])
def test_generated_pages_are_those_of_the_files(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docs = tmp_path / "docs"
    shutil.copytree(ROOT / "docs", docs)
    monkeypatch.setattr(build, "DOCS", docs)
    {**build.PAGES, "data": build.data_page}[page]()
    assert (docs / f"{page}.md").read_text() == (ROOT / "docs" / f"{page}.md").read_text()


def test_every_row_of_the_results_is_of_a_recipe_and_of_the_official_test() -> None:
    for run in build.kept_runs():
        name = build.family(run.name)
        assert (ROOT / "configs" / f"{name}.yaml").exists() or name in (
            "ensemble",
            "pneumo-efficientnet",
            "pneumo-efficientnet_224",
        )
        assert (run.metrics["n"], run.metrics["split"], len(run.paths)) == (624, "test", 624)
        baselines = [baseline["value"] for baseline in run.metrics["shortcut_floors"].values()]
        assert run.metrics["metrics"]["roc_auc"]["value"] > max(baselines, default=0.9)
        assert roc_auc_score(run.labels, run.probs) == pytest.approx(run.metrics["metrics"]["roc_auc"]["value"])


def test_what_was_tried_fits_one_table() -> None:
    assert len(build.read_rows(ROOT / "docs" / "tried.csv")) <= 25


def test_the_readme_is_a_shop_window() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 150 and max(map(len, lines)) <= 120
