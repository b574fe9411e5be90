"""From a command to its first answer, in processes that begin from nothing: `python benchmarks/start.py`.

  help     python -m pneumo_hf predict --help
  predict  python -m pneumo_hf predict --model MODEL FILM --output CSV
  app      python app.py, until the page is there and POST /v1/score has answered the first visitor
  click    from a click on an example of the page to the decision on the screen, in Chromium

Seconds by the clock and of the processor, of the process that was started and not of those that read films for the
app. On a machine that does other things the processor's are the ones to compare. Imported files are in the system's
cache. Writes the part `start` of benchmarks/results/serving.json.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from common import MODEL, ROOT, parser, write_part
from playwright.sync_api import sync_playwright

FILM = ROOT / "docs" / "film.jpeg"
BOUNDARY = "film"
PATIENCE = 240  # seconds
EXAMPLES = ("Pneumonia", "Normal")  # buttons of the page


def run(*command: str) -> tuple[float, float]:
    """Run a command to its end: seconds by the clock, and of the processor."""
    before, start = os.times(), time.perf_counter()
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True, capture_output=True)
    wall, after = time.perf_counter() - start, os.times()
    return wall, sum(after[2:4]) - sum(before[2:4])  # of children that have ended


@contextmanager
def app(model: Path, port: int) -> Iterator[tuple[str, psutil.Process]]:
    """Start the app: its address and process, as soon as its page is there."""
    address, start = f"http://127.0.0.1:{port}", time.perf_counter()
    command = [sys.executable, "app.py", "--model", str(model), "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                urllib.request.urlopen(address, timeout=PATIENCE).read()
                break
            except OSError:
                if process.poll() is not None or time.perf_counter() - start > PATIENCE:
                    raise
                time.sleep(0.05)
        yield address, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def visit(model: Path, port: int) -> tuple[float, float]:
    """Start the app and be its first visitor: seconds by the clock, and of the app's processor."""
    start = time.perf_counter()
    with app(model, port) as (address, process):
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="film.jpeg"\r\n\r\n'
        body = head.encode() + FILM.read_bytes() + f"\r\n--{BOUNDARY}--\r\n".encode()
        kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        answer = urllib.request.urlopen(urllib.request.Request(f"{address}/v1/score", body, kind), timeout=PATIENCE)
        assert b'"probability":0.' in answer.read()
        wall, used = time.perf_counter() - start, process.cpu_times()
        return wall, used.user + used.system


def click(model: Path, port: int, repeats: int) -> list[tuple[float, float]]:
    """Choose an example as visitor after visitor: seconds from click to decision, and of the app's processor."""
    times = []
    with app(model, port) as (address, process), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for turn in range(repeats):
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.goto(address)
            example = page.get_by_role("button", name=EXAMPLES[turn % 2])
            example.wait_for()
            before, start = process.cpu_times(), time.perf_counter()
            example.click()
            page.locator("#verdict .decision:not(.waiting)").wait_for()
            wall, after = time.perf_counter() - start, process.cpu_times()
            times.append((wall, after.user + after.system - before.user - before.system))
            page.close()
        browser.close()
    return times


def main(given: Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        output = str(Path(folder) / "preds.csv")
        predict = ["-m", "pneumo_hf", "predict", "--model", str(given.model), str(FILM), "--output", output]
        ways = {
            "help": lambda: run("-m", "pneumo_hf", "predict", "--help"),
            "predict": lambda: run(*predict),
            "app": lambda: visit(given.model, given.port),
        }
        times = {name: [way() for _ in range(given.repeats)] for name, way in ways.items()}
    times["click"] = click(given.model, given.port, given.repeats)
    rows = {
        name: {"seconds": [wall for wall, _ in found], "of_the_processor": [used for _, used in found]}
        for name, found in times.items()
    }
    write_part("serving", "start", {}, rows, model=given.model.name)


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--model", type=Path, default=MODEL)
    options.add_argument("--port", type=int, default=7875)
    main(options.parse_args())
