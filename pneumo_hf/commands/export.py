"""`pneumo-hf export`: the checkpoint as ONNX."""

import argparse
import logging
from pathlib import Path

from pneumo_hf.commands import SOURCES, SPLIT
from pneumo_hf.config.arguments import DataArguments

logger = logging.getLogger(__name__)

HELP = "the checkpoint as ONNX"
DESCRIPTION = (
    "Write onnx/model.onnx and the checkpoint's files beside it, for ONNX Runtime, transformers.js, and --backend "
    "onnx. It is kept only if its probabilities are the checkpoint's to 1e-4 on every film."
)
SAMPLE = Path(__file__).parents[2] / "data" / "chest_xray_sample"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--model", required=True, metavar="CKPT", help="a run folder of train_hf.py, or a Hub id")
    parser.add_argument("--output_dir", required=True, help="where it goes; the run folder itself will do")
    parser.add_argument(
        "--data",
        default=str(SAMPLE),
        help=f"the films it must agree on: {SOURCES} (default: the embedded sample; 624 films, a minute)",
    )
    parser.add_argument("--split", default="test", help=SPLIT)
    parser.add_argument("--cache_dir", default=DataArguments.cache_dir, help="where decoded films are kept")


def run(arguments: argparse.Namespace) -> None:
    """Export a checkpoint, if it agrees."""
    from pneumo_hf.hub.export import AGREEMENT, export_and_check

    folder = Path(arguments.output_dir)
    difference, films = export_and_check(arguments.model, folder, arguments.data, arguments.split, arguments.cache_dir)
    logger.info(
        "%s: probabilities differ by at most %.1e on %d films (allowed: %.0e)",
        folder / "onnx" / "model.onnx",
        difference,
        films,
        AGREEMENT,
    )
