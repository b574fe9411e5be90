"""The commands, `python -m pneumo_hf audit | prepare | evaluate | predict | ...`, also as `pneumo-hf`."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

if "OMP_WAIT_POLICY" not in os.environ:  # before torch: how long its threads spin for one that has lost its core
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")

from pneumo_hf import DISCLAIMER
from pneumo_hf.commands import CLASSES, audit, compare, evaluate, export, predict, prepare, push, tune
from pneumo_hf.config import DataArguments, InputError, one_line_errors

SOURCES = (
    "a folder or zip of split/LABEL/file or LABEL/file, films beside a CSV of path and label, a folder of Parquet "
    "shards, MedMNIST's npz, kaggle:owner/name or a Hub data set id"
)
LABEL_MAP = "other names of labels: 'No Finding=NORMAL,COVID19=PNEUMONIA', or JSON"


def make_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="pneumo-hf", description=f"Pneumonia or normal on chest X-rays. {DISCLAIMER}")
    commands = parser.add_subparsers(required=True, metavar="command")
    _add_data_commands(commands)
    _add_checkpoint_commands(commands)
    _add_training_commands(commands)
    _add_hub_commands(commands)
    return parser


def _add_data_commands(commands: argparse._SubParsersAction) -> None:
    sub = commands.add_parser(
        "audit",
        help="what is in a data set, broken, twice, leaking, or a give-away",
        description="Read every film of a data set once and write audit.json, figures and index.html: counts, files "
        "that cannot be read, exact and near duplicates, leakage between splits, sizes, grey levels, and the "
        "shortcut floors, the ROC AUC that a linear model reaches without the lungs.",
    )
    sub.set_defaults(run=audit)
    _add_data_arguments(sub)
    sub.add_argument("--output_dir", required=True, help="where the audit goes")

    sub = commands.add_parser(
        "prepare",
        help="write a data set as Parquet shards with the films in them",
        description="Write any data set as Parquet shards with the films in them, a card and the audit's figures; "
        "films that cannot be read are left out and listed. DICOM becomes 8-bit PNG, without its header.",
    )
    sub.set_defaults(run=prepare)
    _add_data_arguments(sub)
    sub.add_argument("--output_dir", required=True, help="where the shards go; emptied of earlier ones")
    sub.add_argument(
        "--anonymize", action="store_true",
        help="keyed hashes for patient ids (the key stays in ~/.cache/pneumo_hf), new file names, no metadata",
    )  # fmt: skip
    sub.add_argument(
        "--drop_leaks", action="store_true",
        help="leave out train films whose patient, or a copy of which, validation or test has (test comes first)",
    )  # fmt: skip
    sub.add_argument("--push_to_hub", metavar="REPO_ID", help="upload the result as a Hub data set")
    sub.add_argument("--private", action="store_true", help="make that Hub data set private")


def _add_checkpoint_commands(commands: argparse._SubParsersAction) -> None:
    sub = commands.add_parser(
        "evaluate",
        help="the report of a checkpoint on labelled films",
        description="Score a labelled split with a checkpoint, at the threshold that it carries, and write "
        "metrics.json, predictions, figures and index.html.",
    )
    sub.set_defaults(run=evaluate)
    _add_model_arguments(sub)
    sub.add_argument("--data", required=True, help=f"the films: {SOURCES}")
    sub.add_argument("--label_map", help=LABEL_MAP)
    sub.add_argument("--split", default="test", help="train, validation or test (default: test)")
    sub.add_argument("--output_dir", required=True, help="where the report goes")
    sub.add_argument(
        "--robustness", action="store_true",
        help="also score the films darker, blurred, turned, ... at five severities: takes some 40 times as long",
    )  # fmt: skip
    sub.add_argument("--cache_dir", default=DataArguments.cache_dir, help="where decoded films are kept")

    sub = commands.add_parser(
        "predict",
        help="score films to a CSV",
        description="Score films with a checkpoint: path, label (if the folder or column says it), patient_id, "
        "probability of pneumonia, prediction, flag, error. `flag` is review from the decision threshold up, abstain "
        "where neither label is sure, not_chest_xray for other pictures; `error` says what is wrong with a picture, "
        "and why a film could not be read. Killed, the same command goes on where it was; under `accelerate launch` "
        "or `torchrun` each process scores a part.",
    )
    sub.set_defaults(run=predict)
    _add_model_arguments(sub)
    sub.add_argument(
        "paths", nargs="+", metavar="PATH", help="films, folders, zips, Parquet shards, a Hub data set id"
    )
    sub.add_argument("--output", default="preds.csv", help="the CSV (default: preds.csv)")
    sub.add_argument(
        "--prevalence", type=float, metavar="SHARE",
        help="share of the films with pneumonia where these come from: the probabilities are corrected for it, by "
        "Bayes; the decisions stay",
    )  # fmt: skip
    sub.add_argument(
        "--calibration", choices=("temperature", "isotonic"), default="temperature",
        help="isotonic: map the scores by isotonic regression on the validation predictions beside the checkpoint; "
        "the decisions stay (default: temperature, folded into the weights)",
    )  # fmt: skip


def _add_training_commands(commands: argparse._SubParsersAction) -> None:
    sub = commands.add_parser(
        "compare",
        help="one table of several runs on the same films, with paired tests",
        description="Set runs on the same films side by side: figures with intervals, DeLong's test for the ROC areas "
        "and McNemar's for the decisions against the best run, and the shortcut floors as the last rows. Writes "
        "compare.json, compare.md, forest.png and index.html.",
    )
    sub.set_defaults(run=compare)
    sub.add_argument("runs", nargs="+", metavar="RUN", help="run folders of train_hf.py, or reports of evaluate")
    sub.add_argument("--output_dir", required=True, help="where the comparison goes")

    sub = commands.add_parser(
        "tune",
        help="search the learning rate of a recipe on validation",
        usage="pneumo-hf tune --config configs/X.yaml [--trials 20] [--field value ...]",
        description="Fine-tune a recipe at several learning rates, from the same probe, and tell which gave the best "
        "metric_for_best_model on validation: tune.json in the recipe's output_dir, beside tune.db, from which a "
        "killed search goes on. Every field of train_hf.py is accepted. Needs optuna.",
    )
    sub.set_defaults(run=tune)
    sub.add_argument("--trials", type=int, default=20, help="finished trials to end at (default: 20)")


def _add_hub_commands(commands: argparse._SubParsersAction) -> None:
    sub = commands.add_parser(
        "export",
        help="the checkpoint as ONNX",
        description="Write onnx/model.onnx and the checkpoint's files beside it, for ONNX Runtime, transformers.js, "
        "and --backend onnx. It is kept only if its probabilities are the checkpoint's to 1e-4 on every film.",
    )
    sub.set_defaults(run=export)
    sub.add_argument("--model", required=True, metavar="CKPT", help="a run folder of train_hf.py, or a Hub id")
    sub.add_argument("--output_dir", required=True, help="where it goes; the run folder itself will do")
    sample = Path(__file__).parents[1] / "data" / "chest_xray_sample"
    sub.add_argument(
        "--data",
        default=str(sample),
        help=f"the films it must agree on: {SOURCES} (default: the embedded sample; 624 films, a minute)",
    )
    sub.add_argument("--split", default="test", help="train, validation or test (default: test)")
    sub.add_argument("--cache_dir", default=DataArguments.cache_dir, help="where decoded films are kept")

    sub = commands.add_parser(
        "push",
        help="a finished run to the Hub, and a Space that serves it",
        description="Upload checkpoint, card, recipe and report in one commit. Pickles, training state, local paths "
        "and names of films or patients are looked for first, and refused; predictions stay at home. Needs a token "
        "that may write: `hf auth login`, or HF_TOKEN.",
    )
    sub.set_defaults(run=push)
    sub.add_argument("--model", required=True, metavar="RUN", help="a run folder of train_hf.py")
    sub.add_argument("--repo_id", required=True, metavar="OWNER/NAME", help="the model repository, made if need be")
    sub.add_argument("--private", action="store_true", help="what is made anew is private")
    sub.add_argument("--space", metavar="OWNER/NAME", help="also make or update a Space that serves it, on a free CPU")
    sub.add_argument("--zero_gpu", action="store_true", help="ask for ZeroGPU for the Space")


def _add_model_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--model", required=True, action="append", metavar="CKPT",
        help="a run folder of train_hf.py, or a Hub id; given several times, the ensemble of them (mean of the "
        "logits, temperature and threshold refitted on their common validation films)",
    )  # fmt: skip
    sub.add_argument(
        "--operating_point", metavar="NAME",
        help="decide at another threshold that the checkpoint carries: youden, sensitivity@0.95, specificity@0.95, "
        "f1, cost@5 (default: the one of its recipe)",
    )  # fmt: skip
    sub.add_argument("--flip", action="store_true", help="average each film's score with its mirror image's")
    sub.add_argument("--device", help="of torch: cpu, cuda, ... (default: the GPU where there is one)")
    sub.add_argument(
        "--backend", choices=("torch", "onnx"), default="torch", help="onnx: what `export` wrote, on the CPU"
    )  # fmt: skip


def _add_data_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("data", nargs="+", metavar="DATA", help=f"{SOURCES}; several are merged, without the copies")
    sub.add_argument("--label_map", help=LABEL_MAP)
    sub.add_argument(
        "--classes", type=int, choices=sorted(CLASSES), default=2,
        help="2: NORMAL and PNEUMONIA; 3: NORMAL, BACTERIA and VIRUS, from the file names (default: 2)",
    )  # fmt: skip
    sub.add_argument("--streaming", action="store_true", help="read a Hub data set film by film, not downloading it")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise InputError(f"{message} ({self.prog} --help)")


def main(argv: Sequence[str] | None = None) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # huggingface_hub tells every request
    with one_line_errors():
        arguments, rest = make_parser().parse_known_args(sys.argv[1:] if argv is None else argv)
        if rest and arguments.run is not tune:
            raise InputError(f"unknown argument: {rest[0]} (--help lists those of the command)")
        arguments.rest = rest  # of tune: a recipe and its overrides, as for train_hf.py
        arguments.run(arguments)


if __name__ == "__main__":
    main()
