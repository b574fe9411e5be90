"""The tab that reads many films: files or zips in; out come a list in reading order, each film on request, a CSV and a
page to print."""

import html
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from pneumo_hf.app.decoding import decode
from pneumo_hf.app.files import download_path
from pneumo_hf.app.films import GONE, heat_of_film, report_answer
from pneumo_hf.app.model_tab import Report, read_report
from pneumo_hf.app.points import own_point, point_choices
from pneumo_hf.app.reader import FOLDED, HEATMAP, REPORT, download, still
from pneumo_hf.app.verdict import is_scored, verdict_html
from pneumo_hf.app.viewer import viewer_html
from pneumo_hf.app.worklist_films import LISTS_AT_ONCE, Found, at_another, film_of, score_worklist
from pneumo_hf.app.worklist_page import JS, STYLE, list_html, progress_html, shown_of, write_table, write_worklist_page
from pneumo_hf.data.predictions import PREDICTION_COLUMNS, columns_of
from pneumo_hf.inference.scorer import Scorer

COLUMNS = ("film", "probability", "prediction", "flag", "error")
THUMBNAILS = 60  # shown, of the first films
SIDE = 256  # pixels
OPENED = "document.querySelector('#worklist-verdict .answer[open]')"  # an answer that was asked for stays open
STAY_OPEN = f"(answers, hidden, current) => [answers, hidden && !{OPENED}, current]"
READ_FIRST = "Hide the answers: I read the films first"
POINT = "Operating point of this list: when to flag"
FILTER = "worklist-window"  # the first tab has a viewer of its own, whose filter has another name
VIEWER_STYLE = f".layers img {{ filter: url(#{FILTER}); }}"
CLOSED = '<p class="hint">Choose a film of the list. With the arrow keys the next one opens.</p>'
LIMITS = {"concurrency_limit": LISTS_AT_ONCE, "concurrency_id": "worklist"}


class Worklist:
    """What the tab's parts do when they are used."""

    def __init__(self, predictor: Scorer):
        self.predictor, self.report = predictor, read_report(predictor)

    def read(self, paths: list[str] | None) -> Iterator[tuple]:
        start, found = time.perf_counter(), Found(0, [])
        for found in score_worklist(self.predictor, paths or []):
            yield progress_html(len(found.answers), found.total, time.perf_counter() - start), gr.skip()
        kept = found.answers
        if not kept:
            raise gr.Error("There are no films yet: drop films or a zip into the box.", print_exception=False)
        yield progress_html(len(kept), len(kept), time.perf_counter() - start), kept

    def decide(self, answers: list[dict], point: str) -> tuple:
        """Decide the films at an operating point, and write table and page."""
        threshold = self.predictor.settings.thresholds[point]
        decided = at_another(self.predictor, answers, threshold)
        table = _write_csv(self.predictor, decided, threshold)
        page = _write_page(self.predictor, decided, point, self.report)
        buttons = (gr.DownloadButton(value=path) for path in (table, page))
        return decided, gr.Column(visible=True), gr.Accordion(open=False), *buttons

    def relist(self, decided: list[dict], hidden: bool, current: dict | None) -> str:
        """List the films as they are decided; the row of the film that is open, `current`, stays marked."""
        films, shown = [film_of(answer) for answer in decided], current and film_of(current)
        settings, place = self.predictor.settings, films.index(shown) if shown in films else None
        threshold = self.threshold(decided)
        limits = settings.flagged_from(threshold), settings.abstention_band(threshold)
        return list_html(decided, *limits, place, hidden)

    def say(self, answers: list[dict], hidden: bool, current: dict | None) -> tuple[dict | None, str]:
        """Say again what is decided of the film that is open now, whatever was open when the point was chosen, or
        answers were hidden; nothing if it was said like this."""
        again = next((answer for answer in answers if current and film_of(answer) == film_of(current)), None)
        if current and again and (again["threshold"], hidden) == (current.get("threshold"), current.get("hidden")):
            return gr.skip(), gr.skip()
        if again is None:
            return None, CLOSED
        said = opened(self.predictor, self.report, again, again["threshold"], hidden)[1]
        return again | {"hidden": hidden}, said

    def open_film(self, answers: list[dict], hidden: bool, event: gr.EventData) -> tuple[dict, str, str, str]:
        answer = {answer["number"]: answer for answer in answers}[event.film]  # of the list of this visitor alone
        film, said = opened(self.predictor, self.report, answer, self.threshold(answers), hidden)
        return answer | {"hidden": hidden}, film, said, ""

    def threshold(self, answers: list[dict]) -> float:
        """Return by which threshold a list is decided."""
        own = self.predictor.settings.threshold
        return answers[0].get("threshold", own) if answers else own

    def make_heat(self, answer: dict | None, wanted: bool) -> tuple:
        film = decode(answer["image"]).film if answer and wanted and answer["image"] else None
        layer = heat_of_film(self.predictor, film, "worklist-film") if film else ""
        return (answer and film_of(answer), wanted), layer

    def show_heat(self, made: tuple | None, answer: dict | None, wanted: bool) -> str | None:
        return still(made, answer and film_of(answer), wanted)

    def make_report(self, answer: dict | None) -> tuple | None:
        """Write the report of the film that is open, decided as in the list."""
        if not answer:
            return None
        return (film_of(answer), answer["threshold"]), report_answer(self.predictor, answer, self.report)

    def show_report(self, made: tuple | None, answer: dict | None) -> str | None:
        return still(made, film_of(answer), answer["threshold"]) if answer else None


