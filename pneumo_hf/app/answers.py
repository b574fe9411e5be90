"""What the app says of one film: the decision in words, as data for other programs, and as a page to keep."""

import base64
import datetime
import html
import io
import logging
import time
from pathlib import Path

import gradio as gr
from jinja2 import Environment, FileSystemLoader
from PIL import Image

from pneumo_hf import DISCLAIMER, __version__
from pneumo_hf.app.decoding import TooSlowError, call, decode
from pneumo_hf.app.files import download_path
from pneumo_hf.app.model_thread import MOST_AT_ONCE, ON_ZERO_GPU, Together, in_model_thread
from pneumo_hf.errors import InputError
from pneumo_hf.imaging.dicom import MODALITIES, dicom_facts, is_dicom
from pneumo_hf.imaging.film import describe, from_base64
from pneumo_hf.imaging.quality import NOTES
from pneumo_hf.inference.scorer import Scorer
from pneumo_hf.inference.settings import is_positive
from pneumo_hf.labels import NEGATIVE, Task, column_of

logger = logging.getLogger(__name__)

FACTS = {"view": "view", "age": "age in years", "sex": "sex", "body_part": "body part", "modality": "modality"}
SHOWN = {  # of a header's free text: anything else could be a name
    "view": {"PA", "AP", "LATERAL", "LL", "RL"},
    "body_part": {"CHEST", "THORAX", "LUNG", "LUNGS", "RIB", "RIBS"},
    "modality": MODALITIES,
}


class Answers:
    """Answers to single films as data, for gradio's endpoints and REST; those that wait are scored as one batch."""

    def __init__(self, predictor: Scorer):
        self.predictor, self.thresholds = predictor, predictor.settings.thresholds
        self.score = in_model_thread(lambda film: predictor([film])[0]) if ON_ZERO_GPU else Together(predictor)

    def point(self, name: str | None) -> str:
        """Return the name of an operating point, the checkpoint's own where none is named.

        Raises:
            InputError: the checkpoint has none of that name.
        """
        name = name or self.predictor.settings.method
        if name not in self.thresholds:
            raise InputError(f"there is no operating point of that name, only {', '.join(self.thresholds)}")
        return name

    def __call__(self, film: bytes | str, point: str) -> dict:
        """Decode and score a film, its content or its path, and decide at an operating point."""
        start, sent = time.perf_counter(), isinstance(film, bytes)
        picture, reason, _ = decode({"bytes": film if sent else None, "path": None if sent else film})
        result = self.predictor.unread(reason) if picture is None else self.score(picture)
        decided = at_threshold(self.predictor, result, self.thresholds[point])
        logger.info("answered a request in %.0f ms", 1000 * (time.perf_counter() - start))
        return decided


def build_api(predictor: Scorer, answers: Answers) -> None:
    """Add the endpoints `/predict` and `/predict_base64`, which have no part on the page."""

    def answer_to(film: bytes | str, point: str | None) -> dict:
        try:
            point = answers.point(point)
        except InputError as error:
            return predictor.unread(str(error))
        facts = {"operating_point": point, "threshold": answers.thresholds[point], "notice": DISCLAIMER}
        return answers(film, point) | facts

    def predict(film: str | None, operating_point: str | None) -> dict:
        """Score a chest film: P(PNEUMONIA), the decision at an operating point, and whether it should be trusted.

        Args:
            film: PNG, JPEG, TIFF, WebP or DICOM.
            operating_point: one of the model's by name; empty for its own.
        """
        return answer_to(film or b"", operating_point)

    def predict_base64(film: str, operating_point: str = "") -> dict:
        """Score a chest film that is sent in base64: P(PNEUMONIA), the decision, and whether it should be trusted.

        Args:
            film: the bytes of a PNG, JPEG, TIFF, WebP or DICOM in base64, or a data URL of them.
            operating_point: one of the model's by name; empty for its own.
        """
        try:
            return answer_to(from_base64(film), operating_point)
        except InputError as error:
            return predictor.unread(str(error))

    film, point = gr.File(label="film", visible=False), gr.Textbox(label="operating_point", value="", visible=False)
    answer = gr.JSON(label="answer", visible=False)
    limits = {"concurrency_limit": 2 * MOST_AT_ONCE, "concurrency_id": "predict"}
    gr.Button(visible=False).click(predict, [film, point], answer, api_name="predict", **limits)
    gr.api(predict_base64, api_name="predict_base64", **limits)


def at_threshold(predictor: Scorer, result: dict, threshold: float) -> dict:
    """Return a result of `Predictor` as another threshold decides it; what is wrong with a picture stays so."""
    if result["probability"] is None:
        return result
    decided = predictor.settings.decide(result["probability"], threshold=threshold)
    return {**result, "prediction": decided["prediction"]} if result["error"] else {**result, **decided}


def in_words(result: dict, threshold: float) -> tuple[str, str]:
    """Return `(kind, words)` of a decided result: clear, flag or unread."""
    if result["probability"] is None:
        return "unread", f"Not read: {result['error']}"
    if result["flag"] == "not_chest_xray":
        return "unread", f"Not read: no chest X-ray, {result['error']}"
    if result["flag"] == "abstain":
        return "unread", f"No answer: {result['error'] or 'neither label is certain enough'}"
    if is_positive(result["probability"], threshold):
        return "flag", "Flag for review: at or above the threshold"
    return "clear", "No flag: below the threshold"


