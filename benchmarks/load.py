"""Many visitors at once, every answer checked against the score of its own film offline; and hostile ones among them.

    python benchmarks/load.py [load] [soak] [--model RUN] [--clients 32] [--requests 1000] [--backend onnx]

Writes benchmarks/results/load.json. `load`: 32 clients ask the served app for 1,000 films: p50 and p95 of the time to
an answer, answers a second, the memory of the app over time, failed and wrong answers. `soak`: 200 clients send 2,000
requests of all kinds, a tenth of them hostile: the same, its memory at the end against that after the first 500
requests, and the files that it leaves.
"""

import base64
import io
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import zipfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
from common import MODEL, ROOT, SAMPLE, parser, write_part
from gradio_client import Client, handle_file
from PIL import Image
from tqdm import tqdm

from pneumo_hf import Predictor
from pneumo_hf.data.files import read_film
from pneumo_hf.data.listing import list_films
from pneumo_hf.imaging.film import load_xray

AGREEMENT = 1e-5  # of a score from the app with the film's own
PATIENCE = 300  # seconds of a client of the soak with the app
SOAK = {"clients": 200, "requests": 2000, "hostile": 0.1, "settled": 500}


def main(arguments: Namespace) -> None:
    logging.getLogger("httpx").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        films = write_films(Path(folder), arguments.films)
        expected = [row["probability"] for row in Predictor(arguments.model, backend=arguments.backend)(films)]
        for part in arguments.parts or PARTS:
            PARTS[part](arguments, films, expected)


@contextmanager
def served(arguments: Namespace) -> Iterator[tuple[str, psutil.Process, Path]]:
    """The app: its address, its process, and the folder in which it keeps files."""
    command = [
        "app.py",
        "--model",
        str(arguments.model),
        "--port",
        str(arguments.port),
        "--backend",
        arguments.backend,
    ]
    with tempfile.TemporaryDirectory() as folder:
        environment, quiet = {**os.environ, "TMPDIR": folder}, subprocess.DEVNULL
        app = subprocess.Popen([sys.executable, *command], cwd=ROOT, env=environment, stdout=quiet, stderr=quiet)
        address = f"http://127.0.0.1:{arguments.port}"
        try:
            wait_for(f"{address}/health")
            yield address, psutil.Process(app.pid), Path(folder)
        finally:
            app.terminate()
            app.wait()


def load(arguments: Namespace, films: list[Path], expected: list[float]) -> None:
    with served(arguments) as (address, app, _):
        result = measure(arguments, address, films, expected, app)
    write_part("load", "load", result.pop("ratios"), result.pop("memory_mb"), **result)


def measure(arguments: Namespace, address: str, films: list[Path], expected: list[float], app: psutil.Process) -> dict:
    clients = [Client(address, verbose=False) for _ in range(arguments.clients)]
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
            memory.append(memory_of(app))

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


def soak(arguments: Namespace, films: list[Path], expected: list[float]) -> None:
    with served(arguments) as (address, app, folder):
        result = stand(address, films, expected, app)
        app.terminate()
        app.wait()
        left = [path for path in folder.rglob("*") if path.is_file()]
    write_part("load", "soak", result.pop("ratios"), result.pop("memory_mb"), files_left=len(left), **result)


def stand(address: str, films: list[Path], expected: list[float], app: psutil.Process) -> dict:
    """Send the soak's requests, and return what came of them."""
    patient = {"timeout": PATIENCE}  # their own five seconds are too few where 200 share the cores with the app
    clients = [Client(address, verbose=False, httpx_kwargs=dict(patient)) for _ in range(SOAK["clients"])]
    order, lock, wrong, failed, seconds, memory = np.random.default_rng(0), threading.Lock(), [], [], [], []
    kinds = order.choice([*HONEST, *HOSTILE], size=SOAK["requests"], p=shares())
    asked, progress = order.integers(len(films), size=len(kinds)), tqdm(total=len(kinds), unit="answer")
    send = HONEST | HOSTILE
    evil = write_evil(films[0].parent)

    def visit(number: int) -> None:
        for request in range(number, len(kinds), len(clients)):
            film, kind, start = asked[request], kinds[request], time.perf_counter()
            try:
                scores = send[kind](clients[number], evil[kind] if kind in HOSTILE else films[film])
                with lock:
                    seconds.append(time.perf_counter() - start)
                    wrong.extend([kind] * any(abs(score - expected[film]) > 1e-4 for score in scores))
            except Exception as error:  # of the hostile ones, many are refused by gradio itself
                if kind in HONEST:
                    failed.append(f"{kind}: {type(error).__name__}: {error}")
            with lock:
                progress.update()
                memory.append(memory_of(app) if progress.n % 20 == 0 else memory[-1] if memory else memory_of(app))

    start = time.perf_counter()
    with ThreadPoolExecutor(len(clients)) as pool:
        list(pool.map(visit, range(len(clients))))
    wall, settled = time.perf_counter() - start, float(np.median(memory[SOAK["settled"] - 60 : SOAK["settled"] + 60]))
    return {
        "ratios": {"soak_memory_end_vs_settled": memory_of(app) / settled},
        **SOAK,
        "honest": int(np.isin(kinds, list(HONEST)).sum()),
        "failed": len(failed),
        "wrong": len(wrong),
        "errors": sorted(set(failed))[:5],
        "p50_s": round(float(np.median(seconds)), 3),
        "p95_s": round(float(np.quantile(seconds, 0.95)), 3),
        "answers_per_s": round(len(kinds) / wall, 1),
        "memory_mb": memory[::100],
        "cores": psutil.cpu_count(),
    }


