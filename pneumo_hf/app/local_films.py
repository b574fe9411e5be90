"""Another hospital's films: labelled films or scores in, before and after and a checkpoint out."""

import csv
import io
import logging
import shutil
import tempfile
import time
from itertools import islice
from pathlib import Path, PurePosixPath

import gradio as gr
import numpy as np
import torch
from PIL import Image

from pneumo_hf.app.decoding import decode, facts_in_header, list_zipped_films
from pneumo_hf.app.files import download_path
from pneumo_hf.app.model_thread import MOST_AT_ONCE, in_model_thread
from pneumo_hf.app.pages import as_address, render
from pneumo_hf.app.worklist_films import DECODED_AT_ONCE, MOST_FILMS
from pneumo_hf.data.duplicates import film_digests, fingerprint
from pneumo_hf.data.files import UNREADABLE
from pneumo_hf.data.labels import LabelNames
from pneumo_hf.data.leakage import seen_in_training
from pneumo_hf.data.patients import parse_file_name
from pneumo_hf.data.predictions import log_odds
from pneumo_hf.data.processes import TooSlowError
from pneumo_hf.data.reading import ReadFilm, in_batches, in_threads
from pneumo_hf.errors import InputError
from pneumo_hf.evaluation.before_after import LocalFilms
from pneumo_hf.evaluation.evaluate import endpoint_labels
from pneumo_hf.evaluation.recalibration import Recalibration, recalibrate_scores, why_too_few
from pneumo_hf.imaging.film import PICTURE_SUFFIXES
from pneumo_hf.imaging.quality import quality_issue
from pneumo_hf.inference.details import DETAIL_COLUMNS, details_of_film, rounded
from pneumo_hf.inference.scorer import Scorer
from pneumo_hf.reporting.names import METRIC_NAMES
from pneumo_hf.reporting.recalibration import SHOWN, write_recalibration_report

logger = logging.getLogger(__name__)

MOST_BYTES = 20_000_000  # of a CSV
LARGEST_FIGURE = 1400  # pixels a side
WORSE = {"sensitivity": "more missed films", "specificity": "more false alarms"}
WORTH_SAYING = 0.05  # five films of a hundred
MOST_SCORES = 5000  # rows of it: some seconds of a core


def recalibrate_upload(predictor: Scorer, path: str | None, progress=None) -> tuple[str, list, str | None]:
    """Recalibrate on an upload: the page's table, its figures, and the path of the zipped checkpoint if there is one.

    Raises:
        gr.Error: why not, in one line.
    """
    if path is None:
        raise gr.Error("There are no films yet: drop a zip or a CSV into the box.", print_exception=False)
    start, name = time.perf_counter(), Path(path).name
    try:
        films = (
            read_scores(predictor, path) if name.lower().endswith(".csv") else read_films(predictor, path, progress)
        )
        refused = why_too_few(films.labels, films.patient_ids, name, predictor.task.positive, report_only=True)
        result = recalibrate_scores(predictor, films, name, "all", refused)
        figures, archive = write_files(result)
    except (InputError, TooSlowError) as error:
        raise gr.Error(str(error).replace(path, name), print_exception=False) from None
    logger.info("recalibrated on %d films in %.1f s", len(films.labels), time.perf_counter() - start)
    return outcome_html(result, name), figures, archive


