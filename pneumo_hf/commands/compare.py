"""`pneumo-hf compare`: one table of several runs on the same films."""

import argparse
import logging
from pathlib import Path

logger = logging.getLogger(__name__)

HELP = "one table of several runs on the same films, with paired tests"
DESCRIPTION = (
    "Set runs on the same films side by side: figures with intervals, DeLong's test for the ROC areas and McNemar's "
    "for the decisions against the best run, and the shortcut baselines as the last rows. Writes compare.json, "
    "compare.md, forest.png, decision_curves.png and index.html."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders of train_hf.py, or reports of evaluate")
    parser.add_argument("--output_dir", required=True, help="where the comparison goes")


def run(arguments: argparse.Namespace) -> None:
    """Compare runs and write the page."""
    from pneumo_hf.evaluation.compare import compare
    from pneumo_hf.reporting.comparison import write_comparison

    folder = Path(arguments.output_dir)
    print(write_comparison(folder, compare(arguments.runs)))
    logger.info("the page: %s", folder / "index.html")
