"""The answer to one film as data, for other programs."""

import logging
import time

import gradio as gr

from pneumo_hf import DISCLAIMER
from pneumo_hf.app.decoding import decode, prepare
from pneumo_hf.app.model_thread import MOST_AT_ONCE, ON_ZERO_GPU, Together, scoring
from pneumo_hf.app.verdict import at_threshold
from pneumo_hf.errors import InputError
from pneumo_hf.imaging.film import from_base64
from pneumo_hf.imaging.processor import fixed_resize
from pneumo_hf.imaging.quality import quality_issue
from pneumo_hf.inference.scorer import Decoded, Scorer

logger = logging.getLogger(__name__)


class Answers:
    """Answers to single films as data, for gradio's endpoints and REST; those that wait are scored as one batch."""

    def __init__(self, predictor: Scorer):
        self.predictor, self.thresholds = predictor, predictor.settings.thresholds
        self.scoring = scoring(predictor)  # here, for ZeroGPU wants to know of it before the app is launched
        self.together = Together(predictor)
        self.ready = True  # to be asked; the app may have more to prepare
        found = [fixed_resize(member.image_processor) for member in predictor.members]
        resizes = [resize for resize in found if resize and not resize.clahe]  # which needs torch
        self.resizes = resizes if len(resizes) == len(found) else []

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
        image = {"bytes": film if sent else None, "path": None if sent else str(film)}
        result = self._score_film(image) if ON_ZERO_GPU else self.together(self._prepared(image))
        decided = at_threshold(self.predictor, result, self.thresholds[point])
        logger.info("scored a film in %.0f ms", 1000 * (time.perf_counter() - start))
        return decided

    def _prepared(self, image: dict) -> Decoded:
        if self.resizes:
            return prepare(image, self.resizes)
        picture, reason, _ = decode(image)  # to be resized by a processor, which the processes that read are without
        if picture is None:
            return {"error": reason}, None
        return {"error": "", "issue": quality_issue(picture)}, self.predictor.resize(picture)

    def _score_film(self, image: dict) -> dict:
        picture, reason, _ = decode(image)
        return self.predictor.unread(reason) if picture is None else self.scoring([picture])[0]


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
