"""`pneumo-hf prepare`: any data set as Parquet shards with the films in them."""

import argparse
import logging
from pathlib import Path

from pneumo_hf.commands import add_data_arguments

logger = logging.getLogger(__name__)

HELP = "write a data set as Parquet shards with the films in them"
DESCRIPTION = (
    "Write any data set as Parquet shards with the films in them, a card and the audit's figures; films that cannot "
    "be read are left out and listed. DICOM becomes 8-bit PNG, without its header."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_data_arguments(parser)
    parser.add_argument("--output_dir", required=True, help="where the shards go; emptied of earlier ones")
    parser.add_argument(
        "--anonymize",
        action="store_true",
        help="keyed hashes for patient ids (the key stays in ~/.cache/pneumo_hf), new file names, no metadata",
    )
    parser.add_argument(
        "--drop_leaks",
        action="store_true",
        help="leave out train films whose patient, or a copy of which, validation or test has (test comes first)",
    )
    parser.add_argument("--push_to_hub", metavar="REPO_ID", help="upload the result as a Hub data set")
    parser.add_argument("--private", action="store_true", help="make that Hub data set private")


def run(arguments: argparse.Namespace) -> None:
    """Write a data set as shards, with card and audit, and on request push it."""
    from pneumo_hf.data.files import assert_apart
    from pneumo_hf.data.merge import read_for_audit
    from pneumo_hf.data.predictions import write_csv
    from pneumo_hf.data.prepare import prepare
    from pneumo_hf.hub.dataset import document, push_data

    folder = Path(arguments.output_dir)
    assert_apart(arguments.data, folder)
    data, copies, title, labels = read_for_audit(
        arguments.data, arguments.labels, arguments.label_map, arguments.streaming
    )
    rejected = copies + prepare(data, labels, folder, arguments.anonymize, arguments.drop_leaks)
    document(folder, title, labels, arguments.anonymize)
    listed = folder.with_name(f"{folder.name}.rejected.csv")  # beside the folder: it names files
    write_csv(listed, ("path", "reason"), rejected)
    logger.info("%d films left out, with reasons in %s; the data set: %s", len(rejected), listed, folder)
    if arguments.push_to_hub:
        logger.info("pushed to %s", push_data(folder, arguments.push_to_hub, arguments.private))
