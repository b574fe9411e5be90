"""Write the README's result table from docs/quickstart/seed*.json, the metrics.json of the quickstart's seeds."""

import json
from pathlib import Path

ROOT = Path(__file__).parents[1]
START, END = "<!-- results -->", "<!-- end of results -->"
COLUMNS = {"roc_auc": "ROC AUC", "sensitivity": "sensitivity", "specificity": "specificity", "accuracy": "accuracy"}


def table() -> str:
    """A row a seed, each figure with its 95 % interval."""
    lines = [f"| seed | {' | '.join(COLUMNS.values())} | ECE |", "| --- " * (len(COLUMNS) + 2) + "|"]
    for path in sorted((ROOT / "docs" / "quickstart").glob("seed*.json"), key=lambda path: int(path.stem[4:])):
        metrics = json.loads(path.read_text())["metrics"]
        cells = ["{value:.3f} [{0:.3f}, {1:.3f}]".format(*m["ci95"], **m) for m in map(metrics.get, (*COLUMNS, "ece"))]
        lines.append(f"| {path.stem[4:]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    readme = ROOT / "README.md"
    before, rest = readme.read_text().split(START)
    readme.write_text(f"{before}{START}\n{table()}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
