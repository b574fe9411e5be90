"""From the bytes of a full-size JPEG to its probability, one and sixteen: `python benchmarks/serving.py [PART ...]`.

Three ways with the same checkpoint, which take turns, sixteen films each:
  pipeline  the stock pipeline of transformers, eager;
  torch     Predictor, which also detects pictures that are no chest film;
  onnx      Predictor(backend="onnx") on what `python -m pneumo_hf export` wrote.
Milliseconds a film, split into decode, resize (with the check of the film's quality) and model: once for the logits
alone, as the stock pipeline has them, and once with the features that the detector needs. Peak memory is
that of a process of its own. Stops if a probability differs by more than 1e-4 from the stock pipeline's.
The part `robustness` is what `evaluate --robustness` adds, by torch and by onnx in turns, on films of the embedded
sample. Writes benchmarks/results/serving.json.
"""

import io
import multiprocessing
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from common import (
    FILMS,
    MODEL,
    SAMPLE,
    full_resolution_jpegs,
    median_ratio,
    own_peak_mib,
    parser,
    take_turns,
    write_part,
)
from PIL import Image
from transformers import pipeline

from pneumo_hf.__main__ import main as command
from pneumo_hf.data.pixels import decode_films
from pneumo_hf.data.sources import load_data
from pneumo_hf.evaluation.robustness import robustness
from pneumo_hf.imaging.film import load_xray
from pneumo_hf.imaging.quality import quality_issue
from pneumo_hf.inference.predictor import Predictor

BATCH, AGREEMENT = 16, 1e-4
CORRUPTED = 32  # films of the test that are scored in every way of `evaluate --robustness`
Read = Callable[[list[bytes]], list[float]]  # JPEG files -> P(PNEUMONIA)


def make(way: str, checkpoint: Path) -> Read:
    if way == "pipeline":
        classify = pipeline("image-classification", model=str(checkpoint), device="cpu")
        return lambda jpegs: [
            next(answer["score"] for answer in answers if answer["label"] == "PNEUMONIA")
            for answers in classify([Image.open(io.BytesIO(jpeg)) for jpeg in jpegs], batch_size=len(jpegs))
        ]
    predictor = Predictor(checkpoint, device="cpu", batch_size=BATCH, backend=way)
    return lambda jpegs: [row["probability"] for row in predictor(jpegs)]


def parts(way: str, checkpoint: Path) -> tuple[Callable, Callable, dict[str, Callable]]:
    """The same work as `make`'s in steps: decode a file, resize the film, run the model on a list of films."""
    if way == "pipeline":
        classify = pipeline("image-classification", model=str(checkpoint), device="cpu")

        def run(inputs: list[torch.Tensor]) -> None:
            with torch.inference_mode():
                classify.model(pixel_values=torch.cat(inputs))

        def process(film: Image.Image) -> torch.Tensor:
            return classify.image_processor(film, return_tensors="pt")["pixel_values"]

        return lambda jpeg: Image.open(io.BytesIO(jpeg)).convert("RGB"), process, {"model": run}
    predictor = Predictor(checkpoint, device="cpu", backend=way)
    return (
        load_xray,
        lambda film: (predictor.resize(film)[0], quality_issue(film))[0],
        {
            "model": lambda pixels: predictor.logits(torch.from_numpy(np.stack(pixels))),
            "model_and_detector": lambda pixels: predictor.predict_with_outliers(torch.from_numpy(np.stack(pixels))),
        },
    )


def split(checkpoints: dict[str, Path], jpegs: list[bytes], repeats: int) -> dict[str, dict[str, float]]:
    """Median milliseconds a film of each part of each way, for one film and for the model on a batch."""
    steps = {way: parts(way, checkpoint) for way, checkpoint in checkpoints.items()}
    times = {way: defaultdict(list) for way in checkpoints}
    for _ in range(repeats):
        for way, (decode, resize, models) in steps.items():
            for run in models.values():
                run([resize(decode(jpegs[0]))])  # warms up
            for jpeg in jpegs:
                film = _timed(times[way]["decode"], decode, jpeg)
                pixels = _timed(times[way]["resize"], resize, film)
                for part, run in models.items():
                    _timed(times[way][part], run, [pixels])
            for part, run in models.items():
                _timed(times[way][f"{part}_batch16"], run, [pixels] * BATCH, films=BATCH)
    return {way: {part: float(np.median(found)) for part, found in times[way].items()} for way in checkpoints}


