"""A checkpoint gives scores: the one place where films become probabilities, for training, commands and the app."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from scipy.special import softmax
from tqdm.auto import tqdm
from transformers import AutoModelForImageClassification

from pneumo_hf.config import LABELS, InputError
from pneumo_hf.data.columns import in_batches, one_ahead
from pneumo_hf.data.files import UNREADABLE, is_missing, read_film
from pneumo_hf.data.pixels import FilmDataset
from pneumo_hf.imaging.film import UnreadableFilmError, XraySource, load_xray
from pneumo_hf.imaging.processor import Normalize, load_image_processor, resize_film
from pneumo_hf.imaging.quality import MISLAID, SHORTCOMINGS, shortcoming
from pneumo_hf.inference import hidden_head  # noqa: F401 - tells transformers of the one architecture of our own
from pneumo_hf.inference.abstention import load_detector, undecided
from pneumo_hf.inference.folding import folded
from pneumo_hf.inference.onnx import OnnxModel

logger = logging.getLogger(__name__)

NEGATIVE, POSITIVE = LABELS


class Predictor:
    """Scores films with a checkpoint, as the stock pipeline does, and decides at the checkpoint's own threshold.

    Scores come from `network`, which is folded when it is loaded; explanations and exports are of `model`, as the
    checkpoint has it.

    Args:
        checkpoint: a folder or Hub id of a two-label image classifier with the label PNEUMONIA.
        device: of torch; by default the GPU where there is one.
        batch_size: films at once; by default 32 on a GPU and 16 on a CPU.
        flip: average the logits with those of the mirrored film (test-time augmentation).
        backend: "torch", or "onnx" for what `python -m pneumo_hf export` wrote, on the CPU.

    Raises:
        InputError: the checkpoint cannot be loaded or has other labels.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        device: str | None = None,
        batch_size: int | None = None,
        flip: bool = False,
        backend: Literal["torch", "onnx"] = "torch",
    ):
        self.name = str(checkpoint)
        if is_missing(Path(checkpoint)):
            raise InputError(f"there is no checkpoint {checkpoint}")  # before the Hub is asked for it again and again
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
        training = settings.get("training_data")
        training = training if isinstance(training, dict) else {}  # a stranger's may be anything
        self.limits = settings.get("abstention")  # of `conformal_limits`
        self.detector = load_detector(checkpoint)
        self.learnt_kermany = bool(training.get("kermany"))  # whose films are of children
        self.learnt_prevalence = training.get("prevalence_of_scores")
        self.onnx = OnnxModel(checkpoint, self.model, self.image_processor) if backend == "onnx" else None
        device = "cpu" if self.onnx else device
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            self.device = torch.device(device)
            torch.zeros(1, device=self.device).item()
        except (AssertionError, RuntimeError, ImportError) as error:  # torch's words for: not here
            raise InputError(f"device {device} cannot be used here: {str(error).splitlines()[0][:100]}") from error
        self.batch_size = batch_size or (16 if self.device.type == "cpu" else 32)
        self.normalize = Normalize(self.image_processor, torch.channels_last)
        self.network = self.model.eval()
        if not self.onnx:
            noise = Image.fromarray(np.random.default_rng(0).integers(256, size=(256, 256), dtype=np.uint8))
            example = self.normalize(torch.from_numpy(self.resize(noise)[0][None]))
            self.network = folded(self.model, example, padding=self.device.type == "cpu")
        for module in (self.model, self.network):
            module.to(self.device, memory_format=torch.channels_last)
        self.normalize.to(self.device)

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

        `probability` is P(PNEUMONIA); `flag` is "review" from the decision threshold up, "abstain" where neither label
        is sure or the film's quality forbids it, and "not_chest_xray" for other pictures; what is wrong with a picture
        is said in `error`. A film that cannot be read has the reason in `error`, and None elsewhere.
        """
        rows = ({"image": film} for film in films)
        return [
            {key: row[key] for key in ("probability", "prediction", "flag", "error")}
            for row in self.score_rows(rows, read=lambda film: film)
        ]

    def score_rows(self, rows: Iterable[dict], read=read_film) -> Iterator[dict]:
        """Stream rows with an `image`, a batch at a time: the same rows with their scores, memory constant.

        While the model looks at a batch, a thread reads and decodes the next.
        """
        for batch, pixels in one_ahead(self._decoded_batches(rows, read)):
            yield from self._score_batch(batch, pixels)

    def _decoded_batches(
        self, rows: Iterable[dict], read: Callable
    ) -> Iterator[tuple[list[dict], list[tuple[np.ndarray, ...]]]]:
        """`batch_size` rows at a time, and the pixels of those that can be read."""

        def decode(row: dict) -> tuple[dict, tuple[np.ndarray, ...] | None]:
            try:
                film = load_xray(read(row["image"]))
                return {**row, "shortcoming": shortcoming(film), "error": ""}, self.resize(film)
            except (UnreadableFilmError, *UNREADABLE) as error:
                return {**row, "error": reason_of(error)}, None

        # beside a GPU every core decodes; on a CPU they are the network's
        shared_by = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        threads = 1 if self.device.type == "cpu" else max(1, (os.cpu_count() or 1) // shared_by)
        with ThreadPoolExecutor(threads) as pool:
            for batch in in_batches(rows, self.batch_size):
                decoded = list((pool.map if threads > 1 else map)(decode, batch))
                yield [row for row, _ in decoded], [pixels for _, pixels in decoded if pixels is not None]

    def score_films(self, *films: FilmDataset) -> np.ndarray:
        """Logits `[N, 2]` float32 of decoded films, in the order NORMAL, PNEUMONIA, with a progress bar.

        Args:
            films: the films as each of `members` decodes them.
        """
        return np.concatenate([self.logits(*pixels) for pixels in self._batches(films)])

    def look_at_films(self, *films: FilmDataset) -> tuple[np.ndarray, np.ndarray]:
        """Logits `[N, 2]` as of `score_films`, and the distances `[N]` of `look`."""
        logits, distances = zip(*(self.look(*pixels) for pixels in self._batches(films)), strict=True)
        return np.concatenate(logits), np.concatenate(distances)

    def _batches(self, films: tuple[FilmDataset, ...]) -> Iterator[list[torch.Tensor]]:
        rows = range(len(films[0]))
        for start in tqdm(rows[:: self.batch_size], desc="Scoring films", unit="batch"):
            chosen = rows[start : start + self.batch_size]
            yield [part.__getitems__(chosen)["pixel_values"] for part in films]

    def resize(self, film: Image.Image) -> tuple[np.ndarray, ...]:
        """A film as each of `members` is fed it: `[1, H, W]` uint8 for each."""
        return tuple(resize_film(film, member.image_processor) for member in self.members)

    def logits(self, pixels: torch.Tensor) -> np.ndarray:
        """Logits `[B, 2]` of resized films `[B, 1, H, W]` uint8, in the order NORMAL, PNEUMONIA."""
        return self._forward(pixels, output_hidden_states=False)[0]

    def look(self, pixels: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Logits `[B, 2]`, and how far `[B]` each picture is from the films of training: above 1 it is none.

        The distances are NaN where the checkpoint has no detector.
        """
        if self.detector is None:
            return self.logits(pixels), np.full(len(pixels), np.nan)
        logits, features = self._forward(pixels, output_hidden_states=True)
        return logits, self.detector.distances(features)

    def features(self, pixels: torch.Tensor) -> np.ndarray:
        """What the detector looks at, `[B, D]`: the channels of every stage, averaged over the picture."""
        return self._forward(pixels, output_hidden_states=True)[1]

    def _forward(self, pixels: torch.Tensor, output_hidden_states: bool) -> tuple[np.ndarray, np.ndarray | None]:
        logits, features = self._network(pixels, output_hidden_states)
        if self.flip:
            logits = (logits + self._network(pixels.flip(-1), output_hidden_states=False)[0]) / 2
        return logits[:, [1 - self.positive, self.positive]], features

    def _network(self, pixels: torch.Tensor, output_hidden_states: bool) -> tuple[np.ndarray, np.ndarray | None]:
        if self.onnx:
            return self.onnx(pixels.numpy(), output_hidden_states)
        # Convolutions in full float32, so that a score from a GPU is the score from a CPU.
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            pixel_values = self.normalize(pixels.to(self.device))
            output = self.network(pixel_values=pixel_values, output_hidden_states=output_hidden_states)
        features = pooled_stages(output.hidden_states).cpu().numpy() if output_hidden_states else None
        return output.logits.float().cpu().numpy(), features

    def decide(
        self, probability: float, distance: float = np.nan, wrong: str = "", threshold: float | None = None
    ) -> dict[str, str]:
        """The prediction and the flag of a film, and in `error` what is wrong with a picture.

        Args:
            distance: of `look`. wrong: its `shortcoming`. threshold: by default the checkpoint's.
        """
        threshold = self.threshold if threshold is None else threshold
        above = probability >= threshold
        prediction, flag, error = POSITIVE if above else NEGATIVE, "review" if above else "", wrong
        if wrong and not (wrong == MISLAID and distance > 1):  # the detector knows better what is no chest at all
            flag = SHORTCOMINGS[wrong]
        elif distance > 1:
            flag, error = "not_chest_xray", f"unlike the films it was trained on: {distance:.2f} times the limit"
        elif self.limits and (undecided(probability, self.limits) or self._missed(probability, threshold)):
            flag = "abstain"
        return {"prediction": prediction, "flag": flag, "error": error}

    def _missed(self, probability: float, threshold: float) -> bool:
        """Whether pneumonia is the one label possible, and the threshold above the score."""
        return self.limits["pneumonia_from"] <= probability < threshold

    def use(self, operating_point: str) -> None:
        """Decide at another of the checkpoint's operating points.

        Raises:
            InputError: it carries none of that name.
        """
        thresholds = {point["name"]: point["threshold"] for point in self.operating_points}
        if operating_point not in thresholds:
            raise InputError(
                f"{self.name} carries no operating point {operating_point}, only {', '.join(thresholds) or 'none'}"
            )
        self.threshold, self.method = thresholds[operating_point], operating_point

    def _score_batch(self, batch: list[dict], pixels: list[tuple[np.ndarray, ...]]) -> Iterator[dict]:
        parts = [torch.from_numpy(np.stack(part)) for part in zip(*pixels, strict=True)]
        logits, distances = self.look(*parts) if pixels else (np.empty((0, 2)), [])
        seen = zip(probability_of(logits), distances, strict=True)
        for row in batch:
            if row["error"]:
                yield {**row, "probability": None, "prediction": None, "flag": None}
            else:
                probability, distance = next(seen)
                decision = self.decide(probability, distance, row["shortcoming"])
                yield {**row, "probability": float(probability), **decision}


