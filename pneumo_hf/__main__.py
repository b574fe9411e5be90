"""The commands: `python -m pneumo_hf evaluate | predict`, also installed as `pneumo-hf`."""

import argparse
import csv
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from pneumo_hf import DISCLAIMER
from pneumo_hf.config import LABELS, DataArguments, InputError, one_line_errors

logger = logging.getLogger(__name__)


def evaluate(arguments: argparse.Namespace) -> None:
    """Score a labelled split and write the report."""
    from pneumo_hf.data.pixels import decode_films
    from pneumo_hf.data.sources import load_data
    from pneumo_hf.evaluation.report import evaluate_films, write_csv, write_report, write_split
    from pneumo_hf.inference.predictor import Predictor

    data = load_data(arguments.data)
    if arguments.split not in data:
        raise InputError(f"{arguments.data} has no {arguments.split} split, only {', '.join(data)}")
    predictor = Predictor(arguments.model, arguments.device)
    films, rejected = decode_films(data[arguments.split], predictor.image_processor, arguments.cache_dir)
    if len(set(films.labels)) < len(LABELS):
        raise InputError(f"{arguments.data}: the {arguments.split} split has no readable films of both labels")
    names = (Path(arguments.model).name, Path(arguments.data).name, arguments.split)
    metrics, rows = evaluate_films(predictor, films, *names)
    folder = Path(arguments.output_dir)
    write_split(folder, metrics, rows)
    write_csv(folder / "rejected.csv", ("path", "reason"), rejected)
    write_report(folder, metrics, rows, rejected, validation=None)
    for name in ("roc_auc", "sensitivity", "specificity", "accuracy"):
        metric = metrics["metrics"][name]
        logger.info("%-12s %.4f [%.4f, %.4f]", name, metric["value"], *metric["ci95"])
    logger.info("%d films, %d unreadable; the report: %s", len(films), len(rejected), folder / "index.html")


def predict(arguments: argparse.Namespace) -> None:
    """Score films, labelled or not, and write a CSV as they are scored."""
    from tqdm.auto import tqdm

    from pneumo_hf.data.sources import list_films
    from pneumo_hf.inference.predictor import PREDICTION_COLUMNS, Predictor

    rows = [row for path in arguments.paths for row in list_films(path)]
    predictor = Predictor(arguments.model, arguments.device)
    output = Path(arguments.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    unreadable = 0
    with output.open("w", newline="") as file:
        writer = csv.DictWriter(file, PREDICTION_COLUMNS, extrasaction="ignore")
        writer.writeheader()
        for row in tqdm(predictor.score_rows(rows), total=len(rows), desc="Scoring films", unit="film"):
            label = "" if row["label"] is None else LABELS[row["label"]]
            writer.writerow({**row, "path": row["file_name"], "label": label})
            unreadable += bool(row["error"])
    logger.info(
        "%d films scored, %d unreadable (see the column error): %s", len(rows) - unreadable, unreadable, output
    )
    if unreadable == len(rows):
        raise InputError(f"none of the films could be read; the reasons are in {output}")


def make_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="pneumo-hf", description=f"Pneumonia or normal on chest X-rays. {DISCLAIMER}")
    commands = parser.add_subparsers(required=True, metavar="command")

    sub = commands.add_parser(
        "evaluate",
        help="the report of a checkpoint on labelled films",
        description="Score a labelled split with a checkpoint, at the threshold that it carries, and write "
        "metrics.json, predictions, figures and index.html.",
    )
    sub.set_defaults(run=evaluate)
    sub.add_argument("--model", required=True, help="a run folder of train_hf.py, or a Hub id")
    sub.add_argument(
        "--data", required=True, help="a folder or zip of split/LABEL/file, or a folder of Parquet shards"
    )
    sub.add_argument("--split", default="test", help="train, validation or test (default: test)")
    sub.add_argument("--output_dir", required=True, help="where the report goes")
    sub.add_argument("--cache_dir", default=DataArguments.cache_dir, help="where decoded films are kept")
    sub.add_argument("--device", help="of torch: cpu, cuda, ... (default: the GPU where there is one)")

    sub = commands.add_parser(
        "predict",
        help="score films to a CSV",
        description="Score films with a checkpoint: path, label (if the folder or column says it), patient_id, "
        "probability of pneumonia, prediction, flag, error. A film that cannot be read has its reason in `error`.",
    )
    sub.set_defaults(run=predict)
    sub.add_argument("--model", required=True, help="a run folder of train_hf.py, or a Hub id")
    sub.add_argument("paths", nargs="+", metavar="PATH", help="films, folders, zips, Parquet shards")
    sub.add_argument("--output", default="preds.csv", help="the CSV (default: preds.csv)")
    sub.add_argument("--device", help="of torch: cpu, cuda, ... (default: the GPU where there is one)")
    return parser


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise InputError(f"{message} ({self.prog} --help)")


def main(argv: Sequence[str] | None = None) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    with one_line_errors():
        arguments = make_parser().parse_args(sys.argv[1:] if argv is None else argv)
        arguments.run(arguments)


if __name__ == "__main__":
    main()
