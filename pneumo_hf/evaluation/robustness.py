"""Films as a poorer machine would have made them: how robust scores are, and a stand-in for another hospital."""

import io
import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from kornia.filters import gaussian_blur2d
from kornia.geometry import rotate
from PIL import Image
from torch.nn.functional import avg_pool2d, interpolate
from tqdm.auto import tqdm

from pneumo_hf.data.pixels import FilmDataset
from pneumo_hf.evaluation.metrics import weighted_metrics
from pneumo_hf.inference.explain import CENTRAL_BOX
from pneumo_hf.inference.scorer import Scorer, probability_of

SEVERITIES = (1, 2, 3, 4, 5)
SIDE = 224  # pixels: what a smaller film would lose by the grain or the JPEG of its own pixels is coarser than any
BATCH = 32  # films at once, whatever the device: a film's noise is that of its place in its batch


def _brighter(films: torch.Tensor, factor: float) -> torch.Tensor:
    return 255 - (255 - films) * factor


def _lower_contrast(films: torch.Tensor, factor: float) -> torch.Tensor:
    middle = films.mean(dim=(1, 2, 3), keepdim=True)
    return middle + (films - middle) * factor


def _noise(films: torch.Tensor, deviation: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)  # of a film's place in its batch: the same at every call
    return films + deviation * torch.randn(films.shape, generator=generator).to(films.device)


def _blur(films: torch.Tensor, share: float) -> torch.Tensor:
    sigma = share * films.shape[-1]
    size = 2 * round(3 * sigma) + 1
    return gaussian_blur2d(films, (size, size), (sigma, sigma))


def _jpeg(films: torch.Tensor, quality: float) -> torch.Tensor:
    def compress(film: np.ndarray) -> np.ndarray:
        file = io.BytesIO()
        Image.fromarray(film).save(file, "JPEG", quality=int(quality))
        return np.asarray(Image.open(file))

    pixels = films.round().to(torch.uint8).cpu().numpy()[:, 0]
    return torch.from_numpy(np.stack([compress(film) for film in pixels]))[:, None].float().to(films.device)


def _downscale(films: torch.Tensor, share: float) -> torch.Tensor:
    side = max(8, round(films.shape[-1] * share))
    small = interpolate(films, size=(side, side), mode="bilinear", antialias=True, align_corners=False)
    return interpolate(small, size=films.shape[-2:], mode="bilinear", align_corners=False)


def _rotate(films: torch.Tensor, degrees: float) -> torch.Tensor:
    return rotate(films, torch.full((len(films),), float(degrees), device=films.device))


# What is done, and how strongly at severities 1 to 5. Blur is a share of the side: the same at any size.
CORRUPTIONS: dict[str, tuple[Callable[[torch.Tensor, float], torch.Tensor], tuple[float, ...]]] = {
    "darker": (torch.mul, (0.85, 0.7, 0.55, 0.4, 0.3)),
    "brighter": (_brighter, (0.85, 0.7, 0.55, 0.4, 0.3)),
    "contrast": (_lower_contrast, (0.8, 0.65, 0.5, 0.4, 0.3)),
    "noise": (_noise, (4, 8, 12, 18, 26)),
    "blur": (_blur, (0.004, 0.006, 0.008, 0.011, 0.015)),
    "jpeg": (_jpeg, (50, 30, 20, 12, 7)),
    "downscaling": (_downscale, (0.7, 0.5, 0.4, 0.3, 0.2)),
    "rotation": (_rotate, (3, 6, 10, 15, 25)),
}


def corrupt(films: torch.Tensor, kind: str, severity: int) -> torch.Tensor:
    """Corrupt films `[B, 1, H, W]` uint8 in one way of CORRUPTIONS at a severity of 1 to 5: the same shape and type.

    After Hendrycks and Dietterich 2019, with kinds and strengths for films of SIDE pixels: smaller ones are enlarged
    before and shrunk after, as if the film was corrupted before it was shrunk for the network.
    """
    change, strengths = CORRUPTIONS[kind]
    times = math.ceil(SIDE / films.shape[-1])
    larger = films.float().repeat_interleave(times, dim=2).repeat_interleave(times, dim=3)
    changed = change(larger, strengths[severity - 1]).round().clamp(0, 255)
    return avg_pool2d(changed, times).round().to(torch.uint8)


