"""`pneumo-hf evaluate`: the report of a checkpoint on labelled films."""

import argparse
import logging
from pathlib import Path

from pneumo_hf.commands import LABEL_MAP, SOURCES, SPLIT, add_model_arguments
from pneumo_hf.config.arguments import DataArguments

logger = logging.getLogger(__name__)

HELP = "the report of a checkpoint on labelled films"
DESCRIPTION = (
    "Score a labelled split with a checkpoint, at the threshold that it carries, and write metrics.json, predictions, "
    "figures and index.html."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_model_arguments(parser)
    parser.add_argument("--data", required=True, help=f"the films: {SOURCES}")
    parser.add_argument("--label_map", help=f"{LABEL_MAP}; of the data, and of the checkpoint")
    parser.add_argument("--split", default="test", help=SPLIT)
    parser.add_argument("--output_dir", required=True, help="where the report goes")
    parser.add_argument(
        "--robustness",
        action="store_true",
        help="also score the films darker, blurred, turned, ... at five severities: takes some 40 times as long, half "
        "of it with --backend onnx",
    )
    parser.add_argument(
        "--docx", action="store_true", help="also write the checklists as a Word file; needs python-docx"
    )
    parser.add_argument("--cache_dir", default=DataArguments.cache_dir, help="where decoded films are kept")


def run(arguments: argparse.Namespace) -> None:
    """Evaluate a checkpoint and write its report."""
    from pneumo_hf.data.labels import parse_label_map
    from pneumo_hf.data.predictions import write_csv
    from pneumo_hf.evaluation.evaluate import evaluate, summary
    from pneumo_hf.reporting.checklist_export import assert_docx
    from pneumo_hf.reporting.report import write_report
    from pneumo_hf.runtime import end_processes

    if arguments.docx:
        assert_docx()
    names = ("split", "operating_point", "flip", "robustness", "device", "backend", "cache_dir")
    options = {name: vars(arguments)[name] for name in names}
    result = evaluate(arguments.model, arguments.data, label_map=parse_label_map(arguments.label_map), **options)
    end_processes()
    if result is None:  # another process writes
        return
    folder = Path(arguments.output_dir)
    write_report(folder, result, docx=arguments.docx)
    write_csv(folder / "rejected.csv", ("path", "reason"), result.rejected)
    for line in summary(result):
        logger.info("%s", line)
    logger.info("the report: %s", folder / "index.html")