def verdict_html(predictor: Scorer, result: dict, threshold: float) -> str:
    """Format the decision in words, and the probability as a bar with the threshold drawn on it."""
    result = at_threshold(predictor, result, threshold)
    kind, words = in_words(result, threshold)
    said = f'<div class="decision {kind}" role="status">{html.escape(words)}</div>'
    if result["probability"] is None or result["flag"] == "not_chest_xray":
        return said
    probability, validated = result["probability"], predictor.settings.is_calibrated
    how = f"calibrated on {predictor.chosen_on}" if validated else "as the checkpoint gives it, not calibrated"
    return f"""{said}
<div class="scale" role="img" aria-label="probability {probability:.1%}, threshold {threshold:.1%}">
  <div class="bar {kind}" style="width: {100 * probability:.2f}%"></div>
  <div class="threshold" style="left: {100 * threshold:.2f}%"></div>
</div>
<p><b>Probability of {html.escape(predictor.task.finding)}: {probability:.1%}</b>, {how}.
Decision threshold: {threshold:.1%}.</p>
{labels_html(result, predictor.task)}"""


def clinical_html(predictor: Scorer, result: dict | None, values: dict) -> str:
    """Format the probability with age, sex and view, where the model weighs them and one is known."""
    if predictor.clinical is None or not result or result["probability"] is None or result["flag"] == "not_chest_xray":
        return ""
    values = {name: None if value == "" else value for name, value in values.items()}  # an empty box is not known
    fused, called = predictor.clinical.answer(
        result["probability"], values, (NEGATIVE, predictor.task.positive)
    ).values()
    if fused is None:
        return '<p class="hint">Nothing is known beside the film: give what you know, below.</p>'
    known = ", ".join(
        f"{name} {value:g}" if name == "age" else f"{name} {value}"
        for name, value in predictor.clinical.known(values).items()
    )
    return (
        f"<p><b>With {html.escape(known)}: {fused:.1%}</b>, called {html.escape(called.lower())} "
        f"(threshold {predictor.clinical.threshold:.1%}).</p>"
    )


def labels_html(result: dict, task: Task) -> str:
    """Format the probability of each label, the largest first; nothing of two, of which one says both."""
    if task.is_binary:
        return ""
    shares = sorted(((result[column_of(label)], label) for label in task.labels), reverse=True)
    rows = "".join(f"<tr><th>{html.escape(label)}</th><td>{share:.1%}</td></tr>" for share, label in shares)
    return f'<table class="labels">{rows}</table>'


def file_facts(path: str, film: Image.Image) -> dict[str, str]:
    """Return what the file is, and of a DICOM its header's facts; nothing that names a person."""
    content = Path(path).read_bytes()
    found = call(describe, content)
    bits = f", {found['bits']} bits" if isinstance(found["bits"], int) else ""
    facts = {"file": f"{found['kind']}{bits}, {film.width} x {film.height} pixels"}
    if not is_dicom(content):
        return facts
    try:
        header = call(dicom_facts, content)
    except (ValueError, TooSlowError):  # its pixels could be read all the same
        return facts
    known = {key: value for key, value in header.items() if value is not None and value in SHOWN.get(key, {value})}
    if notes := film.info.get(NOTES):
        facts["note"] = "; ".join(notes)
    return facts | {words: str(known[key]) for key, words in FACTS.items() if key in known}


def write_case_report(
    predictor: Scorer, result: dict, threshold: float, pictures: dict[str, Image.Image], facts: dict[str, str]
) -> str:
    """Write one self-contained page about one film, to print or to keep: the path of its file.

    Args:
        pictures: `{caption: picture}`.
        facts: of `file_facts`.
    """
    decided = at_threshold(predictor, result, threshold)
    kind, words = in_words(decided, threshold)
    page = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True).get_template(
        "case_report.html.jinja"
    )
    path = download_path("case_report.html")
    path.write_text(
        page.render(
            kind=kind,
            words=words,
            result=decided,
            threshold=threshold,
            facts=facts,
            disclaimer=DISCLAIMER,
            pictures={caption: _as_address(picture) for caption, picture in pictures.items()},
            point=next((name for name, cut in predictor.settings.thresholds.items() if cut == threshold), "by hand"),
            points=predictor.settings.operating_points,
            chosen_on=predictor.chosen_on,
            model=Path(predictor.name).name,
            version=__version__,
            finding=predictor.task.finding,
            labels={}
            if predictor.task.is_binary
            else {name: result.get(column_of(name)) for name in predictor.task.labels},
            date=datetime.date.today().isoformat(),
        )
    )
    return str(path)


def _as_address(picture: Image.Image) -> str:
    """A picture inside its address, at most 900 pixels a side."""
    file, small = io.BytesIO(), picture.convert("RGB")
    small.thumbnail((900, 900))
    small.save(file, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
