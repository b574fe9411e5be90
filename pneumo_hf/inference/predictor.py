"""A checkpoint gives scores: the one place where films become probabilities, for training, commands and the app."""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from safetensors import SafetensorError
from scipy.special import softmax
from tqdm.auto import tqdm
from transformers import AutoModelForImageClassification

from pneumo_hf.config import LABELS, InputError
from pneumo_hf.data.files import UNREADABLE, read_film
from pneumo_hf.data.pixels import FilmDataset
from pneumo_hf.imaging.film import UnreadableFilmError, XraySource, load_xray
from pneumo_hf.imaging.processor import Normalize, load_image_processor, resize_film
from pneumo_hf.inference import hidden_head  # noqa: F401 - tells transformers of the one architecture of our own

logger = logging.getLogger(__name__)

NEGATIVE, POSITIVE = LABELS


class Predictor:
    """Scores films with a checkpoint, as the stock pipeline does, and decides at the checkpoint's own threshold.

    Args:
        checkpoint: a folder or Hub id of a two-label image classifier with the label PNEUMONIA.
        device: of torch; by default the GPU where there is one.
        batch_size: films at once.
        flip: average the logits with those of the mirrored film (test-time augmentation).

    Raises:
        InputError: the checkpoint cannot be loaded or has other labels.
    """

    def __init__(self, checkpoint: str | Path, device: str | None = None, batch_size: int = 32, flip: bool = False):
        self.name = str(checkpoint)
        try:
            self.model = AutoModelForImageClassification.from_pretrained(
                checkpoint, dtype=torch.float32, trust_remote_code=False
            )
            self.image_processor = load_image_processor(checkpoint)
        except (OSError, ValueError, SafetensorError) as error:
            raise InputError(why_not_loaded(checkpoint, error)) from error
        numbers = {label: int(number) for number, label in self.model.config.id2label.items()}
        if set(numbers) != set(LABELS):
            found = ", ".join(list(numbers)[:5])
            raise InputError(f"{checkpoint} is no classifier of {' and '.join(LABELS)}: its labels are {found}")
        self.positive = numbers[POSITIVE]
        settings = self.model.config.to_dict()
        self.calibrated = "decision_threshold" in settings  # else it was not made here, and nothing was chosen
        self.flip = flip
        self.threshold = float(settings.get("decision_threshold", 0.5))
        self.method = settings.get("decision_method", "youden" if self.calibrated else "default")
        self.operating_points = settings.get("operating_points", [])
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.batch_size = batch_size
        self.model.to(self.device, memory_format=torch.channels_last).eval()
        self.normalize = Normalize(self.image_processor).to(self.device)

    @property
    def members(self) -> list["Predictor"]:
        """The checkpoints behind it: itself, or those of an ensemble."""
        return [self]

    @property
    def chosen_on(self) -> str:
        """The films that temperature and thresholds were chosen on."""
        if not self.calibrated:
            return "nothing: the checkpoint carries none"
        return "validation, without mirroring" if self.flip else "validation"

    def __call__(self, films: Iterable[XraySource]) -> list[dict]:
        """Score paths, bytes, PIL pictures or arrays, in order: `[{"probability", "prediction", "flag", "error"}]`.

        `probability` is P(PNEUMONIA); `flag` is "review" from the decision threshold up. A film that cannot be read
        has the reason in `error`, and None elsewhere.
        """
        rows = ({"image": film} for film in films)
        return [
            {key: row[key] for key in ("probability", "prediction", "flag", "error")}
            for row in self.score_rows(rows, read=lambda film: film)
        ]

    def score_rows(self, rows: Iterable[dict], read=read_film) -> Iterator[dict]:
        """Stream rows with an `image`, a batch at a time: the same rows with their scores, memory constant."""
        batch, pixels = [], []
        for row in rows:
            try:
                pixels.append(self.resize(load_xray(read(row["image"]))))
                batch.append({**row, "error": ""})
            except (UnreadableFilmError, *UNREADABLE) as error:
                batch.append({**row, "error": str(error) or type(error).__name__})
            if len(batch) == self.batch_size:
                yield from self._score_batch(batch, pixels)
                batch, pixels = [], []
        yield from self._score_batch(batch, pixels)

    def score_films(self, *films: FilmDataset) -> np.ndarray:
        """Logits `[N, 2]` float32 of decoded films, in the order NORMAL, PNEUMONIA, with a progress bar.

        Args:
            films: the films as each of `members` decodes them.
        """
        rows, logits = range(len(films[0])), []
        for start in tqdm(rows[:: self.batch_size], desc="Scoring films", unit="batch"):
            chosen = rows[start : start + self.batch_size]
            logits.append(self.logits(*(part.__getitems__(chosen)["pixel_values"] for part in films)))
        return np.concatenate(logits)

    def resize(self, film: Image.Image) -> tuple[np.ndarray, ...]:
        """A film as each of `members` is fed it: `[1, H, W]` uint8 for each."""
        return tuple(resize_film(film, member.image_processor) for member in self.members)

    def logits(self, pixels: torch.Tensor) -> np.ndarray:
        """Logits `[B, 2]` of resized films `[B, 1, H, W]` uint8, in the order NORMAL, PNEUMONIA."""
        # Convolutions in full float32, so that a score from a GPU is the score from a CPU.
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            pixel_values = self.normalize(pixels.to(self.device)).contiguous(memory_format=torch.channels_last)
            logits = self.model(pixel_values=pixel_values).logits
            if self.flip:
                logits = (logits + self.model(pixel_values=pixel_values.flip(-1)).logits) / 2
        return logits.float().cpu().numpy()[:, [1 - self.positive, self.positive]]

    def decide(self, probability: float) -> dict[str, str]:
        flagged = probability >= self.threshold
        return {"prediction": POSITIVE if flagged else NEGATIVE, "flag": "review" if flagged else ""}

    def _score_batch(self, batch: list[dict], pixels: list[tuple[np.ndarray, ...]]) -> Iterator[dict]:
        parts = [torch.from_numpy(np.stack(part)) for part in zip(*pixels, strict=True)]
        probs = iter(probability_of(self.logits(*parts)) if pixels else [])
        for row in batch:
            if row["error"]:
                yield {**row, "probability": None, "prediction": None, "flag": None}
            else:
                probability = float(next(probs))
                yield {**row, "probability": probability, **self.decide(probability)}


