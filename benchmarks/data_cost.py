"""What the pixel cache costs and saves: `python benchmarks/data_cost.py`.

Milliseconds a film of gathering batches from the pixel cache, of decoding and resizing the same full-size films, one
thread each, and of stage two's whole steps (EfficientNet-Lite0), of which gathering is the share of data; then the
films a second and core, and the peak memory, of building the cache in a process of its own. Writes
benchmarks/results/data_cost.json.
"""

import multiprocessing
import os
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from common import (
    FILMS,
    full_resolution_jpegs,
    median_ratio,
    own_peak_mib,
    parser,
    take_turns,
    write_films,
    write_result,
)
from datasets import Dataset
from pneumo_hf.runtime import keep_freed_memory
from training_step import BATCH, Clock, arguments_of, ms_a_film, stage_two
from transformers.image_processing_utils import BaseImageProcessor

from pneumo_hf.data.files import read_film
from pneumo_hf.data.pixels import FilmDataset, decode_films
from pneumo_hf.data.sources import load_data
from pneumo_hf.imaging.film import load_xray
from pneumo_hf.imaging.processor import make_image_processor, resize_film

COUNT, SIDE = 192, 224  # films, and pixels of the resized film
EPOCHS = 50  # of gathering at once, so that the clock can tell


def gather(films: FilmDataset) -> float:
    """Milliseconds a film, the batches in random order."""
    start = time.perf_counter()
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(films)).split(BATCH):
            films.__getitems__(batch.tolist())
    return 1e3 * (time.perf_counter() - start) / (EPOCHS * len(films))


def decode(table: Dataset, image_processor: BaseImageProcessor) -> float:
    """Milliseconds a film, from the file to the pixels that the cache holds."""
    start = time.perf_counter()
    for image in table["image"]:
        resize_film(load_xray(read_film(image)), image_processor)
    return 1e3 * (time.perf_counter() - start) / len(table)


def build(folder: Path) -> tuple[float, float, float]:
    """Seconds of building the cache, and this process's peak MiB before and after: call it in one of its own."""
    keep_freed_memory()
    table = load_data(str(folder / "films"))["train"]
    with tempfile.TemporaryDirectory() as cache:
        before, start = own_peak_mib(), time.perf_counter()
        decode_films(table, make_image_processor(None, SIDE), cache)
        return time.perf_counter() - start, before, own_peak_mib()


def training_ms_a_film(folder: Path, films: FilmDataset) -> float:
    """Of steps of stage two, with their data."""
    trainer = stage_two(arguments_of("lite0", "efficientnet-lite0", folder), films)
    clock = Clock()
    trainer.add_callback(clock)
    trainer.train()
    return ms_a_film(clock.own)


def main(repeats: int) -> None:
    keep_freed_memory()  # as train_hf.py does
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        write_films(folder / "films", full_resolution_jpegs(COUNT))
        image_processor = make_image_processor(None, SIDE)
        table = load_data(str(folder / "films"))["train"]
        films, _ = decode_films(table, image_processor, folder)
        ways = {
            "gather": lambda: gather(films),
            "decode": lambda: decode(table, image_processor),
            "train": lambda: training_ms_a_film(folder, films),
        }
        rows = take_turns(ways, repeats)
        built = []
        for _ in range(repeats):
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                built.append(process.submit(build, folder).result())
    seconds, before, after = (statistics.median(values) for values in zip(*built, strict=True))
    facts = {
        "data_share_of_later_epochs": statistics.median(rows["gather"]) / statistics.median(rows["train"]),
        "cache_films_a_second_and_core": COUNT / seconds / os.cpu_count(),
        "cache_peak_mib": after,
        "peak_mib_before": before,
        "cache_mib": COUNT * SIDE**2 / 2**20,
        "films": FILMS,
        "unit": "ms a film",
    }
    write_result("data_cost", {"gather_vs_decode": median_ratio(rows["decode"], rows["gather"])}, rows, **facts)


if __name__ == "__main__":
    main(parser(__doc__).parse_args().repeats)
