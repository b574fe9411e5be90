"""A file a command: its arguments, and the one call that it makes. Heavy imports wait until it runs."""

import argparse

SOURCES = (
    "a folder or zip of split/LABEL/file or LABEL/file, films beside a CSV of path and label, a folder of Parquet "
    "shards, MedMNIST's npz, kaggle:owner/name or a Hub data set id"
)
LABEL_MAP = "other names of labels: 'No Finding=NORMAL,COVID19=PNEUMONIA', or JSON"
LABELS = (
    "the labels to tell apart, as NORMAL,BACTERIA,VIRUS (which the Kermany set's file names say); films of others are "
    "left out (default: NORMAL, PNEUMONIA and what else the folders or the table name)"
)
SPLIT = "train, validation or test (default: test)"


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `evaluate` and `predict` say of the model."""
    parser.add_argument(
        "--model",
        required=True,
        action="append",
        metavar="CKPT",
        help="a run folder of train_hf.py, or a Hub id; given several times, the ensemble of them (mean of the "
        "logits, temperature and threshold refitted on their common validation films)",
    )
    parser.add_argument(
        "--operating_point",
        metavar="NAME",
        help="decide at another threshold that the checkpoint carries: youden, sensitivity@0.95, specificity@0.95, "
        "f1, cost@5 (default: the one of its recipe)",
    )
    parser.add_argument("--flip", action="store_true", help="average each film's score with its mirror image's")
    parser.add_argument("--device", help="of torch: cpu, cuda, ... (default: the GPU where there is one)")
    parser.add_argument(
        "--backend",
        choices=("torch", "onnx"),
        default="torch",
        help="onnx: ONNX Runtime on the CPU, by what `export` wrote; else exported at first use, and kept",
    )


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `audit` and `prepare` say of the data."""
    parser.add_argument(
        "data", nargs="+", metavar="DATA", help=f"{SOURCES}; several are merged, without their common films"
    )
    parser.add_argument("--label_map", help=LABEL_MAP)
    parser.add_argument("--labels", metavar="NORMAL,OTHER,...", help=LABELS)
    parser.add_argument(
        "--streaming", action="store_true", help="read a Hub data set film by film, not downloading it"
    )