def pooled_stages(hidden_states: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """The channels of every stage `[B, C, H, W]`, averaged over the picture, one behind the other: `[B, D]`."""
    return torch.cat([stage.float().mean(dim=(2, 3)) for stage in hidden_states], dim=1)


def reason_of(error: Exception) -> str:
    """Why a film was not read, in a few words and without its path."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def why_not_loaded(checkpoint: str | Path, error: Exception) -> str:
    """What is wrong with a checkpoint that transformers cannot load, in one line."""
    if "trust_remote_code" in str(error):
        return f"{checkpoint} brings code of its own, which is not run here"
    if isinstance(error, SafetensorError):
        return f"the weights of {checkpoint} are damaged or not downloaded whole (a Git LFS pointer?): {error}"
    folder = Path(checkpoint)
    if folder.is_dir():
        lacks = [name for name in ("config.json", "preprocessor_config.json") if not (folder / name).exists()]
        lacks += [] if any(folder.glob("*model*.safetensors")) or any(folder.glob("*.bin")) else ["model.safetensors"]
        why = f"it lacks {', '.join(lacks)}" if lacks else str(error).strip().splitlines()[0]
        return f"cannot load {checkpoint}: {why} (a checkpoint folder, as train_hf.py writes it, has its files whole)"
    return f"cannot load {checkpoint}: neither a checkpoint folder, as train_hf.py writes, nor a Hub id within reach"


def probability_of(logits: np.ndarray) -> np.ndarray:
    """P(PNEUMONIA) `[N]` from logits `[N, 2]`, in double precision."""
    return softmax(logits.astype(np.float64), axis=1)[:, 1]


PREDICTION_COLUMNS = ("path", "label", "patient_id", "probability", "prediction", "flag", "error")


def prediction_rows(films: FilmDataset, probs: np.ndarray, distances: np.ndarray, predictor: Predictor) -> list[dict]:
    """Rows of a predictions CSV for decoded films, their probabilities `[N]` and the distances `[N]` of `look`."""
    return [
        {
            "path": film["file_name"],
            "label": LABELS[film["label"]],
            "patient_id": film["patient_id"],
            "probability": float(probability),
            **predictor.decide(probability, distance, wrong),
        }
        for film, probability, distance, wrong in zip(films.table, probs, distances, films.shortcomings, strict=True)
    ]
