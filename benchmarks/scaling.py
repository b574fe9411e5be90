"""Several processes, many films, busy cores: `python benchmarks/scaling.py [PART ...]`.

  scoring       one process of `predict` on one core against two on two, without the start (imports, first batches)
  training      stage two's step in one process and in two, a thread each, the same global batch, over gloo
  shared_cores  scoring beside programs that keep every core busy: our commands let waiting threads sleep sooner
                (GOMP_SPINCOUNT), plain PyTorch lets them spin. Means, for which cores the others take is luck
  predict       memory of `predict` over many films in Parquet shards, and a SIGKILL on the way: every film once
  audit         peak memory and time of an audit against the number of films
Writes benchmarks/results/scaling.json, a part each.
"""

import argparse
import csv
import io
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import psutil
from common import MODEL, ROOT, SAMPLE, median_ratio, parser, take_turns, write_part
from datasets import Dataset, Features, Image, Value, load_dataset
from PIL import Image as Picture
from tqdm.auto import tqdm
from training import BATCH, LITE0, Clock, arguments_of, ms_a_film, stage_two

from pneumo_hf.data.listing import list_films
from pneumo_hf.data.pixels import decode_films
from pneumo_hf.data.sources import load_data
from pneumo_hf.inference.parts import Parts
from pneumo_hf.runtime import end_processes, keep_freed_memory
from pneumo_hf.training.models import load_model

TORCHRUN = ["-m", "torch.distributed.run", "--nproc_per_node"]
MIB = 1 << 20