def peak_mib(way: str, checkpoint: Path, jpegs: list[bytes]) -> float:
    """Of this process, which loads the model and scores a batch: call it in one of its own."""
    make(way, checkpoint)(jpegs)
    return own_peak_mib()


def corrupted(model: Path, repeats: int) -> None:
    """Seconds of all that `evaluate --robustness` adds, by each backend."""
    predictors = {way: Predictor(model, device="cpu", backend=way) for way in ("torch", "onnx")}
    threshold = predictors["torch"].settings.threshold
    table = load_data(SAMPLE)["test"].shuffle(seed=0).select(range(CORRUPTED))
    with tempfile.TemporaryDirectory() as cache:
        films, _ = decode_films(table, predictors["torch"].image_processor, cache)

        def measure(predictor: Predictor) -> float:
            start = time.perf_counter()
            robustness(predictor, films, threshold)
            return time.perf_counter() - start

        seconds = take_turns({way: lambda one=one: measure(one) for way, one in predictors.items()}, repeats)
    ratios = {"robustness_onnx_vs_torch": median_ratio(seconds["torch"], seconds["onnx"])}
    write_part("serving", "robustness", ratios, seconds, model=model.name, films=CORRUPTED)


def serving(model: Path, repeats: int) -> None:
    jpegs = [jpeg for jpeg, _ in full_resolution_jpegs(BATCH)]
    with tempfile.TemporaryDirectory() as folder:
        command(["export", "--model", str(model), "--data", str(SAMPLE), "--output_dir", folder])
        checkpoints = {"pipeline": model, "torch": model, "onnx": Path(folder)}
        readers = {way: make(way, checkpoint) for way, checkpoint in checkpoints.items()}
        probs = {way: np.array(read(jpegs)) for way, read in readers.items()}  # warms up, too
        difference = max(float(np.abs(found - probs["pipeline"]).max()) for found in probs.values())
        assert difference <= AGREEMENT, f"probabilities differ by {difference}"
        single = {way: [] for way in readers}
        for _ in range(repeats):  # a way at a time: waiting threads of one spin on the next one's cores for a while
            for way, read in readers.items():
                read(jpegs[:1])
                for jpeg in jpegs:
                    _timed(single[way], read, [jpeg])
        batch = take_turns({way: lambda read=read: _seconds(read, jpegs) for way, read in readers.items()}, repeats)
        pieces = split(checkpoints, jpegs, repeats)
        memory = {}
        for way, checkpoint in checkpoints.items():
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                memory[way] = process.submit(peak_mib, way, checkpoint, jpegs).result()
    rows = {
        way: {
            "single_ms": {f"p{q}": float(np.percentile(single[way], q)) for q in (50, 95)},
            "single_films_a_second": 1e3 / float(np.median(single[way])),
            "batch16_ms_a_film": [1e3 * seconds / BATCH for seconds in batch[way]],
            "batch16_films_a_second": BATCH / float(np.median(batch[way])),
            "parts_ms": pieces[way],
            "peak_mib": memory[way],
        }
        for way in checkpoints
    }
    eager = pieces["pipeline"]["model"]
    ratios = {
        "serving_speedup_single": median_ratio(single["pipeline"], single["onnx"]),
        "serving_speedup_batch16": median_ratio(batch["pipeline"], batch["onnx"]),
        "serving_speedup_single_model": eager / pieces["onnx"]["model"],
        "serving_speedup_single_model_and_detector": eager / pieces["onnx"]["model_and_detector"],
        "serving_speedup_single_torch": median_ratio(single["pipeline"], single["torch"]),
    }
    write_part("serving", "serving", ratios, rows, model=model.name, films=FILMS, largest_difference=difference)


def _seconds(read: Read, jpegs: list[bytes]) -> float:
    start = time.perf_counter()
    read(jpegs)
    return time.perf_counter() - start


def _timed(into: list[float], function: Callable, argument, films: int = 1):
    """Call, and note the milliseconds a film."""
    start = time.perf_counter()
    result = function(argument)
    into.append(1e3 * (time.perf_counter() - start) / films)
    return result


PARTS = {"serving": serving, "robustness": corrupted}

if __name__ == "__main__":
    options = parser(__doc__, PARTS)
    options.add_argument("--model", type=Path, default=MODEL, help="checkpoint folder (default: the shipped model)")
    given = options.parse_args()
    for name in given.parts or PARTS:
        PARTS[name](given.model, given.repeats)
