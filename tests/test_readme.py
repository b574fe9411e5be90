"""The README's numbers are those of the files that a command wrote."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from docs import write_recipes
from docs.write_results import END, START, table

ROOT = Path(__file__).parents[1]


def test_the_result_table_is_that_of_the_files() -> None:
    block = (ROOT / "README.md").read_text().split(START)[1].split(END)[0].strip()
    assert block == table()
    assert block.count("\n") == 4  # three seeds


def test_the_quickstart_reaches_what_it_promises_in_every_seed() -> None:
    for path in (ROOT / "docs" / "quickstart").glob("seed*.json"):
        metrics = json.loads(path.read_text())
        assert (metrics["n"], metrics["split"], metrics["dataset"]) == (624, "test", "chest_xray_sample")
        assert metrics["metrics"]["roc_auc"]["value"] >= 0.955
        assert metrics["metrics"]["roc_auc"]["value"] > max(
            floor["value"] for floor in metrics["shortcut_floors"].values()
        )


def test_the_results_page_is_written_from_the_files_of_the_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = tmp_path / "docs"
    shutil.copytree(ROOT / "docs", docs, ignore=shutil.ignore_patterns("*.png"))
    shutil.copytree(ROOT / "benchmarks" / "results", tmp_path / "benchmarks" / "results")
    monkeypatch.setattr(write_recipes, "DOCS", docs)
    monkeypatch.setattr(write_recipes, "RESULTS", docs / "results")
    monkeypatch.setattr(sys, "argv", ["write_recipes.py"])
    write_recipes.main()
    assert (docs / "RESULTS.md").read_text() == (ROOT / "docs" / "RESULTS.md").read_text()


def test_every_row_of_the_results_is_of_a_recipe_and_of_the_official_test() -> None:
    for path in (ROOT / "docs" / "results").glob("*/metrics.json"):
        name = write_recipes.family(path.parent.name)
        assert (ROOT / "configs" / f"{name}.yaml").exists() or name in write_recipes.ORDER
        metrics = json.loads(path.read_text())
        assert (metrics["n"], metrics["split"]) == (624, "test")
        floors = [floor["value"] for floor in metrics["shortcut_floors"].values()]  # evaluate has no train films
        assert metrics["metrics"]["roc_auc"]["value"] > max(floors, default=0.9)