def build_worklist(predictor: Scorer) -> None:
    """Lay the tab out inside the current `gr.Blocks`; its API endpoint is `/predict_batch`."""
    worklist, plain = Worklist(predictor), {"apply_default_css": False}
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    _build_api(predictor)
    with gr.Accordion("Films to read", elem_id="worklist-choose") as choose:
        files = gr.File(label="Films, or zips of films", file_count="multiple", elem_id="worklist-files", height=130)
        button = gr.Button("Read them all", variant="primary", elem_id="worklist-read", interactive=False)
        files.change(lambda chosen: gr.Button(interactive=bool(chosen)), files, button, **quiet, queue=False)
    hide = gr.Checkbox(False, label=READ_FIRST, elem_id="worklist-hide", container=False)
    progress, answers, current = gr.HTML(elem_id="worklist-progress", css_template=STYLE), gr.State([]), gr.State()
    made_heat, made_report = gr.State(), gr.State()
    with gr.Column(visible=False) as results:
        choices, own = point_choices(predictor.settings, worklist.report), own_point(predictor.settings).name
        with gr.Row():
            point = gr.Radio(choices, value=own, label=POINT, elem_id="worklist-point", scale=3)
            with gr.Column(scale=1, min_width=220, elem_id="worklist-downloads"):
                table = gr.DownloadButton("Download as CSV", elem_id="worklist-csv", size="md")
                page = gr.DownloadButton("Download a page to print", elem_id="worklist-page", size="md")
        with gr.Row():
            with gr.Column(scale=5, min_width=320):
                listing = gr.HTML(elem_id="worklist", css_template=STYLE, js_on_load=JS)
            with gr.Column(scale=6, min_width=320, elem_id="worklist-opened"):
                verdict = gr.HTML(CLOSED, elem_id="worklist-verdict", **plain)
                with gr.Row(equal_height=True):  # above the film: on a phone it fills the screen
                    heat_on = gr.Checkbox(
                        False, label=HEATMAP, elem_id="worklist-heat-on", elem_classes="heat-on", container=False
                    )
                    make = gr.Button(REPORT, elem_id="worklist-make-report", elem_classes="of-film", size="md")
                heat = gr.HTML("", elem_id="worklist-heat", **plain)
                film = gr.HTML("", elem_id="worklist-film", css_template=VIEWER_STYLE, **plain)
                case = gr.DownloadButton(elem_id="worklist-case-report", elem_classes="made")
    decided, seen = [answers, results, choose, table, page], [current, film, verdict, heat]
    last = {"api_visibility": "private", "trigger_mode": "always_last", "concurrency_limit": LISTS_AT_ONCE}
    read = button.click(worklist.read, files, [progress, answers], **quiet, **LIMITS)
    listed = {
        "fn": worklist.decide,
        "inputs": [answers, point],
        "outputs": decided,
        "show_progress_on": listing,
        **last,
    }
    # apart from deciding, which takes longer: answers that are hidden meanwhile stay hidden
    rows = {"fn": worklist.relist, "inputs": [answers, hide, current], "outputs": listing, **last}
    read.then(**listed).then(lambda: (None, "", CLOSED, ""), None, seen, **quiet).then(**rows)
    again, hidden = point.input(**listed).then(**rows), hide.input(**rows)
    shown = listing.open(worklist.open_film, [answers, hide], seen, show_progress_on=film, **last)
    for done, js in ((again, STAY_OPEN), (hidden, STAY_OPEN), (shown, None)):  # whatever was chosen meanwhile
        done.then(worklist.say, [answers, hide, current], [current, verdict], js=js, **quiet)
    # whoever opens a row has not asked for a heatmap: nothing is laid over its place while there is none
    unseen: dict[str, Any] = {"show_progress": "hidden"}
    for asked, waiting in ((shown.then, unseen), (heat_on.input, {"show_progress_on": heat})):
        made = asked(worklist.make_heat, [current, heat_on], made_heat, **waiting, **last)
        made.then(worklist.show_heat, [made_heat, current, heat_on], heat, **unseen, **last)
    reported = make.click(worklist.make_report, current, made_report, show_progress_on=make, **last)
    given = reported.then(worklist.show_report, [made_report, current], case, **last)
    given.then(None, case, None, js=download("worklist-case-report"))


