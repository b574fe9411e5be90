"""Peak memory and time of an audit against the number of films: `python benchmarks/audit_memory.py`.

Writes films of 48 x 48 pixels, each of its own, into one zip a size, audits each in a process of its own, and notes
that process's peak resident memory. Writes benchmarks/results/audit_memory.json and .png.
"""

import argparse
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from tqdm.auto import tqdm

RESULTS = Path(__file__).parent / "results"
SIDE = 48
AUDIT = """
import json, resource, sys, time
from pneumo_hf.__main__ import main
start = time.perf_counter()
main(["audit", sys.argv[1], "--output_dir", sys.argv[2]])
print(json.dumps({"seconds": time.perf_counter() - start,
                  "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""


def main(sizes: list[int]) -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            archive = Path(folder) / f"{size}.zip"
            write_films(archive, size)
            rows.append({"films": size, **audit(archive, Path(folder) / "audit")})
            archive.unlink()
            print(rows[-1], file=sys.stderr)
    smallest, largest = rows[0], rows[-1]
    more = (largest["peak_mib"] - smallest["peak_mib"]) * 1024 / (largest["films"] - smallest["films"])
    result = {
        "ratios": {
            f"peak_memory_{largest['films']}_films_over_{row['films']}": largest["peak_mib"] / row["peak_mib"]
            for row in rows[:-1]
        },
        "kib_more_a_film": more,
        "rows": rows,
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "pillow": version("pillow")},
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "audit_memory.json").write_text(json.dumps(result, indent=2) + "\n")
    draw(rows, RESULTS / "audit_memory.png")


def write_films(archive: Path, films: int) -> None:
    """Kaggle's layout: smooth random films, a patient to every two, a tenth of them the test."""
    random = np.random.default_rng(0)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as opened:
        for number in tqdm(range(films), desc=f"Writing {films} films", unit="film"):
            rough = Image.fromarray(random.integers(0, 255, (7, 7), dtype=np.uint8))
            film = np.asarray(rough.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) // 2
            film = film + random.integers(0, 40, (SIDE, SIDE), dtype=np.uint8)
            buffer, patient = io.BytesIO(), number // 2
            Image.fromarray(film).save(buffer, "JPEG", quality=80)
            split = "test" if patient % 10 == 0 else "train"
            normal = patient % 20 in (0, 1, 5, 9, 13)  # a quarter of each split or more
            label, name = ("NORMAL", "IM-{:06d}-{:04d}") if normal else ("PNEUMONIA", "person{}_virus_{}")
            opened.writestr(f"{split}/{label}/{name.format(patient, number)}.jpeg", buffer.getvalue())


def audit(archive: Path, output_dir: Path) -> dict[str, float]:
    command = [sys.executable, "-c", AUDIT, str(archive), str(output_dir)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads((output_dir / "audit.json").read_text())
    assert found["n"] == found["n_readable"] == int(archive.stem)
    assert not found["leakage"]["patients"]
    measured = json.loads(done.stdout.splitlines()[-1])
    return {key: round(value, 1) for key, value in measured.items()}


def draw(rows: list[dict], path: Path) -> None:
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot([row["films"] for row in rows], [row["peak_mib"] for row in rows], marker="o", color="#0f766e")
    axes.set(xlabel="films", ylabel="peak resident memory, MiB", title="python -m pneumo_hf audit", xscale="log")
    axes.set_ylim(0, 1.25 * max(row["peak_mib"] for row in rows))
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 30_000, 100_000])
    main(parser.parse_args().sizes)
