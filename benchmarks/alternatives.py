"""What would serve a film faster, and what it would cost: `python benchmarks/alternatives.py --originals FILMS`.

  scaled decoding  a JPEG decoded at 1/2, 1/4 or 1/8 of its size by libjpeg-turbo (Pillow's `draft`), to at least so
                   many times the model's size: milliseconds of decoding and resizing, and how far the scores move
  OpenVINO         the same export in float32, and in the precision that it chooses, against ONNX Runtime, from the
                   bytes of a file to the probability, one film: milliseconds, and decisions that differ

The ways take turns, film by film; OpenVINO is left out where it is not installed. FILMS are full-size JPEGs, as
`predict` takes them. Writes the part `alternatives` of benchmarks/results/serving.json.
"""

import io
import time
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from common import MODEL, parser, write_part
from PIL import Image
from tqdm import tqdm

from pneumo_hf import Predictor
from pneumo_hf.data.files import read_film
from pneumo_hf.data.listing import list_films
from pneumo_hf.imaging.film import load_xray
from pneumo_hf.inference.onnx import exported_file
from pneumo_hf.inference.onnx_export import kept_export
from pneumo_hf.inference.scorer import probability_of

TIMES_THE_SIZE = (1, 2, 3, 4)  # of the model's, that a film is decoded to at least
MOST_MOVED = 1e-3  # of a score, by an option that would be offered
LEAST_GAIN = 1.4  # of a backend that would be offered


def main(arguments: Namespace) -> None:
    predictor = Predictor(arguments.model, backend="onnx")
    side, threshold = predictor.image_processor.size["height"], predictor.settings.threshold
    files = [read_film(row["image"]) for row in list_films(arguments.originals)]
    jpegs = [file for file in files if Image.open(io.BytesIO(file)).mode == "L"]
    readers = {"whole": load_xray} | {
        f"scaled, {times} x {side}": lambda jpeg, least=times * side: scaled(jpeg, least) for times in TIMES_THE_SIZE
    }
    networks = {"ONNX Runtime": lambda pixels: predictor.onnx(pixels, with_features=False)[0]} | by_openvino(predictor)
    milliseconds, scores = defaultdict(list), defaultdict(list)
    for jpeg in tqdm(jpegs * arguments.repeats, unit="film"):
        for name, read in readers.items():
            pixels = timed(milliseconds[name], lambda jpeg=jpeg, read=read: predictor.resize(read(jpeg))[0][None])
            if len(scores[name]) < len(jpegs):
                scores[name].append(score(predictor, networks["ONNX Runtime"](pixels)))
        for name, network in networks.items():
            logits = timed(
                milliseconds[name],
                lambda jpeg=jpeg, network=network: network(predictor.resize(load_xray(jpeg))[0][None]),
            )
            if len(scores[name]) < len(jpegs):
                scores[name].append(score(predictor, logits))
    rows = {}
    for name, found in scores.items():
        moved = np.abs(np.array(found) - scores["whole"])
        called = (np.array(found) >= threshold) != (np.array(scores["whole"]) >= threshold)
        rows[name] = {
            "ms": float(np.median(milliseconds[name])),
            "largest_move": float(moved.max()),
            "median_move": float(np.median(moved)),
            "decisions_that_differ": int(called.sum()),
        }
    ratios = {
        f"openvino_{kind.replace(' ', '_')}_vs_onnxruntime": rows["ONNX Runtime"]["ms"] / rows[name]["ms"]
        for kind in KINDS
        if (name := f"OpenVINO {kind}") in rows
    }
    facts = {"films": len(jpegs), "most_moved": MOST_MOVED, "least_gain": LEAST_GAIN}
    if find_spec("openvino"):
        facts["openvino"] = version("openvino")
    write_part("serving", "alternatives", ratios, rows, model=arguments.model.name, **facts)


KINDS = {"f32": {"INFERENCE_PRECISION_HINT": "f32"}, "as it chooses": {}}


def scaled(jpeg: bytes, least: int) -> Image.Image:
    """Decode a grey JPEG at the smallest scale that leaves so many pixels a side."""
    film = Image.open(io.BytesIO(jpeg))
    film.draft("L", (least, least))
    film.load()
    return film


def by_openvino(predictor: Predictor) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    if not find_spec("openvino"):
        return {}
    import onnx
    import openvino

    path = exported_file(predictor.name) or kept_export(predictor.model, predictor.image_processor)
    exported, core, found = onnx.load(path), openvino.Core(), {}
    for node in exported.graph.node:
        kernel = [one.ints for one in node.attribute if one.name == "kernel_shape"]
        if node.op_type == "AveragePool" and min(kernel[0]) > predictor.image_processor.size["height"]:
            # EfficientNet's pooler, larger than any map: OpenVINO refuses it
            node.op_type = "GlobalAveragePool"
            del node.attribute[:]
    for kind, options in KINDS.items():
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads(), **options}
        compiled = core.compile_model(core.read_model(exported.SerializeToString()), "CPU", settings)

        def run(pixels: np.ndarray, compiled=compiled) -> np.ndarray:
            pixel_values = pixels * predictor.onnx.rescale_factor - predictor.onnx.mean
            pixel_values /= predictor.onnx.std
            return compiled([pixel_values])["logits"]

        found[f"OpenVINO {kind}"] = run
    return found


def score(predictor: Predictor, logits: np.ndarray) -> float:
    return float(probability_of(logits[:, predictor.order])[0])


def timed(into: list[float], work: Callable):
    start = time.perf_counter()
    result = work()
    into.append(1e3 * (time.perf_counter() - start))
    return result


if __name__ == "__main__":
    options = parser(__doc__, repeats=3)
    options.add_argument("--model", type=Path, default=MODEL)
    options.add_argument("--originals", required=True, help="full-size JPEGs: a folder or zip")
    main(options.parse_args())
