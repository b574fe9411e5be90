"""The benchmarks' arithmetic, and the page that is written from their files; figures need a quiet machine."""

import io
import json
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from docs.write_performance import page
from pneumo_hf.errors import InputError
from pneumo_hf.data.patients import parse_file_name
from pneumo_hf.data.pixels import FilmDataset

ROOT = Path(__file__).parents[1]
SCRIPTS = (
    *("training_step", "training_auc", "data_cost", "frozen_stage", "serving", "scoring_scaling", "training_scaling"),
    "shared_cores",
)
MACHINE = {"cpu": "a CPU", "cpus": 2, "torch": "2.13.0", "bf16": True, "load_average": 0.1}


@pytest.fixture
def common(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import common

    return common


def test_the_ways_take_turns(common) -> None:
    order = []
    ways = {name: lambda name=name: order.append(name) or float(len(order)) for name in "AB"}
    assert common.take_turns(ways, 3) == {"A": [1, 3, 5], "B": [2, 4, 6]}
    assert order == list("ABABAB")
    assert common.median_ratio([9.0, 30.0, 8.0], [3.0, 1.0, 4.0]) == 3


def test_films_are_as_large_as_the_originals(common) -> None:
    (one, _), (other, _) = common.full_resolution_jpegs(2)
    film = Image.open(io.BytesIO(one))
    assert (film.size, film.mode) == ((1522, 1221), "L")
    assert one != other
    assert 200_000 < len(one) < 400_000  # bytes; originals of this size have 310,000


def test_the_peak_is_that_of_the_process_itself() -> None:
    ballast = np.ones(25_000_000)  # 191 MiB, which a process started here does not inherit
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r}); import common, numpy\n"
        "before = common.own_peak_mib()\n"
        "ballast = numpy.ones(25_000_000)\n"
        "print(before, common.own_peak_mib())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    before, after = map(float, done.stdout.split())
    assert after - before > 150
    assert len(ballast)


