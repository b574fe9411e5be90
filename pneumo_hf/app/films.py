"""What is made of one film's file: its scores, its heatmap, its report to print."""

import io
import logging
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import gradio as gr
import numpy as np
import torch
from PIL import Image

from pneumo_hf.app.case_report import file_facts, write_case_report
from pneumo_hf.app.decoding import call, decode
from pneumo_hf.app.model_tab import Report
from pneumo_hf.app.model_thread import in_model_thread, scoring
from pneumo_hf.app.verdict import at_threshold
from pneumo_hf.app.viewer import heat_html
from pneumo_hf.data.files import read_film
from pneumo_hf.errors import InputError
from pneumo_hf.inference.explain import GradCam, overlay
from pneumo_hf.inference.scorer import Scorer

logger = logging.getLogger(__name__)

LARGEST_SHOWN = 3000  # pixels a side under a heatmap, which takes some 50 bytes for each
MAP_CAPTION = (
    "where the score rests. A coarse map, no outline of a finding: it can lie on the wrong lung, or outside the body."
)
PRINTED_OPACITY = 0.5  # of the heatmap on a case report
GONE = "The film is no longer here: films are deleted after an hour. Drop it in again."


def read_film_file(predictor: Scorer, path: str | None) -> tuple[dict | None, Image.Image | None]:
    """Read and score a film; without a film where it cannot be read, None twice without a file."""
    if path is None:
        return None, None
    start = time.perf_counter()
    film, reason = _decode(path)
    if film is None:
        return predictor.unread(reason), None
    result = scoring(predictor)([film])[0]
    logger.info("read a film of %d x %d in %.0f ms", *film.size, 1000 * (time.perf_counter() - start))
    return result, film


def explain_film_file(predictor: Scorer, path: str | None, opacity: float) -> Image.Image | None:
    """Lay the heatmap over the film; the film alone at opacity 0, and where there is nothing to explain."""
    if path is None:
        return None
    film, reason = _decode(path)
    if film is None:
        raise gr.Error(reason, print_exception=False)
    try:
        return heatmap(predictor, film, opacity) if opacity else film
    except InputError as error:
        raise gr.Error(str(error), print_exception=False) from None


def explain_content(predictor: Scorer, content: bytes, opacity: float) -> bytes:
    """Lay the heatmap over a film that was sent: a PNG file.

    Raises:
        InputError: it cannot be read, or no map explains its score.
    """
    film, reason, _ = decode({"bytes": content, "path": None})
    if film is None:
        raise InputError(reason)
    file = io.BytesIO()
    (heatmap(predictor, film, opacity) if opacity else film).save(file, "PNG")
    return file.getvalue()


def heat_of_file(predictor: Scorer, path: str) -> str:
    """Format the heatmap's layer and scale for the page, or why there is none."""
    film, reason = _decode(path)
    return heat_html(None, f"There is no heatmap: {reason}.") if film is None else heat_of_film(predictor, film)


def heat_of_film(predictor: Scorer, film: Image.Image, place: str = "film") -> str:
    """Format the heatmap of a film that is shown in the element `place`."""
    try:
        return heat_html(_explaining(predictor)(film), place=place)
    except InputError as error:
        return heat_html(None, f"There is no heatmap: {error}.")


def report_film_file(predictor: Scorer, path: str | None, threshold: float, report: Report | None = None) -> str:
    """Write the path of a case report; an error for the page where there is no film to report on."""
    result, film = read_film_file(predictor, path)
    if path is None or result is None or film is None:
        reason = f"not read: {result['error']}" if result else "There is no film yet: drop one into the box."
        raise gr.Error(reason, print_exception=False)
    facts = {"film": Path(path).name} | file_facts(Path(path).read_bytes(), film)
    return _write_report(predictor, result, film, facts, threshold, report)


def report_answer(predictor: Scorer, answer: dict, report: Report | None = None) -> str:
    """Write the path of a case report of a film in a worklist, decided as it is there."""
    film = decode(answer["image"]).film if answer["image"] else None
    if film is None:
        raise gr.Error(GONE, print_exception=False)
    content = call(read_film, answer["image"] | {"path": str(answer["image"]["path"])})
    facts = {"film": answer["name"]} | file_facts(content, film)  # by the name that it has in the list and on its page
    return _write_report(predictor, answer, film, facts, answer["threshold"], report)


def _write_report(
    predictor: Scorer, result: dict, film: Image.Image, facts: dict, threshold: float, report: Report | None
) -> str:
    """Write the report of a film that is read, with a heatmap where there is an answer."""
    caption, pictures = "The film as it was read.", {}
    answered = at_threshold(predictor, result, threshold)["flag"] in ("review", "")
    try:
        coarse = _explaining(predictor)(film) if answered else None
        if coarse is None:
            caption += " A heatmap would explain a score that is no answer: it is left out."
        elif coarse.any():
            pictures = {f"Grad-CAM: {MAP_CAPTION}": overlay(_bounded(film), coarse, PRINTED_OPACITY)}
        else:
            caption += " No place of it raised the score: Grad-CAM has nothing to show."
    except InputError:
        logger.info("a case report without a heatmap")
    pictures = {caption: film} | pictures
    return write_case_report(predictor, result | {"size": film.size}, threshold, pictures, facts, report)


def heatmap(predictor: Scorer, film: Image.Image, opacity: float) -> Image.Image:
    """Lay a heatmap over a film, made smaller where it is large; InputError where no map explains the score."""
    return overlay(_bounded(film), _explaining(predictor)(film), opacity)


def _bounded(film: Image.Image) -> Image.Image:
    shown = film.copy()
    shown.thumbnail((LARGEST_SHOWN, LARGEST_SHOWN))
    return shown


@cache
def _explaining(predictor: Scorer) -> Callable[[Image.Image], np.ndarray]:
    """What explains a film by a predictor; made once, for on ZeroGPU it keeps a process that has the network."""

    def explain(film: Image.Image) -> np.ndarray:
        return GradCam(predictor)(*(torch.from_numpy(part[None]) for part in predictor.resize(film)))[0]

    return in_model_thread(explain)


def _decode(path: str) -> tuple[Image.Image | None, str]:
    """A film, or the reason in words, without the path of an upload."""
    if not Path(path).exists():
        return None, "the file is no longer here: drop it in again"
    return decode({"bytes": None, "path": path})[:2]
