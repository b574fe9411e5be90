"""The films of a worklist: listed from files and zips, read and scored, and decided at any threshold."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import gradio as gr

from pneumo_hf.app.decoding import AT_ONCE, decode, facts_in_header, list_zipped_films
from pneumo_hf.app.model_thread import MOST_AT_ONCE, scoring
from pneumo_hf.app.verdict import at_age, at_threshold, is_unusual_age, knows_ages
from pneumo_hf.data.files import UNREADABLE
from pneumo_hf.data.processes import TooSlowError
from pneumo_hf.data.reading import ReadFilm, in_batches, in_threads
from pneumo_hf.errors import InputError
from pneumo_hf.imaging.film import PICTURE_SUFFIXES
from pneumo_hf.inference.scorer import Scorer

logger = logging.getLogger(__name__)

READING_ORDER = ("review", "abstain", "unreadable", "clear", "not_chest_xray")
MOST_FILMS = 2000  # of one list
LISTS_AT_ONCE = 2
DECODED_AT_ONCE = AT_ONCE // (2 * LISTS_AT_ONCE)  # films of a list: half of the processes are left to others


class Found(NamedTuple):
    """How many films there are in all, and the answers so far in reading order.

    An answer has `number` (in the order of the files), `name`, `image`, `kind` (of READING_ORDER), and what
    `Predictor` says, or `error` alone.
    """

    total: int
    answers: list[dict]


def score_worklist(predictor: Scorer, paths: list[str]) -> Iterator[Found]:
    """Score films and zips: what is found so far, after each batch; one bad file never stops the rest."""
    rows, answers, start = [], [], time.perf_counter()
    for path in paths:
        try:
            rows += _entries(path)
        except (InputError, TooSlowError) as error:
            answers.append(_unread(predictor, path, str(error).replace(path, "the zip")))
        except (ValueError, *UNREADABLE) as error:  # a zip's table can be damaged in many ways
            answers.append(_unread(predictor, path, f"damaged zip ({type(error).__name__})"))
        if (count := len(rows) + len(answers)) > MOST_FILMS:
            raise gr.Error(f"{count} films are too many for one list: at most {MOST_FILMS}", print_exception=False)
    for number, found in enumerate([*answers, *rows]):
        found["number"] = number
    total = len(rows) + len(answers)
    if total:
        yield Found(total, answers)
    # A batch at a time, so that others who wait for the network get their turn.
    for batch in in_batches(rows, MOST_AT_ONCE):
        answers = sorted([*answers, *_score(predictor, batch)], key=_place)
        yield Found(total, answers)
    logger.info("read a list of %d films in %.1f s", len(rows), time.perf_counter() - start)


def at_another(predictor: Scorer, answers: list[dict], threshold: float) -> list[dict]:
    """Decide answers at another threshold, in the reading order that follows; each says by which it was decided."""
    again = (at_threshold(predictor, answer, threshold) for answer in answers)
    return sorted((_with_kind(answer | {"threshold": threshold}) for answer in again), key=_place)


def film_of(answer: dict) -> tuple:
    """Return what says of which film an answer is."""
    return answer["number"], answer["name"], answer["image"]


def _score(predictor: Scorer, rows: list[dict]) -> list[dict]:
    """The rows with their scores, or with the reason why there is none."""
    read = [found for _, found in in_threads(lambda row: _read(predictor, row), rows, DECODED_AT_ONCE)]
    scored, answers = iter(scoring(predictor)([film.film for film, _ in read if film.film is not None])), []
    for row, (film, noted) in zip(rows, read, strict=True):
        answer = predictor.unread(film.reason) if film.film is None else next(scored) | noted
        answers.append(_with_kind(row | answer))
    return answers


def _read(predictor: Scorer, row: dict) -> tuple[ReadFilm, dict]:
    """Read a film, and note of a DICOM whether its patient is of another age than those of the training."""
    film = decode(row["image"])
    if film.film is None or Path(row["name"]).suffix.lower() in PICTURE_SUFFIXES or not knows_ages(predictor):
        return film, {}
    age = facts_in_header(row["image"]).get("age")
    return film, {"age": age, "note": at_age(age)[0]} if age is not None and is_unusual_age(predictor, age) else {}


def _with_kind(answer: dict) -> dict:
    return answer | {"kind": "unreadable" if answer["probability"] is None else answer["flag"] or "clear"}


def _place(answer: dict) -> tuple[int, float]:
    return READING_ORDER.index(answer["kind"]), -(answer["probability"] or 0)


def _unread(predictor: Scorer, path: str, reason: str) -> dict:
    return _with_kind({"name": Path(path).name, "image": None} | predictor.unread(reason))


def _entries(path: str) -> list[dict]:
    """`name` and `image` of an uploaded film, or of those in an uploaded zip; nothing is read yet.

    Not by `list_films`: the rows of a Parquet shard may point to any file of this machine.
    """
    name = Path(path).name
    if not name.lower().endswith(".zip"):
        return [{"name": name, "image": {"bytes": None, "path": path}}]
    inside = list_zipped_films(path)
    return [{"name": f"{name}: {film}", "image": {"bytes": None, "path": file}} for film, file in inside]