def test_a_result_has_ratios_rows_and_the_machine(common, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    common.write_result("x", {"a_vs_b": 1.23456}, {"a": [2.0]}, unit="s")
    result = json.loads((tmp_path / "x.json").read_text())
    assert (result["ratios"], result["rows"], result["unit"]) == ({"a_vs_b": 1.235}, {"a": [2.0]}, "s")
    assert set(result["machine"]) >= {*MACHINE}


def test_the_page_shows_every_result(tmp_path: Path) -> None:
    def write(name: str, **result) -> None:
        (tmp_path / f"{name}.json").write_text(json.dumps({**result, "machine": MACHINE}))

    write("training_step_lite0", ratios={"step_vs_ceiling_lite0": 0.934}, recipe="flagship", batch_size=16,
          films="made", rows={"ours": [50, 51, 70], "ceiling": [46.6], "usual": [97.2]})  # fmt: skip
    write("training_auc", rows={"ours": [0.9612, 0.9598], "usual": [0.9607, 0.9601]}, films=320, epochs=3)
    write("data_cost", ratios={"gather_vs_decode": 812.0}, rows={"gather": [0.011], "decode": [8.91]},
          data_share_of_later_epochs=0.0002, cache_films_a_second_and_core=101.4, cache_peak_mib=612.0,
          peak_mib_before=588.0, cache_mib=9.19)  # fmt: skip
    write("frozen_stage", ratios={"frozen_stage_speedup": 8.8}, rows={"ours": [11.0], "usual": [96.3]}, epochs=10,
          train_films=320, validation_films=80, test_roc_auc={"ours": 0.9511, "usual": 0.9512})  # fmt: skip
    row = {"single_ms": {"p50": 17.6, "p95": 21.2},
           "parts_ms": {"decode": 4.61, "resize": 5.4, "model": 6.51, "model_and_detector": 6.93},
           "batch16_ms_a_film": [16.3], "batch16_films_a_second": 61.4, "peak_mib": 811.0}  # fmt: skip
    write("serving", ratios={"serving_speedup_single": 3.14}, rows={"onnx": row}, model="shipped",
          largest_difference=1.7e-6)  # fmt: skip
    write("scoring_scaling", ratios={"scoring_scaling_2proc": 1.91}, rows={}, films=1823,
          films_a_second={"1": 20.5, "2": 39.2})  # fmt: skip
    write("shared_cores", ratios={"shared_cores_speedup": 6.1}, others=2,
          rows={f"{how}, {where}, {films}": [ms] for (how, where, films), ms in zip(
                product(("ours", "plain"), ("alone", "beside others"), ("batches", "one by one")),
                (6.1, 7.2, 12.5, 14.5, 6.3, 7.4, 77.7, 88.8), strict=True)})  # fmt: skip
    write("training_scaling", ratios={"training_scaling_2proc": 1.71}, rows={"1": [60.1], "2": [35.2]}, batch_size=16)
    write("whole_job", ratios={"training_share": 0.7}, rows={"stage two": 210.0}, total=300.0, recipe="quickstart")
    text = page(tmp_path)
    for shown in (
        *(
            "| `step_vs_ceiling_lite0` | 0.934 | ≥ 0.9 | training_step.py |",
            "| `flagship` | 16 | 51 | 46.6 | 97.2 |",
            "0.02 %",
            "0.9511",
        ),
        *(
            "| onnx | 17.6 | 21.2 | 4.61 | 5.4 | 6.51 | 6.93 | 16.3 | 61.4 | 811 |",
            "39.2 with two",
            "35.2 with two",
            "| batches | 6.1 (6.1) | 6.3 (6.3) | 12.5 (12.5) | 77.7 (77.7) |\n| one by one | 7.2 (7.2) |",
            "ours 0.9612, 0.9598, usual 0.9607, 0.9601",
            "stage two | 210 |",
        ),
    ):
        assert shown in text
    assert "sixteen" not in page(tmp_path / "nothing yet")


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_teaches(script: str) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert f"benchmarks/results/{script}" in done.stdout.replace("\n", "") and "--repeats" in done.stdout


def test_a_series_is_held_out_whole(common) -> None:
    from ablations import hold_out_series

    names = ["IM-0115-0001", "IM-0116-0001", "NORMAL2-IM-0383-0001", "NORMAL2-IM-0384-0001", "person1_virus_1"]
    names += ["NORMAL2-IM-0385-0001", "IM-0117-0001", "person2_bacteria_2"]  # of validation
    rows = [dict(zip(("patient_id", "subtype"), parse_file_name(name), strict=True), file_name=name) for name in names]
    table = Dataset.from_list([{**row, "label": int(row["file_name"].startswith("person"))} for row in rows])
    random = np.random.default_rng(0)
    pixels = random.integers(256, size=(8, 1, 4, 4), dtype=np.uint8)
    thumbnails = random.standard_normal((8, 56, 56)).astype(np.float32)
    seen = np.arange(8), np.array(list("abccefgh")), thumbnails, np.array([""] * 8), np.ones((8, 2))
    films = FilmDataset(table, pixels, *seen)
    parts = hold_out_series(films.select(np.arange(5)), films.select(np.arange(5, 8)), "NORMAL2")
    assert sorted(parts["validation"].table["file_name"]) == sorted([*names[2:4], names[5], names[7]])
    assert sorted(parts["train"].table["file_name"]) == sorted([*names[:2], names[4], names[6]])
    for part in parts.values():
        for row, name in zip(part.rows, part.table["file_name"], strict=True):
            assert names[row] == name  # the pixels stay with their film
    films.contents[2] = "a"  # a copy in the other series
    with pytest.raises(InputError, match="IM-0115-0001"):
        hold_out_series(films.select(np.arange(5)), films.select(np.arange(5, 8)), "NORMAL2")
