"""What Hugging Face Inference Endpoints call: films in, the answers of `Predictor` out."""

from pathlib import Path
from typing import Any

from pneumo_hf import DISCLAIMER, Predictor
from pneumo_hf.errors import InputError
from pneumo_hf.imaging.film import from_base64


class EndpointHandler:
    """Loads the checkpoint beside it once, then answers requests."""

    def __init__(self, path: str = ""):
        self.predictor = Predictor(path or Path(__file__).parent)

    def __call__(self, data: dict[str, Any]) -> list[dict[str, Any]]:
        """Score the films of a request.

        Args:
            data: `inputs`, a film or a list of them, each a picture, its bytes, or these in base64 as JSON sends them;
                and perhaps `parameters`, of which `operating_point` names one of the checkpoint's.

        Returns:
            `{"probability", "prediction", "flag", "error", "threshold", "notice"}` of each film.
        """
        inputs, parameters, settings = data.get("inputs", []), data.get("parameters"), self.predictor.settings
        point = parameters.get("operating_point") if isinstance(parameters, dict) else None
        point = point or settings.method
        if point not in settings.thresholds:
            return [self._refused(f"there is no operating point of that name, only {', '.join(settings.thresholds)}")]
        return [self._answer(film, settings.thresholds[point]) for film in _as_list(inputs)]

    def _answer(self, film: Any, threshold: float) -> dict[str, Any]:
        try:
            answer = self.predictor([from_base64(film) if isinstance(film, str) else film])[0]
        except InputError as error:
            return self._refused(str(error))
        except (TypeError, AttributeError, KeyError):
            return self._refused("a film is a picture, its bytes, or these in base64")
        if answer["probability"] is not None and not answer["error"]:
            answer |= self.predictor.settings.decide(answer["probability"], threshold=threshold)
        return {**answer, "threshold": threshold, "notice": DISCLAIMER}

    def _refused(self, reason: str) -> dict[str, Any]:
        return {**self.predictor.unread(reason), "threshold": None, "notice": DISCLAIMER}


def _as_list(inputs: Any) -> list:
    return inputs if isinstance(inputs, list) else [inputs]