def scoring(given: argparse.Namespace, folder: Path) -> None:
    """Both cores have their turn alone: one may be slower than the other."""
    few, many = 4 * 16, 112 * 16  # films, in batches that can be shared evenly
    shards = [str(SAMPLE / "test-*.parquet"), str(SAMPLE / "train-*.parquet")]
    films = load_dataset("parquet", data_files=shards, split="train", cache_dir=str(folder))
    for count in (few, many):
        (folder / str(count)).mkdir()
        for half in range(2):
            own = films.select(range(half * count // 2, (half + 1) * count // 2))
            own.to_parquet(folder / str(count) / f"films-{half}.parquet")
    first, second = sorted(os.sched_getaffinity(0))[:2]
    places = {"on one core": [first], "on the other": [second], "on both": [first, second]}
    sizes = {"few": few, "all": many}
    ways = {
        f"{size} {place}": partial(score, cores, folder / str(count), count)
        for size, count in sizes.items()
        for place, cores in places.items()
    }
    rows = take_turns(ways, given.repeats)
    medians = {way: statistics.median(taken) for way, taken in rows.items()}
    *alone, both = ((many - few) / (medians[f"all {place}"] - medians[f"few {place}"]) for place in places)
    rates = {"1": statistics.mean(alone), "2": both}
    ratios = {"scoring_scaling_2proc": rates["2"] / rates["1"]}
    write_part("scaling", "scoring", ratios, rows, films_a_second=rates, films=many, unit="s")


def score(cores: list[int], films: Path, expected: int) -> float:
    """Seconds from the launch of a process for every core to the end; every film must have been scored once."""
    shares = [[films]] if len(cores) == 1 else [[shard] for shard in sorted(films.iterdir())]
    outputs = [films.with_name(f"{time.monotonic_ns()}-{core}.csv") for core in cores]
    environment, start = {**os.environ, "OMP_NUM_THREADS": "1"}, time.perf_counter()
    predict = [sys.executable, "-m", "pneumo_hf", "predict", "--model", str(MODEL), "--device", "cpu"]
    processes = [
        subprocess.Popen(
            [*predict, *map(str, share), "--output", str(output)],
            env=environment,
            stderr=subprocess.DEVNULL,
            preexec_fn=partial(os.sched_setaffinity, 0, [core]),
        )
        for core, share, output in zip(cores, shares, outputs, strict=True)
    ]
    assert not any(process.wait() for process in processes)
    taken = time.perf_counter() - start
    paths = []
    for output in outputs:
        with output.open() as file:
            paths += [row["path"] for row in csv.DictReader(file)]
    assert len(paths) == len(set(paths)) == expected, f"{len(paths)} rows of {len(set(paths))} films, not {expected}"
    return taken


def training(given: argparse.Namespace, folder: Path) -> None:
    def launch(processes: int) -> float:
        command = [sys.executable, *TORCHRUN, str(processes), __file__, "--process_of", str(processes)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        command += ["--folder", str(folder)]
        return float(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout)

    rows = take_turns({str(processes): partial(launch, processes) for processes in (1, 2)}, given.repeats)
    ratios = {"training_scaling_2proc": median_ratio(rows["1"], rows["2"])}
    write_part("scaling", "training", ratios, rows, batch_size=BATCH, unit="ms a film")


def train_process(processes: int, folder: Path) -> None:
    """One of the processes of `training`; the first prints milliseconds a film of the global batch."""
    keep_freed_memory()
    share = ("--per_device_train_batch_size", str(BATCH // processes), "--use_cpu", "true")
    arguments = arguments_of("lite0", LITE0, folder, *share)
    with arguments.training.main_process_first():
        image_processor = load_model(arguments.model, folder)[1]
        films, _ = decode_films(load_data(SAMPLE)["train"], image_processor, folder)
    clock, out = Clock(), sys.stdout
    sys.stdout = sys.stderr  # Trainer may print
    stage_two(arguments, films, clock)
    if arguments.training.process_index == 0:
        print(ms_a_film(clock.own), file=out)
    end_processes()


SCORE = f"""
import sys, time
import torch
from pneumo_hf.inference.predictor import Predictor

predictor = Predictor({str(MODEL)!r}, device="cpu")
films = torch.randint(0, 256, (int(sys.argv[1]), 1, 224, 224), dtype=torch.uint8)
for _ in range(3):
    predictor.logits(films)
scored, start = 0, time.perf_counter()
while time.perf_counter() < start + 4:
    predictor.logits(films)
    scored += len(films)
print(1000 * (time.perf_counter() - start) / scored)
"""
OURS = "from pneumo_hf import runtime; runtime.before_imports()"


def shared_cores(given: argparse.Namespace, folder: Path) -> None:
    others = {"alone": 0, "beside others": len(os.sched_getaffinity(0))}
    ways: dict[str, Callable[[], float]] = {
        f"{how}, {where}, {films}": partial(milliseconds, how == "ours", others[where], batch_size)
        for where in others
        for films, batch_size in {"batches": 16, "one by one": 1}.items()
        for how in ("ours", "plain")
    }
    rows = take_turns(ways, given.repeats)

    def speedup(where: str, films: str) -> float:
        plain, ours = (statistics.mean(rows[f"{how}, {where}, {films}"]) for how in ("plain", "ours"))
        return plain / ours

    ratios = {
        "shared_cores_speedup": speedup("beside others", "batches"),
        "shared_cores_speedup_single": speedup("beside others", "one by one"),
        "own_cores_speedup": speedup("alone", "batches"),
        "own_cores_speedup_single": speedup("alone", "one by one"),
    }
    write_part("scaling", "shared_cores", ratios, rows, others=others["beside others"], unit="ms a film")


def milliseconds(ours: bool, others: int, batch_size: int) -> float:
    """For a film, as our commands start or as Python does, beside so many other programs."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GOMP_", "OMP_"))}
    command = [sys.executable, "-c", (OURS if ours else "") + SCORE, str(batch_size)]
    with ExitStack() as stack:
        for _ in range(others):
            other = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(other.kill)
        return float(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout)


def predict(given: argparse.Namespace, folder: Path) -> None:
    """Resident memory of the process tree is sampled all along."""
    backend, count = "onnx" if (MODEL / "onnx" / "model.onnx").exists() else "torch", given.films
    kill_at = random.Random(0).uniform(0.2, 0.8)  # of the films
    names = write_shards(folder / "shards", count)
    output = folder / "preds.csv"
    parts = Parts(str(output))
    command = [sys.executable, "-m", "pneumo_hf", "predict", "--model", str(MODEL), "--backend", backend]
    command += ["--device", "cpu", str(folder / "shards"), "--output", str(output)]
    killed = watch(command, parts, lambda: done(parts) >= kill_at * count)
    found = done(parts)
    assert not output.exists()
    resumed = watch(command, parts, lambda: False)
    with output.open(newline="") as file:
        paths = [row["path"] for row in csv.DictReader(file)]
    assert paths == names, "a film is missing, twice, or out of its place"
    facts = {"backend": backend, "films_on_disk_when_killed": found, "films_in_the_csv": len(paths)}
    facts |= {"every_film_once_and_in_order": True, "peak_mib": max(row["mib"] for row in killed + resumed)}
    rows = {"until_the_kill": killed[::48], "resumed": resumed[::48]}
    ratios = {"memory_second_half_growth": max(second_half_growth(row) for row in (killed, resumed))}
    write_part("scaling", "predict", ratios, rows, films=count, **facts)


def write_shards(folder: Path, count: int) -> list[str]:
    """Write the sample's films in turn, unlabelled, each under a name of its own."""
    pictures = [row["image"]["bytes"] for row in list_films(SAMPLE)]
    names = [f"film-{number:08d}.jpeg" for number in range(count)]
    features = Features({"image": Image(), "file_name": Value("string")})
    folder.mkdir()
    for start in tqdm(range(0, count, 1000), desc="Writing shards", unit="shard"):
        numbers = range(start, min(start + 1000, count))
        images = [{"bytes": pictures[number % len(pictures)], "path": None} for number in numbers]
        columns = {"image": images, "file_name": names[start : numbers.stop]}
        Dataset.from_dict(columns, features=features).to_parquet(folder / f"films-{start:08d}.parquet")
    return names


def watch(command: list[str], parts: Parts, enough: Callable[[], bool]) -> list[dict[str, float]]:
    """Run until it ends or there is `enough`, when the process tree gets SIGKILL; memory by the films scored."""
    rows, start = [], time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        mib = sum(one.memory_info().rss for one in tree if one.is_running()) / MIB
        rows.append({"seconds": time.perf_counter() - start, "films": done(parts), "mib": mib})
        if enough():
            for victim in reversed(tree):
                victim.kill()
            process.wait()
            return rows
        time.sleep(0.25)
    assert process.returncode == 0, command
    return rows[:-1]  # the last may be of a process about to end


def done(parts: Parts) -> int:
    return sum(map(len, parts.done()))


def second_half_growth(rows: list[dict[str, float]]) -> float:
    """Mean memory of the last quarter of the films scored in a run over that of the third: 1 where it is flat."""
    begin = next((row["films"] for row in rows if row["films"]), 0)
    done = [row["mib"] for row in rows if row["films"] > begin]
    if len(done) < 4:
        raise SystemExit("too few films to see how memory grows: give more --films")
    quarters = np.array_split(np.array(done), 4)
    return float(quarters[3].mean() / quarters[2].mean())


AUDIT = """
import json, resource, sys, time
from pneumo_hf.__main__ import main
start = time.perf_counter()
main(["audit", sys.argv[1], "--output_dir", sys.argv[2]])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"seconds": time.perf_counter() - start, "peak_mib": peak}))
"""


def audit(given: argparse.Namespace, folder: Path) -> None:
    rows = []
    for size in given.sizes:
        archive, output = folder / f"{size}.zip", folder / "audit"
        write_tiny_films(archive, size)
        command = [sys.executable, "-c", AUDIT, str(archive), str(output)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads((output / "audit.json").read_text())
        assert found["n"] == found["n_readable"] == size and not found["leakage"]["patients"]
        rows.append({"films": size, **json.loads(done.stdout.splitlines()[-1])})
        archive.unlink()
    last = rows[-1]
    ratios = {
        f"peak_memory_{last['films']}_films_over_{row['films']}": last["peak_mib"] / row["peak_mib"]
        for row in rows[:-1]
    }
    more = (last["peak_mib"] - rows[0]["peak_mib"]) * 1024 / (last["films"] - rows[0]["films"])
    write_part("scaling", "audit", ratios, rows, kib_more_a_film=more)


def write_tiny_films(archive: Path, count: int, side: int = 48) -> None:
    """Write smooth random films in Kaggle's layout, a patient to every two, a tenth of them the test."""
    draw = np.random.default_rng(0)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as opened:
        for number in tqdm(range(count), desc=f"Writing {count} films", unit="film"):
            rough = Picture.fromarray(draw.integers(0, 255, (7, 7), dtype=np.uint8))
            film = np.asarray(rough.resize((side, side), Picture.Resampling.BICUBIC)) // 2
            film = film + draw.integers(0, 40, (side, side), dtype=np.uint8)
            buffer, patient = io.BytesIO(), number // 2
            Picture.fromarray(film).save(buffer, "JPEG", quality=80)
            split = "test" if patient % 10 == 0 else "train"
            normal = patient % 20 in (0, 1, 5, 9, 13)  # a quarter of each split or more
            label, name = ("NORMAL", "IM-{:06d}-{:04d}") if normal else ("PNEUMONIA", "person{}_virus_{}")
            opened.writestr(f"{split}/{label}/{name.format(patient, number)}.jpeg", buffer.getvalue())


PARTS = {"scoring": scoring, "training": training, "shared_cores": shared_cores, "predict": predict, "audit": audit}

if __name__ == "__main__":
    options = parser(__doc__, PARTS)
    options.add_argument("--films", type=int, default=20_000, help="of predict (default: 20000)")
    options.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 30_000, 100_000], help="of audit")
    options.add_argument("--process_of", type=int, help=argparse.SUPPRESS)
    options.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.process_of:
        train_process(given.process_of, given.folder)
    else:
        for part in given.parts or PARTS:
            with tempfile.TemporaryDirectory() as root:
                PARTS[part](given, Path(root))