def by_batch(client: Client, film: Path) -> list[float]:
    table = client.predict([handle_file(film)] * 2, api_name="/predict_batch")[0]
    return [row[1] for row in table["data"]]  # in four digits


def by_base64(client: Client, film: Path) -> list[float]:
    sent = base64.b64encode(film.read_bytes()).decode()
    return [client.predict(sent, "", api_name="/predict_base64")["probability"]]


def by_page(name: str) -> Callable[[Client, Path], list[float]]:
    """An endpoint that gives a file."""

    def ask(client: Client, film: Path) -> list[float]:
        if not Path(client.predict(handle_file(film), 0.5, api_name=name)).stat().st_size:
            raise ValueError("empty")
        return []

    return ask


def by_file(client: Client, film: Path) -> list[float]:
    return [client.predict(handle_file(film), api_name="/predict")["probability"]]


def refused(client: Client, film: Path) -> list[float]:
    if client.predict(handle_file(film), api_name="/predict")["probability"] is not None:
        raise ValueError("a score of no film")
    return []


def refused_in_a_list(client: Client, archive: Path) -> list[float]:
    client.predict([handle_file(archive)], api_name="/predict_batch")
    return []


def not_uploaded(client: Client, path: Path) -> list[float]:
    client.predict({"path": str(path)}, api_name="/predict")
    return []


HONEST = {
    "predict": by_file,
    "base64": by_base64,
    "batch": by_batch,
    "explain": by_page("/explain"),
    "case_report": by_page("/case_report"),
}
HOSTILE = {"scans.jpg": refused, "half.png": refused, "names.zip": refused_in_a_list, "passwd": not_uploaded}


def shares() -> list[float]:
    """Of each kind among the requests; most of the honest ones are for a score."""
    honest, hostile = [0.7, 0.1, 0.1, 0.05, 0.05], [1 / len(HOSTILE)] * len(HOSTILE)
    return [*((1 - SOAK["hostile"]) * np.array(honest)), *(SOAK["hostile"] * np.array(hostile))]


def write_evil(folder: Path) -> dict[str, Path]:
    """A JPEG of 800 scans, half a PNG, a zip of 100,000 names, and a file that nobody sent."""
    whole, names = io.BytesIO(), io.BytesIO()
    Image.new("L", (7000, 7000), 90).save(whole, "JPEG", progressive=True)
    content = whole.getvalue()
    last = content[content.rindex(b"\xff\xda") : -2]
    with zipfile.ZipFile(names, "w") as archive:
        for number in range(100_000):
            archive.writestr(zipfile.ZipInfo(f"{number}"), b"")
    png = next(folder.glob("*.png")).read_bytes()
    evil = {"scans.jpg": content[:-2] + 800 * last, "half.png": png[: len(png) // 2], "names.zip": names.getvalue()}
    for name, found in evil.items():
        (folder / name).write_bytes(found)
    return {name: folder / name for name in evil} | {"passwd": Path("/etc/passwd")}


def memory_of(app: psutil.Process) -> int:
    """MiB of the app and of the processes that read films for it."""
    total = app.memory_info().rss
    for child in app.children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # ended and replaced
            total += child.memory_info().rss
    return round(total / 2**20)


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


PARTS = {"load": load, "soak": soak}

if __name__ == "__main__":
    options = parser(__doc__, PARTS)
    options.add_argument("--model", default=str(MODEL))
    options.add_argument("--clients", type=int, default=32, help="of load (default: 32)")
    options.add_argument("--requests", type=int, default=1000, help="of load (default: 1000)")
    options.add_argument("--films", type=int, default=200, help="different films (default: 200)")
    options.add_argument("--backend", choices=("torch", "onnx"), default="torch")
    options.add_argument("--port", type=int, default=7871)
    main(options.parse_args())
