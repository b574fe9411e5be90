"""Age, sex and view beside the film: a small model over the checkpoint's score, in a file of its own."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import cached_file

from pneumo_hf.data.predictions import log_odds
from pneumo_hf.data.schema import CLINICAL_COLUMNS
from pneumo_hf.errors import InputError
from pneumo_hf.inference.settings import is_positive

CLINICAL = "clinical.json"  # beside the weights, where the stock pipeline does not look
ANSWERS = ("probability_clinical", "prediction_clinical")  # of a predictions CSV
EPSILON = 1e-7
LARGEST_ODDS = 500.0  # on the logarithmic scale; beyond, exp overflows


@dataclass
class ClinicalModel:
    """Log odds = intercept + weight x the checkpoint's log odds + what each known column adds (late fusion).

    A column's part is centred on the films that it was fitted on: one that is not known adds nothing.

    >>> model = ClinicalModel(0.0, 1.0, {"age": {"mean": 40, "per_year": 0.1}, "sex": {"F": -0.2, "M": 0.2}}, 0.5)
    >>> round(model.probability(0.5, {"age": 50.0, "sex": None}), 4)
    0.7311
    """

    intercept: float
    weight: float
    columns: dict[str, dict[str, float]]  # "age": its mean, and what a year adds; others: what each value adds
    threshold: float
    method: str = "youden"  # that the threshold was chosen by, on validation

    def probability(self, probability: float, values: Mapping[str, Any]) -> float | None:
        """Fuse a score with what is known of the film; None where no column is known."""
        return self.fuse(probability, values) if self.known(values) else None

    def fuse(self, probability: float, values: Mapping[str, Any]) -> float:
        """Fuse a score with what is known of the film, if anything is: on one scale for all films."""
        odds = float(log_odds(probability, EPSILON))
        parts = sum(self._part(name, value) for name, value in self.known(values).items())
        total = self.intercept + self.weight * odds + parts
        return 1 / (1 + math.exp(-min(max(total, -LARGEST_ODDS), LARGEST_ODDS)))

    def known(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Select the values that the model has a part for."""
        return {
            name: values[name]
            for name, parts in self.columns.items()
            if values.get(name) is not None and (name == "age" or values[name] in parts)
        }

    def answer(self, probability: float | None, values: Mapping[str, Any], labels: tuple[str, str]) -> dict:
        """Return the values of ANSWERS for a film, None where nothing is known of it.

        Args:
            probability: the checkpoint's own.
            values: by column.
            labels: what is called below the threshold, and from it up.
        """
        fused = None if probability is None else self.probability(probability, values)
        called = None if fused is None else labels[int(is_positive(fused, self.threshold))]
        return dict(zip(ANSWERS, (fused, called), strict=True))

    def save(self, folder: Path) -> None:
        """Write the model beside the weights."""
        (folder / CLINICAL).write_text(json.dumps(asdict(self), indent=2) + "\n")

    def _part(self, name: str, value: Any) -> float:
        parts = self.columns[name]
        return parts["per_year"] * (float(value) - parts["mean"]) if name == "age" else parts[value]


def load_clinical(checkpoint: str | Path) -> ClinicalModel | None:
    """Load the clinical model beside a checkpoint, a folder or Hub id; None where there is none.

    Raises:
        InputError: it is damaged.
    """
    try:
        path = cached_file(str(checkpoint), CLINICAL, _raise_exceptions_for_missing_entries=False)
    except OSError:
        return None
    if path is None:
        return None
    try:
        model = ClinicalModel(**json.loads(Path(path).read_text()))
        numbers = [model.intercept, model.weight, model.threshold]
        numbers += [number for parts in model.columns.values() for number in parts.values()]
        whole = set(model.columns) <= set(CLINICAL_COLUMNS) and {"mean", "per_year"} == set(
            model.columns.get("age", {"mean": 0, "per_year": 0})
        )
        if not whole or not np.isfinite(np.array(numbers, float)).all():
            raise ValueError("a value is missing, or is no number")
        return model
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{CLINICAL} of {checkpoint} is damaged: {error}") from error
