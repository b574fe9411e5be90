"""The tab that reads many films: files or zips in, a table sorted by probability, thumbnails and a CSV out."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

import gradio as gr
from PIL import Image

from pneumo_hf.app.decoding import AT_ONCE, TooSlowError, decode, list_zipped_films
from pneumo_hf.app.files import download_path
from pneumo_hf.app.model_thread import MOST_AT_ONCE, in_model_thread
from pneumo_hf.data.files import UNREADABLE
from pneumo_hf.data.predictions import PREDICTION_COLUMNS, columns_of, write_csv
from pneumo_hf.data.reading import in_batches, in_threads
from pneumo_hf.errors import InputError
from pneumo_hf.inference.scorer import Scorer

logger = logging.getLogger(__name__)

COLUMNS = ("film", "probability", "prediction", "flag", "error")
MOST_FILMS = 2000  # of one list
LISTS_AT_ONCE = 2
DECODED_AT_ONCE = AT_ONCE // (2 * LISTS_AT_ONCE)  # films of a list: half of the processes are left to others
THUMBNAILS = 60  # shown, of the films with the highest scores
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how one begins
SIDE = 256  # pixels


def build_worklist(predictor: Scorer) -> None:
    """Lay the tab out inside the current `gr.Blocks`; its API endpoint is `/predict_batch`."""

    def predict_batch(
        paths: list[str] | None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - gradio looks for it here
    ) -> tuple[list[list], list, str | None]:
        """Score many chest films, or zips of them: a table, the highest probability first, thumbnails, and a CSV."""
        return read_worklist(predictor, paths or [], progress)

    files = gr.File(label="Films, or zips of films", file_count="multiple", elem_id="worklist-files", height=140)
    button = gr.Button("Read them all", variant="primary", elem_id="worklist-read")
    table = gr.Dataframe(
        headers=list(_columns(predictor)), label="The highest probability first", elem_id="worklist", wrap=True
    )
    download = gr.File(label="The table as CSV", interactive=False, elem_id="worklist-csv")
    gallery = gr.Gallery(label="The films of the table's top", columns=6, height="auto", object_fit="contain")
    limits = {
        "concurrency_limit": LISTS_AT_ONCE,
        "api_visibility": "undocumented",
    }  # gradio makes no MCP tool of lists
    button.click(predict_batch, [files], [table, gallery, download], api_name="predict_batch", **limits)


def read_worklist(predictor: Scorer, paths: list[str], progress=None) -> tuple[list[list], list, str | None]:
    """Score the table's rows, `(thumbnail, caption)` of its top, and the CSV; one bad file never stops the rest."""
    rows, answers, start = [], [], time.perf_counter()
    for path in paths:
        try:
            rows += _entries(path)
        except (InputError, TooSlowError) as error:
            answers.append({"name": Path(path).name, "error": str(error).replace(path, "the zip")})
        except (ValueError, *UNREADABLE) as error:  # a zip's table can be damaged in many ways
            answers.append({"name": Path(path).name, "error": f"damaged zip ({type(error).__name__})"})
        if (count := len(rows) + len(answers)) > MOST_FILMS:
            raise gr.Error(f"{count} films are too many for one list: at most {MOST_FILMS}", print_exception=False)
    # A batch at a time, so that others who wait for the network get their turn.
    score = in_model_thread(lambda films: predictor(films))
    for batch in in_batches(rows, MOST_AT_ONCE):
        answers += _score(predictor, batch, score)
        if progress is not None:
            progress((len(answers), len(rows)), desc="Reading films")
    logger.info("read a list of %d films in %.1f s", len(rows), time.perf_counter() - start)
    if not answers:
        return [], [], None
    answers.sort(key=lambda answer: -1.0 if answer.get("probability") is None else answer["probability"], reverse=True)
    table = [
        [answer["name"], *(_shown(answer.get(column)) for column in _columns(predictor)[1:])] for answer in answers
    ]
    return table, _thumbnails(answers[:THUMBNAILS]), _write_csv(answers, columns_of(predictor.task))


def _score(predictor: Scorer, rows: list[dict], score: Callable[[list], list[dict]]) -> list[dict]:
    """The rows with their scores, or with the reason why there is none."""
    read = [film for _, film in in_threads(lambda row: decode(row["image"]), rows, DECODED_AT_ONCE)]
    scored = iter(score([film.film for film in read if film.film is not None]))
    return [
        row | (predictor.unread(film.reason) if film.film is None else next(scored))
        for row, film in zip(rows, read, strict=True)
    ]


def _entries(path: str) -> list[dict]:
    """`name` and `image` of an uploaded film, or of those in an uploaded zip; nothing is read yet.

    Not by `list_films`: the rows of a Parquet shard may point to any file of this machine.
    """
    name = Path(path).name
    if not name.lower().endswith(".zip"):
        return [{"name": name, "image": {"bytes": None, "path": path}}]
    inside = list_zipped_films(path)
    return [{"name": f"{name}: {film}", "image": {"bytes": None, "path": file}} for film, file in inside]


def _shown(value: object) -> object:
    return round(value, 4) if isinstance(value, float) else value or ""


def _thumbnails(answers: list[dict]) -> list[tuple[Image.Image, str]]:
    pictures = []
    for answer in answers:
        if answer.get("probability") is not None:
            film = decode(answer["image"]).film
            if film is None:
                continue
            film.thumbnail((SIDE, SIDE))
            pictures.append((film, f"{answer['probability']:.1%} {answer['flag']} {answer['name']}"))
    return pictures


def _columns(predictor: Scorer) -> tuple[str, ...]:
    return COLUMNS + columns_of(predictor.task)[len(PREDICTION_COLUMNS) :]


def _as_text(value: object) -> object:
    """A text that a spreadsheet would take for a formula begins with an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def _write_csv(answers: list[dict], columns: tuple[str, ...]) -> str:
    path = download_path("worklist.csv")
    rows = ({**answer, "path": answer["name"], "label": ""} for answer in answers)
    write_csv(path, columns, ({key: _as_text(value) for key, value in row.items()} for row in rows))
    return str(path)
