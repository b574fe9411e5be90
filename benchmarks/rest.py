"""`POST /v1/score` against the same film through gradio, and against ONNX Runtime behind a bare FastAPI.

    python benchmarks/rest.py [--seconds 8] [--repeats 3]

1, 16 and 200 clients send full-size JPEG films for some seconds, to one way after the other in turns; each sends its
next film when it has the answer to its last, over one connection (gradio wants three requests a film, the last of its
own connection). Every probability is compared with the film's own. The app has `--backend onnx`; `bare_server.py` has
the same export and as many threads. The clients share the cores with the servers. Writes the part `rest` of
benchmarks/results/load.json.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psutil
from common import MODEL, full_resolution_jpegs, median_ratio, parser, take_turns, write_part
from load import served, wait_for

from pneumo_hf import Predictor
from pneumo_hf.inference.onnx import exported_file
from pneumo_hf.inference.onnx_export import kept_export

CLIENTS = (1, 16, 200)
AGREEMENT = 1e-4
BOUNDARY = "film"
Ask = Callable[["Server", bytes], Awaitable[float]]


class Server:
    """A connection of one client to a server, kept from request to request."""

    def __init__(self, address: str):
        self.host, self.port, self.streams = urlsplit(address).hostname, urlsplit(address).port, None

    async def post(self, path: str, kind: str, body: bytes) -> bytes:
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        if self.streams is None:
            self.streams = await asyncio.open_connection(self.host, self.port)
        reader, writer = self.streams
        writer.write(head.encode() + body)
        await writer.drain()
        answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(answer.split("content-length:")[1].split("\r\n")[0])
        content = await reader.readexactly(length)
        if " 200 " not in answer.split("\r\n")[0]:
            raise OSError(f"{answer.split(chr(13))[0]} {content[:100]!r}")
        return content

    async def get_all(self, path: str) -> bytes:
        """Read an answer that ends with its connection."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        content = await reader.read()
        writer.close()
        return content

    def close(self) -> None:
        if self.streams:
            self.streams[1].close()


def form(name: str, film: bytes) -> tuple[str, bytes]:
    """Return the kind and body of a multipart request with one film."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="film.jpeg"\r\n\r\n'
    return f"multipart/form-data; boundary={BOUNDARY}", head.encode() + film + f"\r\n--{BOUNDARY}--\r\n".encode()


async def by_rest(server: Server, film: bytes) -> float:
    return json.loads(await server.post("/v1/score", *form("files", film)))["films"][0]["probability"]


async def by_bare(server: Server, film: bytes) -> float:
    return json.loads(await server.post("/score", *form("file", film)))["probability"]


async def by_gradio(server: Server, film: bytes) -> float:
    (path,) = json.loads(await server.post("/gradio_api/upload", *form("files", film)))
    data = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}, ""]}
    called = await server.post("/gradio_api/call/predict", "application/json", json.dumps(data).encode())
    events = await server.get_all(f"/gradio_api/call/predict/{json.loads(called)['event_id']}")
    (line,) = (line for line in events.decode().splitlines() if line.startswith("data: ["))
    return json.loads(line.removeprefix("data: "))[0]["probability"]


WAYS: dict[str, Ask] = {"rest": by_rest, "bare": by_bare, "gradio": by_gradio}


async def press(
    ask: Ask, address: str, clients: int, seconds: float, films: list[bytes], expected: list[float]
) -> dict:
    """Let clients ask for some seconds: their times to an answer, and what failed or was wrong."""
    times, failed, wrong, start = [], [], 0, time.perf_counter()

    async def client(number: int) -> None:
        nonlocal wrong
        server, at = Server(address), number
        while time.perf_counter() - start < seconds:
            begun, at = time.perf_counter(), (at + 1) % len(films)
            try:
                found = await ask(server, films[at])
            except (OSError, ValueError, IndexError, asyncio.IncompleteReadError) as error:
                failed.append(f"{type(error).__name__}: {error}")
                server.close()
                server = Server(address)
                continue
            times.append(time.perf_counter() - begun)
            wrong += found is None or abs(found - expected[at]) > AGREEMENT
        server.close()

    await asyncio.gather(*map(client, range(clients)))
    return {
        "times": times,
        "failed": failed,
        "wrong": wrong,
        "films_a_second": len(times) / (time.perf_counter() - start),
    }


def measure(addresses: dict[str, str], given: Namespace, films: list[bytes], expected: list[float]) -> dict[str, dict]:
    rows = {}
    for clients in CLIENTS:
        found: dict[str, list[dict]] = {way: [] for way in WAYS}

        def turn(way: str, clients: int = clients, found: dict = found) -> float:
            found[way].append(asyncio.run(press(WAYS[way], addresses[way], clients, given.seconds, films, expected)))
            return found[way][-1]["films_a_second"]

        turns = take_turns({way: lambda way=way: turn(way) for way in WAYS}, given.repeats)
        for way, rounds in found.items():
            times = [one for part in rounds for one in part["times"]]
            failed = [one for part in rounds for one in part["failed"]]
            rows[f"{way}, {clients}"] = {
                "films_a_second": turns[way],
                "p50_ms": 1e3 * float(np.median(times)),
                "p95_ms": 1e3 * float(np.quantile(times, 0.95)),
                "failed": len(failed),
                "errors": sorted(set(failed))[:3],
                "wrong": sum(part["wrong"] for part in rounds),
            }
    return rows


def main(given: Namespace) -> None:
    films = [film for film, _ in full_resolution_jpegs(32)]
    predictor = Predictor(given.model, backend="onnx")
    expected = [row["probability"] for row in predictor(films)]
    export = exported_file(given.model) or kept_export(predictor.model, predictor.image_processor)
    threads = os.environ.get("OMP_NUM_THREADS", str(psutil.cpu_count()))
    environment = {**os.environ, "CHECKPOINT": str(given.model), "ONNX": str(export), "THREADS": threads}
    command = ["-m", "uvicorn", "bare_server:app", "--port", str(given.port + 1), "--log-level", "warning"]
    here, bare = Path(__file__).parent, f"http://127.0.0.1:{given.port + 1}"
    with served(given) as (address, _, _):
        server = subprocess.Popen([sys.executable, *command], cwd=here, env=environment)
        try:
            wait_for(f"{bare}/openapi.json")
            rows = measure({"rest": address, "gradio": address, "bare": bare}, given, films, expected)
        finally:
            server.terminate()
            server.wait()
    ratios = {
        f"rest_vs_{way}_{clients}": median_ratio(
            rows[f"rest, {clients}"]["films_a_second"], rows[f"{way}, {clients}"]["films_a_second"]
        )
        for way in ("bare", "gradio")
        for clients in CLIENTS
    }
    write_part("load", "rest", ratios, rows, model=given.model.name, threads=int(threads), seconds=given.seconds)


if __name__ == "__main__":
    options = parser(__doc__, repeats=3)
    options.add_argument("--model", type=Path, default=MODEL)
    options.add_argument("--seconds", type=float, default=8, help="of each turn (default: 8)")
    options.add_argument("--port", type=int, default=7873)
    options.set_defaults(backend="onnx")
    main(options.parse_args())
