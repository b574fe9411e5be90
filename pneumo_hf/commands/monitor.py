"""`pneumo-hf monitor`: whether films in use are still like those that a model was chosen on."""

import argparse
import logging
import sys
from pathlib import Path

logger = logging.getLogger(__name__)

HELP = "watch scores and films over weeks; exit code 3 on an alarm"
DESCRIPTION = (
    "Set weeks or other batches of films, each a CSV of `predict --details`, the newest last, beside a reference. "
    "Watched are scores, flags, the distance from the films of training, what the films look like, and DICOM headers, "
    "of each batch and of the last four together. Writes monitor.json and index.html. Exit code 3: the newest batch "
    "is out of its limits; 0: it is within them; 2: bad input."
)
ALARM = 3  # exit code


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("batches", nargs="+", metavar="CSV", help="of `predict --details`, a batch each, newest last")
    parser.add_argument(
        "--reference",
        required=True,
        metavar="RUN",
        help="a run folder of train_hf.py, whose validation films count, a report of evaluate, or a CSV of predict "
        "--details with calm films of your own",
    )
    parser.add_argument("--output_dir", required=True, help="where monitor.json and the page go")
    parser.add_argument(
        "--false_alarms",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="of calm batches that may raise an alarm, by all statistics together (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Judge the batches, write the page, and end with exit code 3 on an alarm."""
    from pneumo_hf.evaluation.monitoring import monitor
    from pneumo_hf.reporting.monitoring import write_monitor

    folder = Path(arguments.output_dir)
    result = monitor(arguments.batches, arguments.reference, arguments.false_alarms)
    write_monitor(folder, result)
    print(result["message"])
    logger.info("the page: %s", folder / "index.html")
    if result["alarm"]:
        sys.exit(ALARM)