def _build_api(predictor: Scorer) -> None:
    """Add the endpoint `/predict_batch`, which has no part on the page."""

    def predict_batch(
        paths: list[str] | None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - gradio looks for it here
    ) -> tuple[list[list], list, str | None]:
        """Score many chest films, or zips of them: a table in reading order, thumbnails of its top, and a CSV."""
        return read_worklist(predictor, paths or [], progress)

    files = gr.File(label="paths", file_count="multiple", visible=False)
    table = gr.Dataframe(headers=list(_columns(predictor)), label="table", visible=False)
    gallery, download = gr.Gallery(label="thumbnails", visible=False), gr.File(label="csv", visible=False)
    # gradio makes no MCP tool of lists
    options = {"api_name": "predict_batch", "api_visibility": "undocumented", **LIMITS}
    gr.Button(visible=False).click(predict_batch, files, [table, gallery, download], **options)


def read_worklist(predictor: Scorer, paths: list[str], progress=None) -> tuple[list[list], list, str | None]:
    """Score the table's rows, `(thumbnail, caption)` of its top, and the CSV; one bad file never stops the rest."""
    found = Found(0, [])
    for found in score_worklist(predictor, paths):
        if progress is not None:
            progress((len(found.answers), found.total), desc="Reading films")
    answers = found.answers
    if not answers:
        return [], [], None
    table = [
        [answer["name"], *(_shown(shown_of(answer).get(column)) for column in _columns(predictor)[1:])]
        for answer in answers
    ]
    return (
        table,
        [(film, _caption(answer)) for film, answer in _thumbnails(answers)],
        _write_csv(predictor, answers, predictor.settings.threshold),
    )


def opened(
    predictor: Scorer, report: Report | None, answer: dict, threshold: float, hidden: bool = False
) -> tuple[str, str]:
    """Lay out the film of an answer, and its decision in words, which can be hidden until they are asked for."""
    film = decode(answer["image"]).film if answer["image"] else None
    name = f'<p class="name">{html.escape(answer["name"])}</p>'
    seen = answer | {"size": film.size} if film else answer
    verdict = verdict_html(predictor, seen, threshold, report, answer.get("age"))
    said = name + (FOLDED.format(verdict) if hidden and is_scored(answer) else verdict)
    if film is None:
        return ("" if answer["kind"] == "unreadable" else f'<p class="hint">{GONE}</p>'), said
    return viewer_html(film).replace("film-window", FILTER).replace("film-keys", "worklist-keys"), said


def _shown(value: object) -> object:
    return round(value, 4) if isinstance(value, float) else value or ""


def _thumbnails(answers: list[dict]) -> Iterator[tuple[Image.Image, dict]]:
    """Small pictures of the first of some answers that have a film."""
    for answer in answers[:THUMBNAILS]:
        film = None if answer["kind"] == "unreadable" else decode(answer["image"]).film
        if film is not None:
            film.thumbnail((SIDE, SIDE))
            yield film, answer


def _caption(answer: dict) -> str:
    score = shown_of(answer)["probability"]
    return f"{'' if score is None else f'{score:.1%} '}{answer['flag']} {answer['name']}"


def _columns(predictor: Scorer) -> tuple[str, ...]:
    return COLUMNS + columns_of(predictor.task)[len(PREDICTION_COLUMNS) :]


def _write_csv(predictor: Scorer, answers: list[dict], threshold: float) -> str:
    unsure = predictor.settings.abstention_band(threshold)
    decided = {
        "threshold": predictor.settings.flagged_from(threshold),
        "no_answer_from": unsure[0] if unsure else "",
        "model": Path(predictor.name).name,
    }
    write_table(path := download_path("worklist.csv"), columns_of(predictor.task), map(shown_of, answers), decided)
    return str(path)


def _write_page(predictor: Scorer, answers: list[dict], point: str, report: Report | None) -> str:
    path = download_path("worklist.html")
    to_look_at = [answer for answer in answers if answer["kind"] in ("review", "abstain", "not_chest_xray")]
    shown = [shown_of(answer) for answer in answers]
    write_worklist_page(path, predictor, point, shown, list(_thumbnails(to_look_at)), len(to_look_at), report)
    return str(path)