def score_corrupted(
    predictor: Scorer, films: FilmDataset, severities: tuple[int, ...] = SEVERITIES
) -> Iterator[tuple[str, int, np.ndarray]]:
    """Score every corruption of the films at every severity: `(kind, severity, logits [N, 2])`."""
    tasks = [(kind, severity) for kind in CORRUPTIONS for severity in severities]
    for kind, severity in tqdm(tasks, desc="Corrupting films", unit="way"):
        batches = [predictor.logits(corrupt(pixels, kind, severity)) for pixels in _batches(films)]
        yield kind, severity, np.concatenate(batches)


def score_randomly_corrupted(predictor: Scorer, films: FilmDataset) -> np.ndarray:
    """Score the films, each corrupted in one way and at one severity drawn at random: logits `[N, C]`."""
    ways = [(kind, severity) for kind in CORRUPTIONS for severity in SEVERITIES]
    drawn = np.random.default_rng(0).integers(len(ways), size=len(films))
    logits = np.empty((len(films), len(predictor.task.labels)), np.float32)
    for number, (kind, severity) in enumerate(ways):
        chosen = np.flatnonzero(drawn == number)
        for rows in np.array_split(chosen, range(BATCH, len(chosen), BATCH)):
            if len(rows):
                logits[rows] = predictor.logits(corrupt(films.__getitems__(rows)["pixel_values"], kind, severity))
    return logits


def robustness(predictor: Scorer, films: FilmDataset, threshold: float) -> dict[str, list[dict]]:
    """Measure one checkpoint at the carried threshold: `{kind: [{"severity", "roc_auc", ...}]}`.

    Severity 0 is the films as they are.

    Beside CORRUPTIONS, `inverted` films, and those of which only the `central box` or only the `border` is left: what
    a network makes of a film without lungs is no disease.
    """
    result, clean = {}, predictor.predict_dataset(films, outliers=False)[0]
    scored = [*score_corrupted(predictor, films), *score_changed(predictor, films)]
    unchanged = [(kind, 0, clean) for kind in dict.fromkeys(kind for kind, _, _ in scored)]
    for kind, severity, logits in unchanged + scored:
        values = weighted_metrics(films.endpoint, probability_of(logits), threshold, np.ones((1, len(films))))
        figures = {name: float(values[name][0]) for name in ("roc_auc", "sensitivity", "specificity")}
        result.setdefault(kind, []).append({"severity": severity, **figures})
    return result


def score_changed(predictor: Scorer, films: FilmDataset) -> Iterator[tuple[str, int, np.ndarray]]:
    """Score inverted films, and those with only the central box or only the border left: `(kind, 1, logits)`."""
    for kind in ("inverted", "central box", "border"):
        yield (kind, 1, np.concatenate([predictor.logits(_changed(pixels, kind)) for pixels in _batches(films)]))


def _changed(films: torch.Tensor, kind: str) -> torch.Tensor:
    if kind == "inverted":
        return 255 - films
    inside = torch.zeros(films.shape[-2:], dtype=torch.bool)
    edge = round(films.shape[-1] * CENTRAL_BOX)
    inside[edge:-edge, edge:-edge] = True
    kept = inside if kind == "central box" else ~inside
    middle = films.float().mean(dim=(2, 3), keepdim=True).to(films.dtype)
    return torch.where(kept, films, middle)


def _batches(films: FilmDataset) -> Iterator[torch.Tensor]:
    for start in range(0, len(films), BATCH):
        yield films.__getitems__(range(start, min(start + BATCH, len(films))))["pixel_values"]
