"""What a checkpoint and an ensemble share: films become probabilities here, for training, commands and app."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from pneumo_hf.data.files import read_film
from pneumo_hf.data.predictions import columns_of
from pneumo_hf.data.reading import in_batches, in_threads, one_ahead, try_film
from pneumo_hf.imaging.film import XraySource
from pneumo_hf.imaging.processor import resize_film
from pneumo_hf.imaging.quality import quality_issue
from pneumo_hf.inference.clinical import ANSWERS, ClinicalModel
from pneumo_hf.inference.details import DETAIL_COLUMNS, details_of_dataset, details_of_film, rounded
from pneumo_hf.inference.settings import CheckpointSettings
from pneumo_hf.labels import NEGATIVE, Task, column_of
from pneumo_hf.runtime import Processes

if TYPE_CHECKING:
    from pneumo_hf.data.pixels import FilmDataset  # finds copies, by scipy and scikit-learn: not for scoring alone


Decoded = tuple[dict, tuple[np.ndarray, ...] | None]  # a row without its film; the film for each member, if readable


@dataclass
class Decoder:
    """Reads, decodes and resizes a film, which needs no network of a checkpoint but its image processors."""

    image_processors: list[Any]  # of each member of an ensemble
    details: bool = False  # whether to measure what `monitor` watches

    def __call__(self, row: dict, read: Callable = read_film) -> Decoded:
        """Return the row with `error`, and where that is empty `issue` and details; the film as members are fed it."""
        film, reason, content = try_film(row["image"], read)
        if film is None:
            return {**row, "error": reason}, None
        resized = self.resize(film)
        details = details_of_film(row, film, resized[0], content) if self.details else {}
        return {**row, **details, "issue": quality_issue(film), "error": ""}, resized

    def resize(self, film: Image.Image) -> tuple[np.ndarray, ...]:
        """Resize a film as each member is fed it: `[1, H, W]` uint8 for each."""
        return tuple(resize_film(film, image_processor) for image_processor in self.image_processors)


class Scorer(ABC):
    """Scores films and decides at its settings' threshold.

    A subclass sets the attributes below, `members` being the predictors of the checkpoints behind it, and has the two
    methods that score a batch.
    """

    name: str
    settings: CheckpointSettings
    device: torch.device
    batch_size: int
    members: list[Any]
    flip: bool
    clinical: ClinicalModel | None = None
    details: bool = False  # whether `score_rows` adds DETAIL_COLUMNS

    @abstractmethod
    def logits(self, *pixels: torch.Tensor) -> np.ndarray:
        """Score a batch: logits `[B, C]`, NORMAL first, of films `[B, 1, H, W]` uint8 for each member."""

    @abstractmethod
    def predict_with_outliers(self, *pixels: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Score a batch: logits `[B, C]`, and distances `[B]` from the films of training, above 1 for no chest film.

        The distances are NaN without a detector.
        """

    @property
    def task(self) -> Task:
        """The labels, in the order of the logits' columns."""
        return self.settings.task

    @property
    def decoder(self) -> Decoder:
        """What turns files into what the members are fed."""
        return Decoder([member.image_processor for member in self.members], self.details)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a predictions CSV of this scorer."""
        columns = columns_of(self.task) + (ANSWERS if self.clinical else ())
        return columns + (DETAIL_COLUMNS if self.details else ())

    @property
    def chosen_on(self) -> str:
        """The films that temperature and thresholds were chosen on."""
        return self.settings.chosen_on + (", without mirroring" if self.flip and self.settings.is_calibrated else "")

    def __call__(self, films: Iterable[XraySource]) -> list[dict]:
        """Score paths, bytes, PIL pictures or arrays, in order: `[{"probability", "prediction", "flag", "error"}]`.

        `probability` is P(PNEUMONIA), 1 - P(NORMAL), and of more than two labels `probability_NAME` that of each;
        `flag` is "review" from the decision threshold up, "abstain" where neither label is certain enough or the
        quality of the film forbids it, and "not_chest_xray" for other pictures; `error` says what is wrong with a
        picture. A film that cannot be read has the reason in `error`, and None elsewhere.
        """
        rows = ({"image": film} for film in films)
        return [{key: row[key] for key in self.unread("")} for row in self.score_rows(rows, read=lambda film: film)]

    def unread(self, reason: str) -> dict:
        """Return the answer for a film that could not be read."""
        return dict.fromkeys(columns_of(self.task)[3:]) | {"error": reason}

    def score_rows(self, rows: Iterable[dict], read: Callable = read_film) -> Iterator[dict]:
        """Score a stream of rows with an `image`, a batch at a time: the same rows with their scores, memory constant.

        While the model scores a batch, the next is read and decoded, by as many threads as there are cores.
        """
        threads = torch.get_num_threads() if self.device.type == "cpu" else None  # by OMP_NUM_THREADS fewer
        decode = partial(self.decoder, read=read)
        decoded = (result for _, result in in_threads(decode, rows, threads, self.batch_size))
        for batch in one_ahead(in_batches(decoded, self.batch_size)):
            yield from self.score_batch(batch)

    def predict_dataset(
        self, *films: "FilmDataset", outliers: bool = True, group: Processes | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Score decoded films with a progress bar: logits `[N, C]` float32, and the distances `[N]`.

        Args:
            films: the films as each member decodes them. outliers: whether the distances are needed; else NaN.
            group: the processes that share the work; every one of them has all results.
        """
        group, score = group or Processes(), self.predict_with_outliers if outliers else self._without_distances
        mine, results = (
            group.part(len(films[0]), self.batch_size),
            [(np.empty((0, len(self.task.labels)), np.float32), np.empty(0))],
        )
        starts = tqdm(mine[:: self.batch_size], desc="Scoring films", unit="batch", disable=not group.is_main)
        for start in starts:
            chosen = range(start, min(start + self.batch_size, mine.stop))
            results.append(score(*(part.__getitems__(chosen)["pixel_values"] for part in films)))
        whole = tuple(np.concatenate(values) for values in zip(*results, strict=True))
        logits, distances = zip(*group.gather(whole), strict=True)
        return np.concatenate(logits), np.concatenate(distances)

    def resize(self, film: Image.Image) -> tuple[np.ndarray, ...]:
        """Resize a film as each of `members` is fed it: `[1, H, W]` uint8 for each."""
        return self.decoder.resize(film)

    def prediction_rows(self, films: "FilmDataset", logits: np.ndarray, distances: np.ndarray) -> list[dict]:
        """Make the rows of a predictions CSV, with details, of decoded films, logits `[N, C]` and distances `[N]`."""
        parts = zip(
            films.table,
            self._scores(logits, distances),
            films.issues,
            details_of_dataset(films, distances),
            strict=True,
        )
        return [
            {
                "path": film["file_name"],
                "label": films.label_names[film["label"]],
                "patient_id": film["patient_id"],
                **details,
                **self._decided(*scores, issue, film),
            }
            for film, scores, issue, details in parts
        ]

    def _scores(self, logits: np.ndarray, distances: np.ndarray) -> Iterator[tuple[float, np.ndarray, float]]:
        """`(P(positive), probabilities [C], distance)` of each film."""
        return zip(probability_of(logits), probabilities(logits), distances, strict=True)

    def _decided(self, probability: float, of_labels: np.ndarray, distance: float, issue: str, row: Mapping) -> dict:
        answer: dict[str, Any] = {
            "probability": float(probability),
            **self.settings.decide(probability, distance, issue),
        }
        if not self.task.is_binary:
            answer |= zip(map(column_of, self.task.labels), of_labels.tolist(), strict=True)
        if self.details:
            answer["distance"] = rounded(distance)
        if self.clinical:
            answer |= self.clinical.answer(answer["probability"], row, (NEGATIVE, self.task.positive))
        return answer

    def _without_distances(self, *pixels: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        return self.logits(*pixels), np.full(len(pixels[0]), np.nan)

    def score_batch(self, batch: Sequence[Decoded]) -> Iterator[dict]:
        """Score films that `decoder` has decoded: their rows with the scores."""
        pixels = [resized for _, resized in batch if resized is not None]
        parts = [torch.from_numpy(np.stack(part)) for part in zip(*pixels, strict=True)]
        nothing = np.empty((0, len(self.task.labels))), np.empty(0)
        scored = self._scores(*(self.predict_with_outliers(*parts) if pixels else nothing))
        unread = dict.fromkeys({*self.columns[3:]} - {"error"})
        for row, _ in batch:
            yield row | (unread if row["error"] else self._decided(*next(scored), row["issue"], row))


def probability_of(logits: np.ndarray) -> np.ndarray:
    """Compute P(PNEUMONIA), which is 1 - P(NORMAL), `[N]` from logits `[N, C]`, NORMAL first, in double precision.

    >>> probability_of(np.array([[0.0, 0.0]]))
    array([0.5])
    """
    normal, *others = logits.astype(np.float64).T
    rest = np.logaddexp.reduce(others)
    return np.exp(rest - np.logaddexp(normal, rest))


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Compute the probability of each label `[N, C]` from logits `[N, C]`, in double precision."""
    logits = logits.astype(np.float64)
    return np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
