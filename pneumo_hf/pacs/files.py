"""What `predict` scored becomes DICOM documents in a folder."""

import csv
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pydicom import Dataset

from pneumo_hf.data.files import UNREADABLE, read_film
from pneumo_hf.data.listing import FilmList
from pneumo_hf.data.reading import reason_of
from pneumo_hf.imaging.film import load_xray
from pneumo_hf.inference.scorer import Scorer
from pneumo_hf.labels import column_of
from pneumo_hf.pacs.answering import NO_CHEST, Answering
from pneumo_hf.pacs.screening import screen_header

RESCALING = {"prevalence": None, "calibration": "temperature"}  # what changes an answer, and is usual

logger = logging.getLogger(__name__)


def write_documents(
    scorer: Scorer,
    films: FilmList,
    table: Path,
    folder: Path,
    heatmap: bool,
    options: dict,
    rescale: Callable[[float], float],
) -> list[Path]:
    """Write the documents of films that `predict` scored: `UID_report.dcm` and `UID_heatmap.dcm`, UID the film's.

    Films that are not answered are logged, with the reason.

    Args:
        films: in the order of the table. table: the CSV. options: of `predict`.
        rescale: what was done to the probabilities in the table, and is due to the threshold.

    Raises:
        InputError: Grad-CAM finds no map of features in the model.
    """
    changes = {name: options[name] for name, usual in RESCALING.items() if options[name] != usual}
    answering = Answering(scorer, heatmap, **changes)
    answering.model = replace(answering.model, threshold=rescale(answering.model.threshold))
    folder.mkdir(parents=True, exist_ok=True)
    written, refused, seen = [], Counter(), set()
    with table.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        for film, row in zip(films, csv.DictReader(file), strict=True):
            header, reason, content = _screen(film["image"])
            reason = reason or _reason(row, header.SOPInstanceUID in seen)
            if reason:
                refused[reason] += 1
                logger.info("%s: no report, %s", row["path"], reason)
                continue
            uid = header.SOPInstanceUID
            seen.add(uid)
            documents = answering.documents(header, load_xray(content) if heatmap else None, _answer(row))
            for kind, document in zip(("report", "heatmap"), documents, strict=False):
                written.append(folder / f"{uid}_{kind}.dcm")
                document.save_as(written[-1], enforce_file_format=True)
    logger.info("DICOM documents: %d in %s; films without: %d", len(written), folder, refused.total())
    return written


def _screen(image: dict | None) -> tuple[Dataset, str, bytes]:
    """What is needed of a film's header, why the film is not answered, and its file."""
    try:
        content = read_film(image)
    except UNREADABLE as error:
        return Dataset(), reason_of(error), b""
    screened = screen_header(content)
    return screened.header or Dataset(), screened.reason, content


def _reason(row: dict, again: bool) -> str:
    """Why a film that could be answered by its header is not; empty where nothing is in the way."""
    if not row["probability"]:
        return row["error"]
    if row["flag"] == NO_CHEST:
        return f"not a chest film: {row['error']}"
    return "another film has its UID" if again else ""


def _answer(row: dict) -> dict:
    """The answer in a row of the CSV; Python writes a double so that it is read back bit for bit."""
    numbers = [name for name in row if name == "probability" or name.startswith(column_of(""))]
    return row | {name: float(row[name]) for name in numbers}
