"""`pneumo-hf predict`: scores of films as a table."""

import argparse
import hashlib
import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from pneumo_hf.commands import add_model_arguments
from pneumo_hf.runtime import import_for_scoring

if TYPE_CHECKING:
    from pneumo_hf.evaluation.rescaling import Rescale
    from pneumo_hf.inference.scorer import Scorer

logger = logging.getLogger(__name__)

HELP = "score films to a table"
DESCRIPTION = (
    "Score films with a checkpoint: path, label (if the folder or column says it), patient_id, probability of "
    "pneumonia, prediction, flag, error. `flag` is review from the decision threshold up, abstain where neither label "
    "is certain enough, not_chest_xray for other pictures; `error` says what is wrong with a picture, and why a film "
    "could not be read. Killed, the same command resumes."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_model_arguments(parser)
    parser.add_argument(
        "paths",
        nargs="*",
        metavar="PATH",
        help="films, folders, zips, Parquet shards, a Hub data set id; or an address: s3://, gs://, hf://",
    )
    parser.add_argument("--label_map", help="the checkpoint's names of labels: 'LABEL_0=NORMAL,LABEL_1=PNEUMONIA'")
    parser.add_argument(
        "--clinical",
        metavar="CSV",
        help="a table of path and age, sex or view, for a checkpoint that weighs them beside its score (DICOM headers "
        "tell them without)",
    )
    parser.add_argument(
        "--output", default="preds.csv", help="a CSV, or NAME.parquet; an address, too (default: preds.csv)"
    )
    parser.add_argument(
        "--engine",
        choices=("here", "ray"),
        default="here",
        help="ray: over the cores or GPUs of this machine, or of the cluster of RAY_ADDRESS, with Ray Data (extra "
        "`ray`); any number of workers may resume (default: here, one process)",
    )
    parser.add_argument(
        "--workers", type=int, help="of --engine ray: networks at once (default: one for each GPU, or else core)"
    )
    parser.add_argument(
        "--details",
        action="store_true",
        help="more columns, for `monitor`: the distance from the films of training, what the film looks like, its "
        "size, and of DICOM age, sex, view, position, scanner and window",
    )
    parser.add_argument(
        "--prevalence",
        type=float,
        metavar="SHARE",
        help="share of the films with pneumonia where these come from: the probabilities are corrected for it, by "
        "Bayes; the decisions stay",
    )
    parser.add_argument(
        "--calibration",
        choices=("temperature", "isotonic"),
        default="temperature",
        help="isotonic: map the scores by isotonic regression on the validation predictions beside the checkpoint; "
        "the decisions stay (default: temperature, folded into the weights)",
    )
    _add_dicom_arguments(parser)


def _add_dicom_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dicom_output",
        metavar="DIR",
        help="of each frontal chest film of DX, CR or RG also a DICOM structured report (TID 1500), in this folder",
    )
    parser.add_argument(
        "--heatmap", action="store_true", help="beside each report, the film under its Grad-CAM heatmap as DICOM"
    )
    parser.add_argument(
        "--dicomweb", metavar="URL", help="score a --study of this DICOMweb server, and store the reports"
    )
    parser.add_argument("--study", metavar="UID", help="its Study Instance UID")


def run(arguments: argparse.Namespace) -> None:
    """Score films into a CSV or Parquet file."""
    if arguments.dicomweb or arguments.study:
        _score_study(arguments)
    else:
        _score_films(arguments)


def _score_study(arguments: argparse.Namespace) -> None:
    """Fetch the films of a study, score them, and store the reports in it."""
    from pneumo_hf.errors import InputError
    from pneumo_hf.pacs.dicomweb import WebStudy

    if not (arguments.dicomweb and arguments.study) or arguments.paths:
        raise InputError("--dicomweb URL and --study UID go together, and without paths")
    study, folder = WebStudy(arguments.dicomweb, arguments.study), Path(f"{arguments.output}.films")
    study.fetch(folder)
    arguments.paths, arguments.dicom_output = [folder], arguments.dicom_output or folder / "reports"
    study.store(_score_films(arguments))
    shutil.rmtree(folder)


def _score_films(arguments: argparse.Namespace) -> list[Path]:
    """Score films into a CSV or Parquet file; return the DICOM documents that were written."""
    import_for_scoring()
    from functools import partial

    from pneumo_hf.data.listing import list_films
    from pneumo_hf.data.stores import is_address
    from pneumo_hf.data.tables import read_clinical
    from pneumo_hf.errors import InputError
    from pneumo_hf.evaluation.rescaling import summary
    from pneumo_hf.inference.scoring import score_files

    if not arguments.paths or (arguments.heatmap and not arguments.dicom_output):
        raise InputError("no film is named" if not arguments.paths else "--heatmap is part of --dicom_output DIR")
    if arguments.dicom_output:
        from pneumo_hf.pacs.files import write_documents  # now: without the extra, nothing is scored first

        if is_address(arguments.output) or arguments.output.endswith(".parquet"):
            raise InputError("--dicom_output wants a CSV on this machine as --output")
    films, score = list_films(*arguments.paths), None
    if arguments.clinical:
        films.told = read_clinical(Path(arguments.clinical))
    scorer, rescale = load(arguments)
    if arguments.engine == "ray":
        from pneumo_hf.inference.ray_engine import score_with_ray

        on_gpus = arguments.device != "cpu" and arguments.backend == "torch"
        loaded = partial(load, arguments)
        score = partial(
            score_with_ray, load=loaded, decoder=scorer.decoder, on_gpus=on_gpus, workers=arguments.workers
        )
    elif arguments.workers:
        raise InputError("--workers is of --engine ray")
    names = ("model", "label_map", "clinical", "operating_point", "flip", "backend", "prevalence", "calibration")
    options = {name: vars(arguments)[name] for name in (*names, "details")}
    if arguments.clinical:
        options["clinical"] = hashlib.blake2b(Path(arguments.clinical).read_bytes()).hexdigest()
    flags = score_files(scorer, films, arguments.output, options, rescale, score)
    if films.told and not films.matched:
        logger.warning("%s names none of the films: is its path column theirs?", arguments.clinical)
    for line in summary(scorer, flags, arguments.output, None if arguments.calibration == "isotonic" else rescale):
        logger.info("%s", line)
    if not arguments.dicom_output:
        return []
    table, folder = Path(arguments.output), Path(arguments.dicom_output)
    return write_documents(scorer, films, table, folder, arguments.heatmap, options, rescale)


def load(arguments: argparse.Namespace) -> "tuple[Scorer, Rescale]":
    """Load what scores, and what is done to its scores before they are written; workers of Ray do, too."""
    from pneumo_hf.data.labels import parse_label_map
    from pneumo_hf.errors import InputError
    from pneumo_hf.evaluation.ensembles import load_predictor
    from pneumo_hf.evaluation.rescaling import rescaling

    label_map = parse_label_map(arguments.label_map)
    scorer = load_predictor(arguments.model, arguments.device, arguments.flip, arguments.backend, label_map)
    if arguments.clinical and scorer.clinical is None:
        raise InputError(f"{scorer.name} has no clinical.json: it weighs nothing beside the film")
    scorer.details = arguments.details
    if arguments.operating_point:
        scorer.settings.use(arguments.operating_point)
    if scorer.clinical and (arguments.prevalence or arguments.calibration == "isotonic"):
        logger.warning("age, sex and view are left out: they were fitted to the scores as they are")
        scorer.clinical = None
    return scorer, rescaling(scorer, arguments.calibration, arguments.prevalence)
