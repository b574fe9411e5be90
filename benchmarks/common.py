"""What the benchmarks share: films as large as the originals, repeats that take turns, and the file of the result."""

import argparse
import io
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from pneumo_hf.data.sources import load_data
from pneumo_hf.labels import LABELS

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SAMPLE = ROOT / "data" / "chest_xray_sample"
MODEL = ROOT / "models" / "pneumo-efficientnet"
SIZE, QUALITY, GRAIN = (1522, 1221), 90, 3  # pixels; of JPEG; in grey levels
FILMS = (
    f"films of the embedded sample scaled up to {SIZE[0]} x {SIZE[1]} pixels, with noise of {GRAIN} grey levels, as "
    f"JPEG of quality {QUALITY}: as large on disk, and as slow to decode, as the originals of that size"
)
BF16 = torch.accelerator.is_available() or torch.cpu._is_avx512_bf16_supported()


def full_resolution_jpegs(count: int) -> list[tuple[bytes, int]]:
    """Make so many different train films of the sample at the size of the originals: `[(JPEG file, label)]`."""
    films = load_data(SAMPLE)["train"].shuffle(seed=0).select(range(count))
    random = np.random.default_rng(0)
    grain = random.normal(0, GRAIN, (SIZE[1] + 64, SIZE[0] + 64)).astype(np.float32)
    jpegs = []
    for film in tqdm(films, desc="Writing full-size films", unit="film"):
        small = Image.open(io.BytesIO(film["image"]["bytes"])).convert("L")
        large = np.asarray(small.resize(SIZE, Image.Resampling.BICUBIC), dtype=np.float32)
        top, left = random.integers(0, 64, 2)
        large = large + grain[top : top + SIZE[1], left : left + SIZE[0]]
        buffer = io.BytesIO()
        Image.fromarray(large.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=QUALITY)
        jpegs.append((buffer.getvalue(), film["label"]))
    return jpegs


def write_films(folder: Path, jpegs: list[tuple[bytes, int]]) -> Path:
    """Write `folder/train/LABEL/number.jpeg`, which load_data and imagefolder both read."""
    for number, (content, label) in enumerate(jpegs):
        path = folder / "train" / LABELS[label] / f"{number:05d}.jpeg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def take_turns(ways: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Measure each way `repeats` times, A B A B ...: what disturbs the machine then meets them all alike."""
    measured: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats):
        for name, way in ways.items():
            measured[name].append(way())
            print(f"{repeat + 1}/{repeats} {name}: {measured[name][-1]:.4g}", file=sys.stderr)
    return measured


def median_ratio(slow: list[float], fast: list[float]) -> float:
    """How many times less the fast way takes, by the medians."""
    return statistics.median(slow) / statistics.median(fast)


def write_part(name: str, part: str, ratios: dict[str, float], rows: dict | list, **facts: Any) -> None:
    """Write or replace one part of `benchmarks/results/NAME.json`; its top-level ratios are those of all parts."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    parts = json.loads(path.read_text())["parts"] if path.exists() else {}
    parts[part] = _rounded({"ratios": ratios, **facts, "rows": rows, "machine": machine()})
    lines = []  # a line a fact: JSON that diffs well and stays short
    for key, value in parts.items():
        facts_of = ",\n".join(f'  "{fact}": {json.dumps(content)}' for fact, content in value.items())
        lines.append(f'"{key}": {{\n{facts_of}\n}}')
    all_ratios = {ratio: value for one in parts.values() for ratio, value in one["ratios"].items()}
    path.write_text(f'{{\n"ratios": {json.dumps(all_ratios)},\n"parts": {{\n{",".join(lines)}\n}}\n}}\n')
    print(json.dumps(_rounded(ratios)))


def machine() -> dict:
    """What the figures were measured on, and how busy it was."""
    names = ("torch", "transformers", "onnxruntime", "pillow", "kornia")
    return {
        "cpu": _cpu_name(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "bf16": BF16,
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        **{name: version(name) for name in names},
    }


def own_peak_mib() -> float:
    """This process's peak resident memory; `ru_maxrss` would count that of the process which started it (Linux)."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


def parser(description: str, parts: dict[str, Callable] | None = None, repeats: int = 5) -> argparse.ArgumentParser:
    """Make the parser of a benchmark: its parts, all by default, and `--repeats`."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if parts:
        made.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(parts)} (default: all)")
    made.add_argument("--repeats", type=int, default=repeats, help="of each way, in turn (default: %(default)s)")
    return made


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
