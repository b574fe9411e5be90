"""`pneumo-hf audit`: what is in a data set, broken, twice, leaking, or a shortcut."""

import argparse
import logging
from pathlib import Path

from pneumo_hf.commands import add_data_arguments

logger = logging.getLogger(__name__)

HELP = "what is in a data set, broken, twice, leaking, or a shortcut"
DESCRIPTION = (
    "Read every film of a data set once and write audit.json, figures and index.html: counts, files that cannot be "
    "read, exact and near duplicates, leakage between splits, sizes, grey levels, and the shortcut baselines, the ROC "
    "AUC that a linear model reaches without the lungs."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_data_arguments(parser)
    parser.add_argument("--output_dir", required=True, help="where the audit goes")


def run(arguments: argparse.Namespace) -> None:
    """Audit a data set."""
    from pneumo_hf.data.audit import audit, summary
    from pneumo_hf.data.merge import read_for_audit
    from pneumo_hf.reporting.audit import write_audit

    data, copies, title, labels = read_for_audit(
        arguments.data, arguments.labels, arguments.label_map, arguments.streaming
    )
    found, survey = audit(data, title, labels)
    folder = Path(arguments.output_dir)
    write_audit(folder, found, survey, labels)
    for line in summary(found, len(copies)):
        logger.info("%s", line)
    logger.info("the report: %s", folder / "index.html")
