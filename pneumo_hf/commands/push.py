"""`pneumo-hf push`: a finished run to the Hub, and a Space that serves it."""

import argparse
import logging
from pathlib import Path

logger = logging.getLogger(__name__)

HELP = "a finished run to the Hub, and a Space that serves it"
DESCRIPTION = (
    "Upload checkpoint, card, recipe and report in one commit. Pickles, training state, local paths and names of "
    "films or patients are looked for first, and refused; predictions stay at home. Needs a token that may write: `hf "
    "auth login`, or HF_TOKEN."
)
ROOT = Path(__file__).parents[2]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--model", required=True, metavar="RUN", help="a run folder of train_hf.py")
    parser.add_argument("--repo_id", required=True, metavar="OWNER/NAME", help="the model repository, made if need be")
    parser.add_argument(
        "--private", action="store_true", help="what this makes is private; what is there already stays as it is"
    )
    parser.add_argument(
        "--space", metavar="OWNER/NAME", help="also make or update a Space that serves it, on a free CPU"
    )
    parser.add_argument(
        "--films_are_public",
        action="store_true",
        help="anyone may see the films: upload the pictures that show them (by itself only of the Kermany set's)",
    )
    parser.add_argument(
        "--endpoint",
        action="store_true",
        help="add the handler and the package, by which an Inference Endpoint reads DICOM, decides and abstains",
    )
    parser.add_argument("--zero_gpu", action="store_true", help="ask for ZeroGPU for the Space")


def run(arguments: argparse.Namespace) -> None:
    """Push a run."""
    from pneumo_hf.hub.push import push

    model, hardware = Path(arguments.model), "zero-a10g" if arguments.zero_gpu else None
    addresses = push(
        model,
        arguments.repo_id,
        arguments.private,
        ROOT,
        arguments.space,
        hardware,
        arguments.films_are_public,
        arguments.endpoint,
    )
    for address in addresses:
        logger.info("pushed to %s", address)
