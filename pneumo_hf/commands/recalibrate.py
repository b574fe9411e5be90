"""`pneumo-hf recalibrate`: a checkpoint's scores and thresholds fitted to another hospital's films."""

import argparse
import logging
from pathlib import Path

from pneumo_hf.commands import LABEL_MAP, SOURCES
from pneumo_hf.config.arguments import DataArguments

logger = logging.getLogger(__name__)

HELP = "fit the scores and thresholds of a checkpoint to another hospital's films"
DESCRIPTION = (
    "Fit level and slope of a checkpoint's scores, its thresholds and its limits to some labelled films of another "
    "hospital, without training. Writes a checkpoint that is stock as before, and in report/ a page of before and "
    "after, cross-fitted by patient, and of how many films it takes."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--model", required=True, action="append", metavar="CKPT", help="a run folder, or a Hub id")
    parser.add_argument("--data", required=True, help=f"the hospital's labelled films: {SOURCES}")
    parser.add_argument("--label_map", help=f"{LABEL_MAP}; of the data, and of the checkpoint")
    parser.add_argument("--split", help="train, validation or test (default: all films of the data)")
    parser.add_argument("--output_dir", required=True, help="where the new checkpoint goes")
    parser.add_argument(
        "--report_only",
        action="store_true",
        help="measure, and write no checkpoint: also of fewer films than a checkpoint needs",
    )
    parser.add_argument("--device", help="of torch: cpu, cuda, ... (default: the GPU where there is one)")
    parser.add_argument("--cache_dir", default=DataArguments.cache_dir, help="where decoded films are kept")


def run(arguments: argparse.Namespace) -> None:
    """Recalibrate a checkpoint and write it."""
    from pneumo_hf.data.labels import parse_label_map
    from pneumo_hf.errors import InputError
    from pneumo_hf.evaluation.recalibration import recalibrate
    from pneumo_hf.reporting.recalibration import summary, write_recalibration

    if len(arguments.model) > 1:
        raise InputError("recalibrate takes one checkpoint: distil an ensemble first (configs/distill.yaml)")
    names = ("split", "report_only", "device", "cache_dir")
    options = {name: vars(arguments)[name] for name in names}
    result = recalibrate(arguments.model[0], arguments.data, label_map=parse_label_map(arguments.label_map), **options)
    folder = Path(arguments.output_dir)
    write_recalibration(folder, result)
    for line in summary(result.report):
        logger.info("%s", line)
    logger.info("the page: %s", folder / "report" / "index.html")