class Ensemble(Predictor):
    """Several checkpoints as one: the mean of their logits, divided by a temperature of its own.

    Made by `pneumo_hf.evaluation.ensemble.load_predictor`, which fits temperature and thresholds on validation.

    Args:
        members: the checkpoints' predictors.
        temperature: of the mean logits.
        operating_points: as in a checkpoint's `config.json`; None where nothing could be chosen on validation.
        threshold: the decision threshold, chosen by `method`.
    """

    def __init__(
        self,
        members: list[Predictor],
        temperature: float,
        threshold: float,
        method: str,
        operating_points: list[dict] | None,
    ):
        self._members, self.temperature = members, temperature
        self.threshold, self.method = threshold, method
        self.name = " + ".join(Path(member.name).name for member in members)
        self.calibrated, self.operating_points = operating_points is not None, operating_points or []
        self.batch_size, self.flip = members[0].batch_size, members[0].flip

    @property
    def members(self) -> list[Predictor]:
        return self._members

    def logits(self, *pixels: torch.Tensor) -> np.ndarray:
        logits = [member.logits(part) for member, part in zip(self.members, pixels, strict=True)]
        return mean_logits(np.stack(logits)) / np.float32(self.temperature)


def mean_logits(logits: np.ndarray) -> np.ndarray:
    """Logits `[M, N, 2]` of M members -> `[N, 2]`: their mean, the geometric mean of the odds."""
    return logits.mean(axis=0)


def why_not_loaded(checkpoint: str | Path, error: Exception) -> str:
    """What is wrong with a checkpoint that transformers cannot load, in one line."""
    if "trust_remote_code" in str(error):
        return f"{checkpoint} brings code of its own, which is not run here"
    if isinstance(error, SafetensorError):
        return f"the weights of {checkpoint} are damaged or not downloaded whole (a Git LFS pointer?): {error}"
    return f"cannot load {checkpoint}: neither a checkpoint folder, as train_hf.py writes, nor a Hub id within reach"


def probability_of(logits: np.ndarray) -> np.ndarray:
    """P(PNEUMONIA) `[N]` from logits `[N, 2]`, in double precision."""
    return softmax(logits.astype(np.float64), axis=1)[:, 1]


PREDICTION_COLUMNS = ("path", "label", "patient_id", "probability", "prediction", "flag", "error")


def prediction_rows(table: Dataset, probs: np.ndarray, predictor: Predictor) -> list[dict]:
    """Rows of a predictions CSV for decoded films and their probabilities."""
    return [
        {
            "path": film["file_name"],
            "label": LABELS[film["label"]],
            "patient_id": film["patient_id"],
            "probability": float(probability),
            **predictor.decide(probability),
            "error": "",
        }
        for film, probability in zip(table, probs, strict=True)
    ]
