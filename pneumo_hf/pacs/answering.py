"""A screened film becomes its answer: a structured report and, on request, a heatmap."""

from collections.abc import Callable
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from pydicom import Dataset

from pneumo_hf.inference.scorer import Scorer
from pneumo_hf.pacs.structured_report import Model, structured_report

NO_CHEST = "not_chest_xray"  # the flag of what is no chest film


class UnanswerableError(Exception):
    """A film that is not answered: the reason, and its detail, which is not counted by."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason} ({detail})" if detail else reason)
        self.reason = reason


class Answering:
    """Answers to films with a scorer, film by film: the score does not depend on what else is waiting.

    Args:
        heatmap: add the film under its Grad-CAM heatmap, as a secondary capture.

    Raises:
        InputError: Grad-CAM finds no map of features in the model.
    """

    def __init__(self, scorer: Scorer, heatmap: bool = False, **options: object):
        self.scorer, self.model = scorer, Model.of(scorer, **options)
        self.heatmap = heatmap_maker(scorer) if heatmap else None

    def score(self, film: Image.Image) -> dict:
        """Score a film: "probability", "prediction", "flag", "error"."""
        return self.scorer([film])[0]

    def documents(self, header: Dataset, film: Image.Image | None, answer: dict) -> list[bytes]:
        """Make the DICOM files of an answer to a film: the report, and the heatmap, which alone needs the film.

        Raises:
            UnanswerableError: the model takes it for no chest film, or its header allows no report.
        """
        if answer["flag"] == NO_CHEST:
            raise UnanswerableError("the model takes it for no chest film", answer["error"])
        overlay = self.heatmap(film) if self.heatmap and film else None
        try:
            documents = [structured_report(header, answer, self.model)]
            if overlay:
                from pneumo_hf.pacs.secondary_capture import secondary_capture

                documents.append(secondary_capture(header, overlay, self.model))
            return [as_file(document) for document in documents]
        except Exception as error:  # what highdicom and pydicom raise on a header's values has no class in common
            raise UnanswerableError("no report can be made of its header", type(error).__name__) from error


def as_file(document: Dataset) -> bytes:
    """Write a document as a DICOM file."""
    file = BytesIO()
    document.save_as(file, enforce_file_format=True)
    return file.getvalue()


def heatmap_maker(scorer: Scorer) -> Callable[[Image.Image], Image.Image]:
    """Return what lays the heatmap of a film over it."""
    from pneumo_hf.inference.explain import GradCam, overlay

    grad_cam = GradCam(scorer)

    def make(film: Image.Image) -> Image.Image:
        pixels = (torch.from_numpy(np.stack([part])) for part in scorer.resize(film))
        return overlay(film, grad_cam(*pixels)[0])

    return make
