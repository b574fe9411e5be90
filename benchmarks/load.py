"""Many visitors at once: 32 clients ask the served app for 1,000 films, and every answer is checked.

    python benchmarks/load.py [--model RUN] [--clients 32] [--requests 1000] [--backend onnx]

Writes benchmarks/results/load.json: p50 and p95 of the time to an answer, answers a second, the memory of the app over
time, and how many answers failed or differ from the score of their own film offline.
"""

import argparse
import logging
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
from common import MODEL, ROOT, SAMPLE, write_part
from gradio_client import Client, handle_file
from tqdm import tqdm

from pneumo_hf import Predictor
from pneumo_hf.data.files import read_film
from pneumo_hf.data.listing import list_films
from pneumo_hf.imaging.film import load_xray

AGREEMENT = 1e-5  # of a score from the app with the film's own


def main(arguments: argparse.Namespace) -> None:
    logging.getLogger("httpx").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        films = write_films(Path(folder), arguments.films)
        expected = [row["probability"] for row in Predictor(arguments.model, backend=arguments.backend)(films)]
        command = ["app.py", "--model", arguments.model, "--port", str(arguments.port), "--backend", arguments.backend]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        app = subprocess.Popen([sys.executable, *command], cwd=ROOT, **quiet)
        try:
            wait_for(f"http://127.0.0.1:{arguments.port}/health")
            result = measure(arguments, films, expected, psutil.Process(app.pid))
        finally:
            app.terminate()
            app.wait()
    write_part("load", "load", result.pop("ratios"), result.pop("memory_mb"), **result)


def measure(arguments: argparse.Namespace, films: list[Path], expected: list[float], app: psutil.Process) -> dict:
    clients = [Client(f"http://127.0.0.1:{arguments.port}", verbose=False) for _ in range(arguments.clients)]
    seconds, wrong, failed = [], [], []
    progress, order = tqdm(total=arguments.requests, unit="answer"), np.random.default_rng(0)
    asked = order.integers(len(films), size=arguments.requests)

    def visit(number: int) -> None:
        for film in asked[number :: arguments.clients]:
            start = time.perf_counter()
            try:
                answer = clients[number].predict(handle_file(films[film]), api_name="/predict")
            except Exception as error:  # whatever it is, it counts
                failed.append(f"{type(error).__name__}: {error}")
                continue
            seconds.append(time.perf_counter() - start)
            if answer["probability"] is None or abs(answer["probability"] - expected[film]) > AGREEMENT:
                wrong.append(int(film))
            progress.update()

    memory, done = [], threading.Event()

    def watch() -> None:
        while not done.wait(0.5):
            memory.append(round(app.memory_info().rss / 2**20))

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    with ThreadPoolExecutor(arguments.clients) as pool:
        list(pool.map(visit, range(arguments.clients)))
    wall = time.perf_counter() - start
    done.set()
    watcher.join()
    half, last = memory[len(memory) // 2], float(np.median(memory[-5:]))
    return {
        "ratios": {"load_memory_second_half": last / half},
        "clients": arguments.clients,
        "requests": arguments.requests,
        "films": len(films),
        "backend": arguments.backend,
        "model": Path(arguments.model).name,
        "failed": len(failed),
        "wrong": len(wrong),
        "errors": sorted(set(failed))[:5],
        "p50_s": round(float(np.median(seconds)), 3),
        "p95_s": round(float(np.quantile(seconds, 0.95)), 3),
        "answers_per_s": round(len(seconds) / wall, 1),
        "memory_mb": memory[::8],  # every four seconds
        "cores": psutil.cpu_count(),
    }


def write_films(folder: Path, count: int) -> list[Path]:
    """Different films of the embedded sample, as PNG so that nobody's decoder matters."""
    paths = []
    for number, row in enumerate(list_films(SAMPLE / "test-00000-of-00001.parquet").rows(0, count)):
        paths.append(folder / f"film_{number}.png")
        load_xray(read_film(row["image"])).save(paths[-1])
    return paths


def wait_for(address: str) -> None:
    for _ in range(240):
        try:
            urllib.request.urlopen(address, timeout=2).read()
            return
        except OSError:
            time.sleep(0.5)
    raise SystemExit(f"{address} does not answer")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=str(MODEL))
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--films", type=int, default=200, help="different films (default: 200)")
    parser.add_argument("--backend", choices=("torch", "onnx"), default="torch")
    parser.add_argument("--port", type=int, default=7871)
    main(parser.parse_args())