def read_films(predictor: Scorer, path: str, progress=None) -> LocalFilms:
    """Read and score the films of a zip whose folders name a label; others are passed over.

    Raises:
        InputError: it is no zip, too large, or the checkpoint was trained on the films.
    """
    rows = labelled_films(predictor, path)
    if len(rows) > MOST_FILMS:
        raise InputError(f"{len(rows)} films are too many at once: at most {MOST_FILMS}")
    score = in_model_thread(lambda *pixels: predictor.predict_with_outliers(*pixels))
    read, scores, rejected = [], [], []
    for batch in in_batches(rows, MOST_AT_ONCE):  # one at a time, so that others who wait get their turn
        found = []
        for row, (film, facts) in in_threads(read_film_of, batch, DECODED_AT_ONCE):
            if film.film is None:
                rejected.append({"path": row["name"], "reason": film.reason})
            else:
                resized = predictor.resize(film.film)
                known = {"patient": facts.get("patient") or row["patient"]}
                found.append((row | known | kept_of(film.film, resized[0], facts), resized))
        if found:
            kept, resized = zip(*found, strict=True)
            scores.append(score(*(torch.from_numpy(np.stack(part)) for part in zip(*resized, strict=True))))
            read += kept
        if progress is not None:
            progress((len(read) + len(rejected), len(rows)), desc="Reading films")
    if not read:
        raise InputError(f"{path}: none of its films could be read")
    names = [row["name"] for row in read]
    digests = {"local": film_digests(np.stack([row["thumbnail"] for row in read]))}
    named = {"local": np.array(names)}
    if seen := seen_in_training(predictor.name, digests, named, predictor.settings.trained_on_kermany):
        raise InputError(
            f"The model may have been trained on {len(seen)} of the {len(names)} films ({seen[0]}): give films that "
            "it has not seen"
        )
    logits, distances = (np.concatenate(part) for part in zip(*scores, strict=True))
    labels, patients = np.array([row["label"] for row in read]), np.array([row["patient"] for row in read])
    issues = [row["issue"] for row in read]
    details = [row["details"] | {"distance": rounded(one)} for row, one in zip(read, distances, strict=True)]
    return LocalFilms(names, labels, logits, patients, distances, issues, rejected, details)


def labelled_films(predictor: Scorer, path: str) -> list[dict]:
    """List `name`, `image`, `label` and `patient` of the films in a zip that lie in a folder called by a label.

    Raises:
        InputError: it is no zip, or has no such films.
    """
    try:
        listed = list_zipped_films(path)
    except (ValueError, *UNREADABLE) as error:  # a zip's table can be damaged in many ways
        raise InputError(f"{path} is no zip and no CSV, or damaged ({type(error).__name__})") from error
    names, rows = LabelNames(*endpoint_labels(predictor.task, None)), []
    for film, file in listed:
        folder = next((part for part in reversed(PurePosixPath(film).parts[:-1]) if part in names), None)
        patient, subtype = parse_file_name(film)
        label = None if folder is None else names.named(folder, subtype)
        if label is not None:
            image = {"bytes": None, "path": file}
            rows.append({"name": film, "image": image, "label": label, "patient": patient})
    if not rows:
        raise InputError(f"{path} has no films in folders that are called {' or '.join(names.labels)}")
    return rows


def read_film_of(row: dict) -> tuple[ReadFilm, dict]:
    """Read a film, and what its DICOM header says."""
    is_picture = PurePosixPath(row["name"]).suffix.lower() in PICTURE_SUFFIXES
    return decode(row["image"]), {} if is_picture else facts_in_header(row["image"])


def kept_of(film: Image.Image, pixels: np.ndarray, facts: dict) -> dict:
    """What is kept of a film, resized to `[1, H, W]` uint8, once it is scored."""
    details = details_of_film(facts, film, pixels, content=None)
    return {"issue": quality_issue(film), "thumbnail": fingerprint(film).thumbnail, "details": details}


