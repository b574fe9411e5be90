"""A screened film becomes its answer: a structured report and, on request, a heatmap."""

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from pydicom import Dataset

from pneumo_hf.inference.scorer import Scorer
from pneumo_hf.pacs.structured_report import Model, structured_report

NO_CHEST = "not_chest_xray"  # the flag of what is no chest film


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

    def documents(self, header: Dataset, film: Image.Image | None, answer: dict) -> list[Dataset]:
        """Make the DICOM documents of an answer to a film, none for what is no chest film.

        The film is for its heatmap alone.
        """
        if answer["flag"] == NO_CHEST:
            return []
        documents = [structured_report(header, answer, self.model)]
        if self.heatmap and film:
            from pneumo_hf.pacs.secondary_capture import secondary_capture

            documents.append(secondary_capture(header, self.heatmap(film), self.model))
        return documents


def heatmap_maker(scorer: Scorer) -> Callable[[Image.Image], Image.Image]:
    """Return what lays the heatmap of a film over it."""
    from pneumo_hf.inference.explain import GradCam, overlay

    grad_cam = GradCam(scorer)

    def make(film: Image.Image) -> Image.Image:
        pixels = (torch.from_numpy(np.stack([part])) for part in scorer.resize(film))
        return overlay(film, grad_cam(*pixels)[0])

    return make
