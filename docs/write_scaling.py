"""Write docs/SCALING.md from what was measured on one machine: `python docs/write_scaling.py`.

Everything about GPUs is an estimate, and the page says so: what is counted (arithmetic, bytes), what is assumed (the
rates below), and what follows.
"""

import json
import statistics
from pathlib import Path

import torch
from jinja2 import Environment, FileSystemLoader
from torch.utils.flop_counter import FlopCounterMode

from pneumo_hf import Predictor

DOCS = Path(__file__).parent
RESULTS = DOCS.parent / "benchmarks" / "results"
MODEL = DOCS.parent / "models" / "pneumo-efficientnet"
FILMS = (10**5, 10**6, 10**8)
GPUS = (1, 8, 64)
ASSUMED = {
    "cores_a_gpu": 16,
    "sustained_flops": 10e12,  # of a data-centre GPU: depthwise convolutions wait for memory, not for arithmetic
    "dollars_a_core_hour": 0.05,
    "dollars_a_gpu_hour": 4.0,  # its cores included
    "bytes_a_film": 400e3,  # a full-size JPEG
    "epochs": 5,
}


def page() -> str:
    names = ("serving", "training_step_lite0", "scoring_scaling", "predict_scale")
    found = {name: json.loads(path.read_text()) for name in names if (path := RESULTS / f"{name}.json").exists()}
    onnx = found["serving"]["rows"]["onnx"]
    decode_ms = onnx["parts_ms"]["decode"] + onnx["parts_ms"]["resize"]  # on one thread
    read_flops = flops_a_film()
    costs = {
        "decode_ms": decode_ms,
        "read_ms": statistics.median(onnx["batch16_ms_a_film"]),  # decode and model, on all cores of the machine
        "cores": found["serving"]["machine"]["cpus"],
        "train_ms": statistics.median(found["training_step_lite0"]["rows"]["ours"]),
        "gflops": read_flops / 1e9,
    }
    decoded_a_second = ASSUMED["cores_a_gpu"] * 1e3 / decode_ms
    scored_a_second = ASSUMED["sustained_flops"] / read_flops
    trained_a_second = scored_a_second / 3  # forward, and backward twice that
    rows = []
    for films in FILMS:
        hours = films * costs["read_ms"] / 3.6e6
        rows.append(
            ("score", films, f"{costs['cores']} cores", hours, hours * costs["cores"] * ASSUMED["dollars_a_core_hour"])
        )
        for gpus in GPUS:
            hours = films / (gpus * min(decoded_a_second, scored_a_second)) / 3600
            rows.append(("score", films, _gpus(gpus), hours, hours * gpus * ASSUMED["dollars_a_gpu_hour"]))
    for films in FILMS:
        hours = ASSUMED["epochs"] * films * costs["train_ms"] / 3.6e6
        rows.append(
            ("train", films, f"{costs['cores']} cores", hours, hours * costs["cores"] * ASSUMED["dollars_a_core_hour"])
        )
        for gpus in GPUS:
            hours = (films / decoded_a_second + ASSUMED["epochs"] * films / trained_a_second) / gpus / 3600
            rows.append(("train", films, _gpus(gpus), hours, hours * gpus * ASSUMED["dollars_a_gpu_hour"]))
    pages = Environment(loader=FileSystemLoader(DOCS), trim_blocks=True, lstrip_blocks=True)
    return pages.get_template("SCALING.md.jinja").render(
        costs=costs, assumed=ASSUMED, rows=rows, films=FILMS, decoded_a_second=decoded_a_second,
        scored_a_second=scored_a_second, scaling=found.get("scoring_scaling"),
        many=found.get("predict_scale"), trained_a_second=trained_a_second, machine=found["serving"]["machine"],
        side=Predictor(MODEL).image_processor.size["height"],
    )  # fmt: skip


def flops_a_film() -> float:
    """Floating-point operations of the shipped network on one film."""
    predictor = Predictor(MODEL, device="cpu")
    size = predictor.image_processor.size
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        predictor.model(pixel_values=torch.zeros(1, 3, size["height"], size["width"]))
    return float(counter.get_total_flops())


def _gpus(count: int) -> str:
    return f"{count} GPU{'s' * (count > 1)}"


if __name__ == "__main__":
    (DOCS / "SCALING.md").write_text(page())
