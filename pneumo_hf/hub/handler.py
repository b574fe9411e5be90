"""What Hugging Face Inference Endpoints call: films in, the answers of `Predictor` out."""

import base64
import binascii
from pathlib import Path
from typing import Any

from pneumo_hf import DISCLAIMER, Predictor
from pneumo_hf.errors import InputError


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
        inputs, settings = data.get("inputs", []), self.predictor.settings
        point = (data.get("parameters") or {}).get("operating_point") or settings.method
        if point not in settings.thresholds:
            return [self._refused(f"there is no operating point of that name, only {', '.join(settings.thresholds)}")]
        threshold, answers = settings.thresholds[point], []
        for film in inputs if isinstance(inputs, list) else [inputs]:
            try:
                answer = self.predictor([base64.b64decode(film, validate=True) if isinstance(film, str) else film])[0]
            except binascii.Error:
                answers.append(self._refused("the film is not in base64"))
                continue
            except InputError as error:
                answers.append(self._refused(str(error)))
                continue
            if answer["probability"] is not None and not answer["error"]:
                answer |= settings.decide(answer["probability"], threshold=threshold)
            answers.append({**answer, "threshold": threshold, "notice": DISCLAIMER})
        return answers

    def _refused(self, reason: str) -> dict[str, Any]:
        return {**self.predictor.unread(reason), "threshold": None, "notice": DISCLAIMER}
