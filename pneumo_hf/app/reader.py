"""The tab that reads one film: in goes a file, out come the film, the probability on its scale, and the decision."""

import html
import io
import logging
import time
from pathlib import Path

import gradio as gr
import numpy as np
import torch
from PIL import Image

from pneumo_hf.app.answers import FACTS, clinical_html, file_facts, verdict_html, write_case_report
from pneumo_hf.app.decoding import decode
from pneumo_hf.app.model_tab import Report
from pneumo_hf.app.model_thread import in_model_thread
from pneumo_hf.data.schema import CLINICAL_COLUMNS
from pneumo_hf.errors import InputError
from pneumo_hf.inference.explain import GradCam, overlay
from pneumo_hf.inference.scorer import Scorer

logger = logging.getLogger(__name__)

EMPTY = '<p class="hint">Drop a film into the box, or choose an example below.</p>'
EXAMPLES = "Films of the official test set (Kermany et al. 2018, CC BY 4.0); the name shows the label"
BY_HAND = "by the slider"
LARGEST_SHOWN = 3000  # pixels a side under a heatmap, which takes some 50 bytes for each
PRINTED_OPACITY = 0.5  # of the heatmap on a case report


class Reader:
    """What the tab's parts do when they are used."""

    def __init__(self, predictor: Scorer, report: Report | None):
        self.predictor, self.report, self.thresholds = predictor, report, predictor.settings.thresholds

    def read(self, path: str | None) -> tuple:
        result, film = read_film_file(self.predictor, path)
        facts = file_facts(path, film) if path and film else {}
        age, sex, view = (facts.get(FACTS[name]) for name in CLINICAL_COLUMNS)
        return result, film, table_of(facts) if facts else "", age and float(age), sex, view

    def decide(
        self, result: dict | None, threshold: float, age: float | None, sex: str | None, view: str | None
    ) -> tuple[str, str]:
        verdict = verdict_html(self.predictor, result, threshold) if result else EMPTY
        verdict += clinical_html(self.predictor, result, {"age": age, "sex": sex, "view": view})
        return verdict, measured_html(self.report, threshold)

    def explain(self, path: str | None, opacity: float) -> Image.Image | None:
        """Lay the Grad-CAM heatmap of P(PNEUMONIA) over a film, at an opacity of 0 (the film as it is) to 1."""
        return explain_film_file(self.predictor, path, opacity)

    def case_report(self, path: str | None, threshold: float) -> str:
        """Write one page about one film, to print: decision, film, heatmap, facts of the file and of the model."""
        return report_film_file(self.predictor, path, threshold)


def build_reader(predictor: Scorer, examples: list[Path], report: Report | None, limits: dict) -> None:
    """Lay the tab out inside the current `gr.Blocks`; its API endpoints are `/explain` and `/case_report`.

    Args:
        report: the checkpoint's, where there is one.
        limits: of events that use the network.
    """
    reader, result = Reader(predictor, report), gr.State()
    with gr.Row():
        with gr.Column():
            file = gr.File(label="A chest film: PNG, JPEG, TIFF, WebP or DICOM", elem_id="film-file", height=140)
            shown = gr.Image(
                label="What is read", type="pil", interactive=False, height=420, elem_id="film", buttons=["fullscreen"]
            )
            opacity = gr.Slider(
                0, 1, 0, step=0.05, label="Heatmap (Grad-CAM): where the score rests", elem_id="opacity"
            )
        with gr.Column():
            verdict = gr.HTML(EMPTY, elem_id="verdict")
            point = gr.Dropdown(
                [*reader.thresholds, BY_HAND],
                value=predictor.settings.method,
                label="Operating point",
                elem_id="operating-point",
                info="what the decision threshold was chosen for, on validation films",
            )
            cut = gr.Slider(
                0, 1, predictor.settings.threshold, step=0.001, label="Decision threshold", elem_id="reader-threshold"
            )
            clinical = clinical_boxes(predictor)
            measured = gr.HTML(measured_html(report, predictor.settings.threshold), elem_id="measured")
            facts = gr.HTML("", elem_id="facts")
            make = gr.Button("Make a one-page report of this film", elem_id="make-report", size="sm")
            page = gr.File(label="The report (HTML, to print)", interactive=False, elem_id="case-report", height=80)
    if examples:
        gr.Examples([[str(path)] for path in examples], inputs=[file], label=EXAMPLES, elem_id="examples")
    # One after the other, so that no verdict is shown of an earlier film, or at an earlier threshold.
    emptied = file.change(
        lambda: (None, 0, None), None, [result, opacity, page], api_visibility="private", queue=False
    )
    scored = emptied.then(reader.read, file, [result, shown, facts, *clinical], api_visibility="private", **limits)
    decided = {"fn": reader.decide, "inputs": [result, cut, *clinical], "outputs": [verdict, measured]}
    scored.then(**decided, api_visibility="private")
    for changed in (cut, *clinical):
        changed.change(**decided, api_visibility="private", show_progress="hidden")
    point.input(lambda name: reader.thresholds.get(name, gr.skip()), point, cut, api_visibility="private")
    cut.input(lambda: BY_HAND, None, point, api_visibility="private")
    opacity.change(reader.explain, [file, opacity], shown, api_name="explain", trigger_mode="always_last", **limits)
    make.click(reader.case_report, [file, cut], page, api_name="case_report", **limits)


