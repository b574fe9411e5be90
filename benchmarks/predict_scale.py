"""Memory of `predict` over many films, and a kill on the way: `python benchmarks/predict_scale.py --films 20000`.

Writes Parquet shards of the embedded sample's films, over and over, scores them with the shipped model, kills that
with SIGKILL at a random moment, gives the same command again, and checks that every film is in the CSV once, in order.
Resident memory of the process tree is sampled all along. Writes benchmarks/results/predict_scale.json.
"""

import argparse
import csv
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import psutil
from datasets import Dataset, Features, Image, Value
from tqdm.auto import tqdm

from pneumo_hf.data.listing import list_films

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
SAMPLE = ROOT / "data" / "chest_xray_sample"
MODEL = ROOT / "models" / "pneumo-efficientnet"
SHARD = 1_000  # films
SECONDS = 0.25  # between two samples of the memory
SHOWN = 8  # of which every so many-th is written
MIB = 1 << 20


def main(films: int, seed: int) -> None:
    backend = "onnx" if (MODEL / "onnx" / "model.onnx").exists() else "torch"
    kill_at = random.Random(seed).uniform(0.2, 0.8)  # of the films
    with tempfile.TemporaryDirectory() as folder:
        write_shards(Path(folder) / "shards", films)
        output = Path(folder) / "preds.csv"
        part = Path(folder) / "preds.csv.parts" / "0-of-1.jsonl"
        command = [sys.executable, "-m", "pneumo_hf", "predict", "--model", str(MODEL), "--backend", backend]
        command += ["--device", "cpu", str(Path(folder) / "shards"), "--output", str(output)]
        killed = watch(command, part, lambda: lines_of(part) >= kill_at * films)
        found = lines_of(part)
        assert not output.exists()
        resumed = watch(command, part, lambda: False)
        with output.open(newline="") as file:
            paths = [row["path"] for row in csv.DictReader(file)]
    assert paths == [name_of(number) for number in range(films)], "a film is missing, twice, or out of its place"
    growth = [second_half_growth(rows) for rows in (killed, resumed)]
    result = {
        "ratios": {"memory_second_half_growth": max(growth)},
        "films": films,
        "backend": backend,
        "films_on_disk_when_killed": found,
        "films_in_the_csv": len(paths),
        "every_film_once_and_in_order": True,  # asserted above
        "peak_mib": max(row["mib"] for row in killed + resumed),
        "rows": {"until_the_kill": killed[::SHOWN], "resumed": resumed[::SHOWN]},
        "machine": {
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            "torch": version("torch"),
            "pyarrow": version("pyarrow"),
        },
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "predict_scale.json").write_text(json.dumps(result, indent=1) + "\n")
    print({key: value for key, value in result.items() if key not in ("rows", "machine")}, file=sys.stderr)


def name_of(number: int) -> str:
    return f"film-{number:08d}.jpeg"


def write_shards(folder: Path, films: int) -> None:
    """The sample's films in turn, each under a name of its own, unlabelled."""
    pictures = [row["image"]["bytes"] for row in list_films(SAMPLE)]
    features = Features({"image": Image(), "file_name": Value("string")})
    folder.mkdir()
    for start in tqdm(range(0, films, SHARD), desc="Writing shards", unit="shard"):
        numbers = range(start, min(start + SHARD, films))
        columns = {
            "image": [{"bytes": pictures[number % len(pictures)], "path": None} for number in numbers],
            "file_name": [name_of(number) for number in numbers],
        }
        Dataset.from_dict(columns, features=features).to_parquet(folder / f"films-{start:08d}.parquet")


def watch(command: list[str], part: Path, enough: Callable[[], bool]) -> list[dict[str, float]]:
    """Run until it ends or there is `enough`, when the process tree gets SIGKILL; memory by the films scored."""
    rows, start = [], time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        mib = resident(process.pid) / MIB
        rows.append({"seconds": round(time.perf_counter() - start, 2), "films": lines_of(part), "mib": round(mib, 1)})
        if enough():
            for victim in (*psutil.Process(process.pid).children(recursive=True), process):
                victim.kill()
            process.wait()
            return rows
        time.sleep(SECONDS)
    assert process.returncode == 0, command
    return rows[:-1]  # the last may be of a process about to end


def resident(pid: int) -> int:
    """Bytes of resident memory of a process and all that it started."""
    total = 0
    try:
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            total += one.memory_info().rss
    except psutil.NoSuchProcess:  # ended meanwhile
        pass
    return total


def lines_of(part: Path) -> int:
    try:
        return part.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def second_half_growth(rows: list[dict[str, float]]) -> float:
    """Mean memory of the last quarter of the films scored in a run over that of the third: 1 where it is flat."""
    begin = next((row["films"] for row in rows if row["films"]), 0)
    done = [row for row in rows if row["films"] > begin]
    if not done:
        raise SystemExit("too few films to tell how memory goes: give more --films")
    quarters = np.array_split(np.array([row["mib"] for row in done]), 4)
    return float(quarters[3].mean() / quarters[2].mean())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=20_000, help="how many (default: 20000)")
    parser.add_argument("--seed", type=int, default=0, help="of the moment of the kill (default: 0)")
    arguments = parser.parse_args()
    main(arguments.films, arguments.seed)