def read_scores(predictor: Scorer, path: str) -> LocalFilms:
    """Read the labels and scores of a predictions CSV; rows without either are passed over.

    Raises:
        InputError: it is no such CSV, or too large.
    """
    if Path(path).stat().st_size > MOST_BYTES:
        raise InputError(f"{path} is larger than {MOST_BYTES / 1e6:.0f} MB")
    names = LabelNames(*endpoint_labels(predictor.task, None))
    try:
        table = csv.DictReader(io.StringIO(Path(path).read_text(encoding="utf-8-sig")))
        rows = [row for row in islice(table, MOST_SCORES + 1) if row["probability"] and row["label"]]
        numbers, written = [names.named(row["label"]) for row in rows], sorted({row["label"] for row in rows})
        rows = [row | {"number": label} for row, label in zip(rows, numbers, strict=True) if label is not None]
        probs = np.array([float(row["probability"]) for row in rows])
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise InputError(f"{path} is no CSV with the columns label and probability") from error
    if len(rows) > MOST_SCORES:
        raise InputError(f"{path} has {len(rows)} rows with a label and a score: at most {MOST_SCORES}")
    if not rows:
        found = f"labels are {', '.join(map(repr, written[:3]))}" if written else "rows have no label and score"
        raise InputError(f"{path}: its {found}: each row needs {' or '.join(names.labels)}, and a probability")
    if not ((probs >= 0) & (probs <= 1)).all():
        raise InputError(f"{path}: a probability is not between 0 and 1")
    films = [row.get("path") or f"row {number}" for number, row in enumerate(rows, start=2)]
    patients = [row.get("patient_id") or parse_file_name(film)[0] for row, film in zip(rows, films, strict=True)]
    logits = np.stack([np.zeros(len(rows)), log_odds(probs)], axis=1)
    unknown = np.full(len(rows), np.nan)
    labels = np.array([row["number"] for row in rows])
    details = [dict.fromkeys(DETAIL_COLUMNS) | row for row in rows] if "distance" in rows[0] else []
    return LocalFilms(films, labels, logits, np.array(patients), unknown, [""] * len(rows), details=details)


def write_files(result: Recalibration) -> tuple[list[tuple[str, str]], str | None]:
    """Write the figures for the page, and the checkpoint as a zip where there is one; nothing else stays."""
    place = download_path("recalibrated.zip")
    with tempfile.TemporaryDirectory(dir=place.parent) as name:
        folder = Path(name) / "recalibrated"
        if not result.refused:
            in_model_thread(result.save)(folder)  # runs the network, to see that it gives the recalibrated scores
        write_recalibration_report(folder, result)
        figures = []
        for caption, file in (("Before and after", "reliability.png"), ("How many films?", "films_needed.png")):
            shutil.copy(folder / "report" / file, place.with_name(file))
            figures.append((str(place.with_name(file)), caption))
        if result.refused:
            return figures, None
        return figures, shutil.make_archive(str(place.with_suffix("")), "zip", name)


def outcome_html(result: Recalibration, name: str) -> str:
    """Format whether it is better, what was fitted, before and after with intervals, and how many films it takes."""
    found = result.report
    return render(
        "recalibrated.html.jinja",
        found=found,
        name=name,
        better=_better(found["metrics"]["ece"]),
        but=[words for key, words in WORSE.items() if _drop(found["metrics"][key]) >= WORTH_SAYING],
        refused=result.refused,
        known=found["n_patients"] < found["n"],
        changed=found["metrics"],
        need=found["films_needed"]["for_margin"]["both"],
        error={when: found["metrics"]["ece"][when]["value"] for when in ("before", "after")},
        cuts=found["decision_threshold"],
        rows=[
            (METRIC_NAMES[key], *(_figure(found["metrics"][key][when]) for when in ("before", "after")))
            for key in SHOWN
        ],
    )


def _better(error: dict) -> bool | None:
    """Whether the calibration error is smaller than before; None where it lies within the interval of before."""
    now, (low, _) = error["after"]["value"], error["before"]["ci95"]
    return True if now < low else False if now >= error["before"]["value"] else None


def _drop(metric: dict) -> float:
    return metric["before"]["value"] - metric["after"]["value"]


def figures_html(figures: list[tuple[str, str]]) -> str:
    """Lay out pictures with their captions."""
    shown = [(as_address(Image.open(path), LARGEST_FIGURE), caption) for path, caption in figures]
    return render("figures.html.jinja", figures=shown)


def _figure(metric: dict) -> str:
    low, high = metric["ci95"]
    return f"{metric['value']:.3f} ({low:.3f} to {high:.3f})"
