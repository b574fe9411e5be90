"""The README's numbers are those of the files that a command wrote."""

import json
from pathlib import Path

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