def clinical_boxes(predictor: Scorer) -> tuple[gr.Number, gr.Dropdown, gr.Dropdown]:
    """Lay out a box for each of age, sex and view, those that the model weighs to be seen."""
    weighed = predictor.clinical.columns if predictor.clinical else {}
    with gr.Row(visible=bool(weighed)):
        age = gr.Number(
            label="Age in years, if known", value=None, minimum=0, maximum=120, visible="age" in weighed, elem_id="age"
        )
        sex, view = (
            gr.Dropdown(
                ["", *weighed.get(name, ())],
                value="",
                label=f"{name.capitalize()}, if known",
                visible=name in weighed,
                allow_custom_value=True,  # of a header
                elem_id=f"film-{name}",
            )
            for name in ("sex", "view")
        )
    return age, sex, view


def read_film_file(predictor: Scorer, path: str | None) -> tuple[dict | None, Image.Image | None]:
    """Read and score a film; without a film where it cannot be read, None twice without a file."""
    if path is None:
        return None, None
    start = time.perf_counter()
    film, reason = _decode(path)
    if film is None:
        return predictor.unread(reason), None
    result = _score(predictor, film)
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


def report_film_file(predictor: Scorer, path: str | None, threshold: float) -> str:
    """Write the path of a case report; an error for the page where there is no film to report on."""
    result, film = read_film_file(predictor, path)
    if path is None or result is None or film is None:
        reason = f"not read: {result['error']}" if result else "There is no film yet: drop one into the box."
        raise gr.Error(reason, print_exception=False)
    pictures = {"The film as it was read.": film}
    try:
        caption = "Grad-CAM: where the score rests. A coarse map, and no outline of a finding."
        pictures[caption] = heatmap(predictor, film, PRINTED_OPACITY)
    except InputError:
        logger.info("a case report without a heatmap")
    return write_case_report(predictor, result, threshold, pictures, file_facts(path, film))


def heatmap(predictor: Scorer, film: Image.Image, opacity: float) -> Image.Image:
    """Lay a heatmap over a film, made smaller where it is large; InputError where no map explains the score."""
    coarse, shown = _explain(predictor, film), film.copy()
    shown.thumbnail((LARGEST_SHOWN, LARGEST_SHOWN))
    return overlay(shown, coarse, opacity)


@in_model_thread
def _score(predictor: Scorer, film: Image.Image) -> dict:
    return predictor([film])[0]


@in_model_thread
def _explain(predictor: Scorer, film: Image.Image) -> np.ndarray:
    return GradCam(predictor)(*(torch.from_numpy(part[None]) for part in predictor.resize(film)))[0]


def _decode(path: str) -> tuple[Image.Image | None, str]:
    """A film, or the reason in words, without the path of an upload."""
    if not Path(path).exists():
        return None, "the file is no longer here: drop it in again"
    return decode({"bytes": None, "path": path})[:2]


def measured_html(report: Report | None, threshold: float) -> str:
    """Format what was measured at a threshold."""
    if report is None or report.curve is None:
        return '<p class="hint">No measured sensitivity and specificity lie beside this checkpoint.</p>'
    sensitivity, specificity = report.at(threshold)
    return (
        f"<p>At this threshold, on the {report.metrics['n']} test films of its report: sensitivity "
        f"<b>{sensitivity:.3f}</b>, specificity <b>{specificity:.3f}</b>.</p>"
    )


def table_of(facts: dict[str, str]) -> str:
    """Format facts as a table."""
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in facts.items()
    )
    return f"<table>{rows}</table>"
